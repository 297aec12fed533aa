"""Samples on their way from the data to the network: containers, texts, size and normalisation of frames."""
