"""histojax: enhance H&E histology images and find their nuclei, in JAX."""

__version__ = "0.1.0"
