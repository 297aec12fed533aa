"""Video and pictures, in and out: read from disk, drawn on, and written."""
