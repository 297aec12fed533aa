"""Files, whatever their content: read in any encoding, written whole or not at all."""
