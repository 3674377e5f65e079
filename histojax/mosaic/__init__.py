"""Overlapping fields without known places, joined: pairs, placement, light, the mosaic."""
