"""J and F measures and the protocols that average them."""
