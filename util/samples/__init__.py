"""What a sample is between the data and the network: its containers, its text, the size and values of its frames."""
