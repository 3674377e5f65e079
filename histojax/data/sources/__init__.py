"""Sources: random access to named images with their labels, split by patient."""
