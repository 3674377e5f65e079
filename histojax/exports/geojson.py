"""Nuclei as GeoJSON for QuPath: a feature a nucleus, written in bounded memory.

A file is a FeatureCollection (RFC 7946) with one feature a line. Features are detections of QuPath
(0.4 and later read their measurements) with the label in `metadata`. Coordinates are px of the
input image, origin top left, y downward: a program for maps has to be told that they are no
degrees. Ids depend on the image's name and the label alone.
"""

import contextlib
import gzip
import io
import itertools
import json
import operator
import pathlib
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from histojax.exports.tables import texts
from histojax.files import atomic_path
from histojax.nuclei.outlines import Outlines

_SPACE = uuid.UUID("5d1c6f8e-38b5-4d39-9a35-6f2d0c4b7e11")
# Level 9 takes three times as long for 3 % of the size.
_LEVEL = 4
_DECIMALS = 3
# Nuclei that are turned into text at once, about 20 KiB each.
_BLOCK = 4_096
# The outlines are the positions.
_LEFT_OUT = ("label", "class", "x_px", "y_px")
_dumps = json.JSONEncoder(separators=(",", ":")).encode


def write(
    path: pathlib.Path,
    image: str,
    outlines: Outlines,
    table: Mapping[str, np.ndarray],
    scale: tuple[float, float] = (1.0, 1.0),
    offset: tuple[float, float] = (0.0, 0.0),
    of: str = "input image",
) -> None:
    """Writes NAME.geojson, or NAME.geojson.gz compressed.

    Args:
        path: final name.
        image: name of the input image, which the ids are made of.
        outlines, table: of the same labels, in their order. The table's column `class` is QuPath's
            classification, and its other columns (N,) are the measurements; a value that is not
            finite is left out.
        scale, offset: (x, y) each; coordinates are the outlines' px times scale plus offset, to
            0.001 px.
        of: what the coordinates are px of, in words.

    Raises:
        DiskError: the disk refuses.
        ValueError: the table has other labels.
    """
    if table["label"].tolist() != np.unique(outlines.labels).tolist():
        raise ValueError("the table and the outlines have different labels")
    note = f"px of the {of}, origin top left, x to the right, y downward"
    moved = {"scale": [*map(float, scale)], "offset": [*map(float, offset)]}
    about = {"image": image, "coordinates": note, **moved}
    head = {"type": "FeatureCollection", "properties": about, "features": []}
    kept = {name: values for name, values in table.items() if name not in _LEFT_OUT}
    names = [_dumps(name) + ":" for name in kept]
    groups = table.get("class", np.full(len(table["label"]), ""))
    with atomic_path(path) as beside, _opened(beside, path.suffix == ".gz") as file:
        file.write(_dumps(head)[:-2])
        for number, block in enumerate(outlines.blocks(_BLOCK)):
            own = slice(number * _BLOCK, (number + 1) * _BLOCK)
            columns = [texts(values[own]) for values in (table["label"], *kept.values())]
            shapes = _geometries(block, scale, offset)
            rows = zip(shapes, groups[own], *columns, strict=True)
            for place, (shape, group, label, *row) in enumerate(rows):
                numbers = ",".join([a + b for a, b in zip(names, row, strict=True) if b])
                kind = f'"classification":{{"name":{_dumps(str(group))}}},' if group else ""
                file.write(
                    f'{"," if number or place else ""}\n{{"type":"Feature",'
                    f'"id":"{uuid.uuid5(_SPACE, f"{image}/{label}")}",'
                    f'"geometry":{shape},'
                    f'"properties":{{"objectType":"detection",{kind}'
                    f'"metadata":{{"label":{label}}},"measurements":{{{numbers}}}}}}}'
                )
        file.write("\n]}\n")


def _geometries(
    outlines: Outlines, scale: tuple[float, float], offset: tuple[float, float]
) -> Iterator[str]:
    """The JSON of each label; the first vertex of a ring stands again at the end."""
    points = np.round(outlines.points * scale + offset, _DECIMALS)
    # Few coordinates differ: a text for each takes less time than one for each point.
    values, index = np.unique(points, return_inverse=True)
    whole = values.astype(np.int64)
    known = list(map(repr, (whole if (whole == values).all() else values).tolist()))
    across, down = ([known[i] for i in axis] for axis in index.reshape(-1, 2).T.tolist())
    pairs = [f"[{x},{y}]" for x, y in zip(across, down, strict=True)]
    ends = itertools.pairwise(outlines.rings.tolist())
    rings = [",".join([*pairs[begin:end], pairs[begin]]) for begin, end in ends]
    ends = itertools.pairwise(outlines.polygons.tolist())
    polygons = [f"[[{'],['.join(rings[begin:end])}]]" for begin, end in ends]
    labelled = zip(outlines.labels.tolist(), polygons, strict=True)
    for _, group in itertools.groupby(labelled, operator.itemgetter(0)):
        parts = [polygon for _, polygon in group]
        kind, text = (
            ("MultiPolygon", f"[{','.join(parts)}]") if parts[1:] else ("Polygon", parts[0])
        )
        yield f'{{"type":"{kind}","coordinates":{text}}}'


@contextlib.contextmanager
def _opened(path: pathlib.Path, compressed: bool) -> Iterator[io.TextIOBase]:
    with contextlib.ExitStack() as stack:
        file: Any = stack.enter_context(path.open("wb"))
        if compressed:
            # Without name and time: the same nuclei give the same bytes.
            file = stack.enter_context(gzip.GzipFile("", "wb", _LEVEL, file, mtime=0))
        yield stack.enter_context(io.TextIOWrapper(file, encoding="utf-8", newline="\n"))
