"""Flax linen modules, one family a file."""
