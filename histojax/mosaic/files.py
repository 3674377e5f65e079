"""Files of fields in, mosaics and a table of placements out."""

import dataclasses
import functools
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from histojax.checks import check, number, whole
from histojax.errors import UserError
from histojax.files import check_writable
from histojax.imaging import reader, writers
from histojax.mosaic import stitching
from histojax.mosaic.canvas import Mosaic
from histojax.mosaic.stitching import MAX_PIXELS, Placement, Stitched

_STRIP = 256
# Decoded fields that are kept while a strip is joined, bytes.
_KEPT = 2**29
_RULES = {"mpp": number(above=0).or_none(), "max_pixels": whole(1)}


@dataclasses.dataclass(frozen=True, eq=False)
class Joined:
    """What was joined: placements of all files, the result, and the mosaics' files."""

    placements: tuple[Placement, ...]
    stitched: Stitched
    files: tuple[Path, ...]

    def check(self) -> None:
        """Raises UserError that names the fields that are left out."""
        left = {one.name: one.reason for one in self.placements if one.reason}
        if left:
            words = "; ".join(f"{name} {reason}" for name, reason in list(left.items())[:8])
            more = f"; and {len(left) - 8} more" if len(left) > 8 else ""
            raise UserError(
                f"{len(left)} of {len(self.placements)} fields are left out ({words}{more}): take "
                "them again with more overlap, or leave them out of --input"
            )


class _Field:
    """A file of a field, decoded when it is read; the fields last read are kept by `load`."""

    def __init__(self, path: Path, load: Callable[[Path], np.ndarray]):
        self._path, self._load = path, load
        with reader.open_image(path) as image:
            self.height, self.width, self.mpp = image.height, image.width, image.mpp

    def read(self, y: int, x: int, height: int, width: int) -> np.ndarray:
        return self._load(self._path)[y : y + height, x : x + width]


def stitch_files(
    inputs: Sequence[Path],
    output: Path,
    *,
    mpp: float | None = None,
    max_pixels: int = MAX_PIXELS,
    say: Callable[[str], None] = lambda text: None,
) -> Joined:
    """Joins the images among files and folders; writes mosaic.tif ... and placement.csv.

    A file that cannot be read is left out by name, as is a field that fits nowhere.

    Raises:
        UserError: `output` is not empty, fewer than two fields can be read, their scales differ, or
            a mosaic has more than max_pixels px.
    """
    check({"mpp": mpp, "max_pixels": max_pixels}, _RULES, "--")
    writers.check_empty(output)
    listed = reader.listed(inputs, "--input", ("an image", "images"), reader.SUFFIXES)
    # Names with numbers in the order of these: t2 before t10.
    paths = sorted({os.path.abspath(path): path for path in listed}.values(), key=_natural)
    same = len({path.name for path in paths}) < len(paths)
    names = {path: str(path) if same else path.name for path in paths}
    load = functools.lru_cache(maxsize=None)(reader.read_image)
    fields, broken = {}, {}
    for path in paths:
        try:
            fields[path] = _Field(path, reader.read_image)
            fields[path].read(0, 0, 1, 1)
        except UserError as failure:
            fields.pop(path, None)
            broken[path] = f"cannot be read: {failure}"
    if len(fields) < 2:
        raise UserError(
            f"--input names {len(fields)} image(s) that can be read, and joining takes two or more"
            + "".join(f"; {reason}" for reason in list(broken.values())[:1])
        )
    largest = max(field.height * field.width for field in fields.values())
    load = functools.lru_cache(maxsize=max(4, _KEPT // (3 * largest)))(reader.read_image)
    for field in fields.values():
        field._load = load
    check_writable(output)
    scale = mpp or _common_scale({names[path]: field.mpp for path, field in fields.items()})
    found = stitching.stitch(
        list(fields.values()),
        names=[names[path] for path in fields],
        mpp=scale,
        max_pixels=max_pixels,
        say=say,
    )
    files = []
    for count, mosaic in enumerate(found.mosaics, 1):
        files.append(output / ("mosaic.tif" if count == 1 else f"mosaic-{count}.tif"))
        say(f"writing {files[-1]}: {mosaic.width:,} x {mosaic.height:,} px")
        writers.stream_tiff(
            files[-1], strips(mosaic), height=mosaic.height, width=mosaic.width, mpp=scale
        )
    lost = tuple(Placement(names[path], reason=reason) for path, reason in broken.items())
    placements = (*found.placements, *lost)
    writers.write_csv(output / "placement.csv", map(_row, placements))
    return Joined(placements, found, tuple(files))


def strips(mosaic: Mosaic) -> Iterator[np.ndarray]:
    """The mosaic from top to bottom, uint8 (rows, W, 3) each."""
    for y in range(0, mosaic.height, _STRIP):
        yield mosaic.read(y, 0, min(_STRIP, mosaic.height - y), mosaic.width)


def _natural(path: Path) -> tuple[str, list[tuple[int, str]]]:
    words = re.findall(r"\d+|\D+", path.name)
    return str(path.parent), [(int(w), w) if w.isdecimal() else (-1, w) for w in words]


def _common_scale(scales: dict[str, float | None]) -> float | None:
    """The scale that the files state, um per px; UserError where they differ."""
    known = {name: mpp for name, mpp in scales.items() if mpp}
    if not known:
        return None
    low, high = min(known, key=lambda k: known[k]), max(known, key=lambda k: known[k])
    if known[high] > 1.01 * known[low]:
        raise UserError(
            f"{low} states {known[low]:.4g} um/px and {high} {known[high]:.4g}; join fields of one "
            "scale, or give --mpp where these statements are wrong"
        )
    return float(np.median(list(known.values())))


def _row(one: Placement) -> dict[str, object]:
    def digits(value: float | None, places: int) -> str | None:
        return None if value is None else f"{value:.{places}f}"

    return {
        "field": one.name,
        "group": one.group or None,
        "x": digits(one.x, 3),
        "y": digits(one.y, 3),
        "angle": digits(one.angle, 4),
        "gain": digits(one.gain, 4),
        "links": one.links,
        "residual_px": digits(one.residual, 3),
        "state": "left out" if one.reason else "placed",
        "reason": one.reason,
    }
