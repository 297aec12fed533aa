"""Masks and boxes: operations on them, their forms in files, their scores, and submissions made of masks."""
