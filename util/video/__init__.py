"""Videos and pictures: reading them from disk, drawing on them, writing them."""
