"""Files whatever is in them: read in any encoding, written whole or not at all."""
