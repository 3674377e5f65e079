"""Files for other programs: outlines as GeoJSON, tables."""
