"""What the options of a command line may be. Standard library only: parsing a command line loads nothing else."""
