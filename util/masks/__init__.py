"""Masks and boxes: their forms in files, their scores, and the submissions made of them."""
