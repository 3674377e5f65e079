"""Between the maps of a network and the instances of nuclei, in both directions."""
