"""Flax linen modules, one family a file; see `layers.Network` for the fields of all."""
