"""Files, whatever their content: read in any encoding and up to a size, written whole or not at all."""
