"""Images of any size, region by region: read, enhanced, their nuclei found and written."""
