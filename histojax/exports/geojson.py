"""Nuclei as GeoJSON for QuPath: a feature a nucleus, written and read in bounded memory.

A file is a FeatureCollection (RFC 7946) with one feature a line; with the ending .gz it is
compressed. Features are detections of QuPath (0.4 and later read their measurements) with the label
in `metadata`. Coordinates are px of the input image, origin top left, y downward: a program for
maps has to be told that they are no degrees. Ids depend on the image's name and the label alone.
"""

import contextlib
import gzip
import io
import itertools
import json
import operator
import os
import pathlib
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from histojax.errors import UserError
from histojax.exports.tables import texts
from histojax.files import atomic_path
from histojax.nuclei.outlines import Outlines, Polygons

_SPACE = uuid.UUID("5d1c6f8e-38b5-4d39-9a35-6f2d0c4b7e11")
_ENDINGS = (".geojson", ".geojson.gz")
# Level 9 takes three times as long for 3 % of the size.
_LEVEL = 4
_DECIMALS = 3
# Nuclei that are turned into text at once, about 20 KiB each.
_BLOCK = 4_096
# The outlines are the positions.
_LEFT_OUT = ("label", "x_px", "y_px", "class")
_LAST = "]}\n"
_dumps = json.JSONEncoder(separators=(",", ":")).encode


@contextlib.contextmanager
def writing(
    path: str | os.PathLike[str],
    image: str,
    *,
    scale: float = 1.0,
    offset: tuple[float, float] = (0.0, 0.0),
    of: str = "input image",
) -> Iterator[Callable[..., None]]:
    """Opens NAME.geojson or NAME.geojson.gz; the function that it gives, `add`, writes nuclei.

    `add(outlines, table=None)` takes the outlines of some labels and their table (N,) with the same
    labels, in their order. Its column `class` is QuPath's classification, its other columns are the
    measurements; a missing one is left out. A label is written once a file.

    Args:
        image: name of the input image, which the ids are made of.
        scale, offset: coordinates are the outlines' px times scale plus offset (x, y), to 0.001 px.
        of: what the coordinates are px of, in words.

    Raises:
        UserError: another ending.
        DiskError: the disk refuses.
        ValueError: in `add`, labels that differ from the table's, or are written twice.
    """
    path = pathlib.Path(path)
    if not path.name.endswith(_ENDINGS):
        raise UserError(f"{path} does not end in {' or '.join(_ENDINGS)}: name it so")
    note = f"px of the {of}, origin top left, x to the right, y downward"
    moved = {"scale": float(scale), "offset": [*map(float, offset)]}
    about = {"image": image, "coordinates": note, **moved}
    head = {"type": "FeatureCollection", "properties": about, "features": []}
    seen: set[int] = set()
    with atomic_path(path) as beside, _opened(beside, path.suffix == ".gz") as file:
        file.write(_dumps(head)[:-2])

        def add(outlines: Outlines, table: Mapping[str, np.ndarray] | None = None) -> None:
            labels = np.unique(outlines.labels).tolist()
            if table is not None and table["label"].tolist() != labels:
                raise ValueError("the table and the outlines have different labels")
            if not seen.isdisjoint(labels):
                raise ValueError(f"label {min(seen & set(labels))} was written before")
            kept = {k: v for k, v in (table or {}).items() if k not in _LEFT_OUT}
            names = [_dumps(name) + ":" for name in kept]
            groups = (table or {}).get("class", [""] * len(labels))
            starts = range(0, len(labels), _BLOCK)
            for start, block in zip(starts, outlines.blocks(_BLOCK), strict=True):
                own = slice(start, start + _BLOCK)
                columns = [texts(values[own]) for values in kept.values()]
                rows = zip(*columns, strict=True) if kept else [()] * len(labels[own])
                shapes = _geometries(block, scale, offset)
                for (label, shape), row, group in zip(shapes, rows, groups[own], strict=True):
                    pairs = zip(names, row, strict=True)
                    numbers = ",".join([name + text for name, text in pairs if text])
                    kind = f'"classification":{{"name":{_dumps(str(group))}}},' if group else ""
                    file.write(
                        f'{"," if seen else ""}\n{{"type":"Feature",'
                        f'"id":"{uuid.uuid5(_SPACE, f"{image}/{label}")}",'
                        f'"geometry":{shape},'
                        f'"properties":{{"objectType":"detection",{kind}'
                        f'"metadata":{{"label":{label}}},"measurements":{{{numbers}}}}}}}'
                    )
                    seen.add(label)

        yield add
        file.write("\n" + _LAST)


def _geometries(
    outlines: Outlines, scale: float, offset: tuple[float, float]
) -> Iterator[tuple[int, str]]:
    """Each label and its JSON; the first vertex of a ring stands again at the end."""
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
    for label, group in itertools.groupby(labelled, operator.itemgetter(0)):
        parts = [polygon for _, polygon in group]
        kind, text = (
            ("MultiPolygon", f"[{','.join(parts)}]") if parts[1:] else ("Polygon", parts[0])
        )
        yield label, f'{{"type":"{kind}","coordinates":{text}}}'


@contextlib.contextmanager
def _opened(path: pathlib.Path, compressed: bool) -> Iterator[io.TextIOBase]:
    with contextlib.ExitStack() as stack:
        file: Any = stack.enter_context(path.open("wb"))
        if compressed:
            # Without name and time: the same nuclei give the same bytes.
            file = stack.enter_context(gzip.GzipFile("", "wb", _LEVEL, file, mtime=0))
        yield stack.enter_context(io.TextIOWrapper(file, encoding="utf-8", newline="\n"))


def read(path: str | os.PathLike[str]) -> Iterator[tuple[int, Polygons]]:
    """Reads the label and the polygons of each feature of a file that `writing` made.

    Rings are float (V, 2), in the coordinates of the file, without the first vertex at the end;
    `nuclei.outlines.collect` makes outlines of them.

    Raises:
        UserError: no such file, another layout, or a file that is cut off or damaged.
    """
    path = pathlib.Path(path)
    try:
        opened: Any = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rt", encoding="utf-8") as file:
            line = file.readline()
            if not line.startswith('{"type":"FeatureCollection"'):
                raise ValueError("its first line begins no FeatureCollection")
            for line in file:
                if line not in ("\n", _LAST):
                    feature = json.loads(line.rstrip(",\n"))
                    label = int(feature["properties"]["metadata"]["label"])
                    parts = feature["geometry"]["coordinates"]
                    parts = [parts] if feature["geometry"]["type"] == "Polygon" else parts
                    yield label, [[np.array(r[:-1], np.float64) for r in rings] for rings in parts]
        if line != _LAST:
            raise ValueError("its end is missing")
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} cannot be read as GeoJSON of histojax ({error}): write it again"
        ) from error
