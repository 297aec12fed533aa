"""Weights in files: checkpoints, the names of parameters, and what a run keeps."""
