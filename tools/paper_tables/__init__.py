"""What tools/paper.py knows and does, a module for each subcommand."""
