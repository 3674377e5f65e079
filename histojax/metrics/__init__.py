"""Measures of image quality and overlap."""
