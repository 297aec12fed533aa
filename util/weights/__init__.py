"""Weights in files: checkpoints, the names of parameters, and the files that a run keeps."""
