"""What a pyramid is used for: masks to draw from, tissue for a mask, how good it is."""
