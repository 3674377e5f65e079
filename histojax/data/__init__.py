"""Data: sources, degradation, stain, augmentation and the input pipeline."""
