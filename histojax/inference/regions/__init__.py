"""Slides: what is tissue, nuclei region by region, and the files and page about one."""
