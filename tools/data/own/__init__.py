"""What ``tools/data/convert_own.py`` does: reads a user's videos, masks and table, and writes them for the loaders."""
