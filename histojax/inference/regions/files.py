"""The files that are made of an image: labels, classes, tables and outlines of its nuclei."""

import math
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from histojax.checks import check, one_of
from histojax.errors import UserError
from histojax.exports import geojson, tables
from histojax.imaging import conversion, ome_tiff, resampling
from histojax.inference import labeling
from histojax.inference.prediction import RECORD
from histojax.inference.regions.enhancement import Enhanced
from histojax.inference.regions.image_nuclei import Found
from histojax.nuclei import measurements
from histojax.runs import workdirs
from histojax.stages.base import enhances, segments

# What may be written of an image -> the end of the file's name; outlines of slides are compressed.
OUTPUTS = {
    "page": ".html",
    "sr": ".sr.tif",
    "labels": ".labels.tif",
    "sr.labels": ".sr.labels.tif",
    "classes": ".classes.tif",
    "table": ".csv",
    "parquet": ".parquet",
    "geojson": ".geojson",
}
# Every other file that an image may have: outlines of slides, and on other grids.
FURTHER = (".geojson.gz", ".sr.geojson", ".sr.geojson.gz", ".scan.geojson.gz")
_LONGEST_NAME = 255  # bytes, of the usual file systems


def chosen(run: workdirs.Run, outputs: Sequence[str] | None, *, slide: bool = False) -> set[str]:
    """The names in `OUTPUTS` of what is made of an image: those asked for, or the usual ones.

    Usual is all that the run makes but Parquet, and but the enhanced image of a slide whose nuclei
    are found.

    Raises:
        UserError: an output that is unknown, that the run does not make, or that needs a package.
    """
    able = {"page"} | ({"sr"} if enhances(run.stage) else set())
    if segments(run.stage):
        able |= {"labels", "table", "parquet", "geojson"}
        able |= {"sr.labels"} if enhances(run.stage) and not slide else set()
        able |= {"classes"} if labeling.class_names(run) else set()
    for name in outputs or ():
        check({"outputs": name}, {"outputs": one_of(OUTPUTS)}, "--")
        if name not in able:
            of = "of a slide " if slide else ""
            names = ", ".join(name for name in OUTPUTS if name in able)
            raise UserError(
                f"--outputs={name} is not made {of}by {run.workdir}: choose among {names}"
            )
    if "parquet" in (outputs or ()):
        tables.check_parquet()
    unusual = {"parquet", "sr"} if slide and segments(run.stage) else {"parquet"}
    return set(outputs or able - unusual)


def paths_of(path: pathlib.Path, output: pathlib.Path) -> dict[str, pathlib.Path]:
    """The file of each of `OUTPUTS` that is made of an image.

    Raises:
        UserError: the name of the image is too long for them, or no text.
    """
    name = conversion.readable_name(path)
    files = {kind: output / f"{name}{end}" for kind, end in OUTPUTS.items()}
    longest = name + RECORD
    if len(os.fsencode(longest)) > _LONGEST_NAME:
        raise UserError(
            f"{path} would be written as {longest}, and a name has at most {_LONGEST_NAME} bytes: "
            "shorten the name of the image"
        )
    return files


def write(
    found: Found, made: dict[str, pathlib.Path], enhanced: Enhanced | None
) -> measurements.Table:
    """Writes what is named in `made` of nuclei; their table in px of level 0.

    Labels lie on the grid of the image, and again on that of a field's enhanced image. Outlines on
    further grids are added to `made`.
    """
    view, name = found.view, found.view.path.name
    table = in_px(found.nuclei.table, found.per_px, view.mpp)
    for kind in ("table", "parquet"):
        if kind in made:
            tables.write(made[kind], table)
    if "geojson" in made:
        path, stem = made["geojson"], view.path.stem
        down, across = found.per_px
        grids: dict[str, dict[str, Any]] = {"": {"scale": (1 / across, 1 / down)}}
        if enhanced is not None and "sr" in made:
            y, x = (-enhanced.scale * value for value in enhanced.view.seen_box[:2])
            seen, scale = enhanced.view.image, enhanced.scale
            ratio = scale * seen.width / found.size[1], scale * seen.height / found.size[0]
            grids["sr."] = {"scale": ratio, "offset": (x, y), "of": "enhanced image"}
        if view.scanned[:2] != (0, 0):
            # Some viewers count from the part that was scanned.
            y, x = view.scanned[:2]
            grids["scan."] = grids[""] | {"offset": (-x, -y)}
        for grid, moved in grids.items():
            place = path.with_name(f"{stem}.{grid}{path.name.removeprefix(f'{stem}.')}")
            geojson.write(place, name, found.nuclei.outlines, table, **moved)
            made[f"{grid}geojson"] = place
    if "labels" in made:
        _raster(made["labels"], found.label_strips(), found.size, view.size, view.mpp)
    if "sr.labels" in made:
        assert enhanced is not None
        mpp = view.mpp and view.mpp / enhanced.scale
        _raster(made["sr.labels"], found.label_strips(), found.size, enhanced.size, mpp)
    if "classes" in made:
        _raster(made["classes"], found.class_strips(), found.size, view.size, view.mpp)
    return table


def _raster(
    path: pathlib.Path,
    strips: Iterator[np.ndarray],
    seen: tuple[int, int],
    size: tuple[int, int],
    mpp: float | None,
) -> None:
    """Writes labels or classes of (H, W) px as seen, on a grid of `size` px of `mpp` um."""
    if seen != size:
        grid = resampling.NearestRows(seen, size)
        strips = (piece for strip in strips for piece in grid.pieces(strip))
    ome_tiff.write(path, strips, height=size[0], width=size[1], mpp=mpp)


def in_px(
    table: measurements.Table, per_px: tuple[float, float], mpp: float | None
) -> measurements.Table:
    """A table of nuclei found at `per_px` px per px of the image, along y and x, in its px.

    Places change, and lengths and areas where there is no scale. Neighbours are of this table.
    """
    power, middle = {"_px2": 2, "_px": 1}, math.sqrt(per_px[0] * per_px[1])
    moved = {}
    for name, values in table.items():
        end = next((end for end in power if name.endswith(end)), None)
        if name in ("x_px", "y_px"):
            values = (values + 0.5) / per_px[name == "x_px"] - 0.5
        elif end is not None:
            values = values / middle ** power[end]
        moved[name] = values
    return moved | measurements.neighbours(moved["x_px"], moved["y_px"], mpp=mpp)
