"""GeoJSON read back as the polygons that it was written from."""

import gzip
import json

import numpy as np


def read(path):
    """(label, polygons) of each feature; rings are (V, 2) without the first vertex at the end."""
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    for feature in json.loads(text)["features"]:
        parts = feature["geometry"]["coordinates"]
        parts = [parts] if feature["geometry"]["type"] == "Polygon" else parts
        polygons = [[np.array(ring[:-1], float) for ring in rings] for rings in parts]
        yield feature["properties"]["metadata"]["label"], polygons
