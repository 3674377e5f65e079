"""Files of fields in, mosaics and a table of placements out."""

import dataclasses
import functools
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from histojax.checks import check, number, whole
from histojax.errors import UserError
from histojax.files import check_writable
from histojax.imaging import reader, writers
from histojax.mosaic import stitching, views
from histojax.mosaic.canvas import Mosaic
from histojax.mosaic.stitching import MAX_PIXELS, Placement, Stitched

_TABLE = "placement.csv"
_STRIP = 256
# Decoded fields that are kept while a strip is joined, bytes.
_KEPT = 2**29
_NAMED = 8
_RULES = {"mpp": number(above=0).or_none(), "max_pixels": whole(1)}


@dataclasses.dataclass(frozen=True, eq=False)
class Joined:
    """What was joined: placements of all files, the result, and the mosaics' files."""

    placements: tuple[Placement, ...]
    stitched: Stitched
    files: tuple[Path, ...]

    @property
    def left(self) -> dict[str, str]:
        """Name and reason of each field that is left out."""
        return {one.name: one.reason for one in self.placements if one.reason}

    def check(self) -> None:
        """Raises UserError that names the fields that are left out."""
        left = [f"{name} {reason}" for name, reason in self.left.items()]
        if left:
            more = f"; and {len(left) - _NAMED} more" if len(left) > _NAMED else ""
            raise UserError(
                f"{len(left)} of {len(self.placements)} fields are left out "
                f"({'; '.join(left[:_NAMED])}{more}): take them again with more overlap, or leave "
                "them out of --input"
            )


@dataclasses.dataclass
class _Field:
    """A file of a field; `load` decodes it, and keeps the fields last read."""

    path: Path
    height: int
    width: int
    mpp: float | None
    load: Callable[[Path], np.ndarray]

    def read(self, y: int, x: int, height: int, width: int) -> np.ndarray:
        return self.load(self.path)[y : y + height, x : x + width]


def stitch_files(
    inputs: Sequence[Path],
    output: Path,
    *,
    mpp: float | None = None,
    max_pixels: int = MAX_PIXELS,
    again: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> Joined:
    """Joins the images among files and folders; writes mosaic.tif ... and placement.csv.

    A file that cannot be read is left out by name, as is one that is too small beside the others,
    and a field that fits nowhere. Where `again` is set, results of an earlier call in `output` are
    replaced.

    Raises:
        UserError: `output` is not empty, fewer than two fields can be joined, their scales differ,
            or a mosaic has more than max_pixels px.
    """
    check({"mpp": mpp, "max_pixels": max_pixels}, _RULES, "--")
    if not (again and (output / _TABLE).is_file()):
        writers.check_empty(output)
    listed = reader.listed(inputs, "--input", ("an image", "images"), reader.SUFFIXES)
    # In the order of the numbers in their names: t2 before t10.
    paths = sorted({os.path.abspath(path): path for path in listed}.values(), key=_natural)
    same = len({path.name for path in paths}) < len(paths)
    names = {path: str(path) if same else path.name for path in paths}
    known, lost = {}, []
    for path in paths:
        try:
            with reader.open_image(path) as image:
                image.read(0, 0, image.height, image.width)
                known[path] = image.height, image.width, image.mpp
        except UserError as failure:
            lost.append(Placement(names[path], reason=f"cannot be read: {failure}"))
    # Less its smallest fields, the others are reduced more.
    while small := _small(known):
        lost += [Placement(names[path], reason=reason) for path, reason in small.items()]
        known = {path: facts for path, facts in known.items() if path not in small}
    if len(known) < 2:
        raise UserError(
            f"--input names {len(known)} image(s) that can be joined; give two or more"
            + "".join(f" ({one.name} {one.reason})" for one in lost[:1])
        )
    most = _KEPT // (3 * max(height * width for height, width, _ in known.values()))
    load = functools.lru_cache(maxsize=max(4, most))(reader.read_image)
    scale = mpp or _common_scale({names[path]: stated for path, (*_, stated) in known.items()})
    check_writable(output)
    found = stitching.stitch(
        [_Field(path, *facts, load) for path, facts in known.items()],
        names=[names[path] for path in known],
        mpp=scale,
        max_pixels=max_pixels,
        say=say,
    )
    for old in output.glob("mosaic*.tif"):
        old.unlink()
    placements = (*found.placements, *lost)
    # Before the mosaics: a call after a stop knows the folder by it.
    writers.write_csv(output / _TABLE, map(_row, placements))
    files = []
    for count, mosaic in enumerate(found.mosaics, 1):
        files.append(output / ("mosaic.tif" if count == 1 else f"mosaic-{count}.tif"))
        height, width = mosaic.height, mosaic.width
        say(f"writing {files[-1]}: {width:,} x {height:,} px")
        writers.stream_tiff(files[-1], strips(mosaic), height=height, width=width, mpp=scale)
    return Joined(placements, found, tuple(files))


def _small(known: Mapping[Path, tuple[int, int, float | None]]) -> dict[Path, str]:
    """The fields that are too small beside the others, and why."""
    images = {path: np.broadcast_to(np.uint8(0), facts[:2]) for path, facts in known.items()}
    factors = views.factors_of(list(images.values())) if images else (1.0, 1.0)
    found = {path: views.too_small(image, factors) for path, image in images.items()}
    return {path: reason for path, reason in found.items() if reason}


def strips(mosaic: Mosaic) -> Iterator[np.ndarray]:
    """The mosaic from top to bottom, uint8 (rows, W, 3) each."""
    for y in range(0, mosaic.height, _STRIP):
        yield mosaic.read(y, 0, min(_STRIP, mosaic.height - y), mosaic.width)


def _natural(path: Path) -> tuple[str, list[tuple[int, str]]]:
    words = re.findall(r"\d+|\D+", path.name)
    return str(path.parent), [(int(w), w) if w.isdecimal() else (-1, w) for w in words]


def _common_scale(scales: Mapping[str, float | None]) -> float | None:
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
    numbers = {"x": one.x, "y": one.y, "angle": one.angle, "gain": one.gain}
    rounded = {k: None if value is None else round(value, 4) for k, value in numbers.items()}
    residual = None if one.residual is None else round(one.residual, 3)
    state = {"state": "left out" if one.reason else "placed", "reason": one.reason}
    links = {"links": one.links, "residual_px": residual}
    return {"field": one.name, "group": one.group or None, **rounded, **links, **state}
