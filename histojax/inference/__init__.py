"""A trained network on any image, tile by tile; files in, results out."""
