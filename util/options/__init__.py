"""Options of command lines: the types of their values. Standard library only, so parsing loads nothing else."""
