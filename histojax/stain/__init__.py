"""Stains: optical density, separation, normalisation, jitter and the images to look like."""
