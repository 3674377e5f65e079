"""The renderer of synthetic tissue, its nuclei and its stains."""
