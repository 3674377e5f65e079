"""The nuclei of an image as a table and as outlines, in px of the image as it was given."""

import contextlib
import pathlib
from collections.abc import Collection, Mapping
from typing import ClassVar

import numpy as np

from histojax.exports import geojson, tables
from histojax.imaging import labels, reader
from histojax.imaging.resampling import NearestRows
from histojax.nuclei import measurements, outlines

# Names of files of nuclei -> the end of their names, for images in memory; slides are compressed.
FILES = {"table": ".csv", "parquet": ".parquet", "geojson": ".geojson"}
# What is written where it is asked for alone.
EXTRA = "parquet"


def chosen(made: Collection[str], outputs: Collection[str] | None) -> list[str]:
    """Which of `FILES` a run that makes `made` writes where `outputs` are asked for.

    None: all but `EXTRA`.
    """
    asked = [name for name in FILES if (name in outputs if outputs else name != EXTRA)]
    return asked if "labels" in made else []


def write(
    made: Mapping[str, pathlib.Path],
    path: pathlib.Path,
    output: pathlib.Path,
    names: Collection[str],
    *,
    mpp: float | None,
    scale: int,
    probability: np.ndarray | None,
    cell_expansion: float,
    max_pixels: int,
) -> dict[str, pathlib.Path]:
    """Measures the nuclei that a prediction has written, in the enhanced image where it has one.

    Args:
        made: the prediction's files, "labels" or "sr.labels" among them.
        path: of the image.
        output: folder of the files.
        names: which of `FILES` to write.
        mpp: um per px of the image, None where unknown.
        scale: px of the enhanced image per px of the image.
        probability: of the foreground, in [0, 1], on the grid of the image, (H, W).
        cell_expansion: of `measurements.measure`, um.
        max_pixels: largest image that is decoded whole, px.

    Returns:
        The files by name.
    """
    fine = scale > 1 and {"sr", "sr.labels"} <= made.keys()
    # By region, as tiled images may have more px than are decoded at once.
    with reader.open_image(made["sr"] if fine else path, max_pixels=max_pixels) as opened:
        image = opened.read(0, 0, opened.height, opened.width)
    place = made["sr.labels" if fine else "labels"]
    instances = labels.read_label_region(place, 0, 0, *image.shape[:2])
    per_px = scale if fine else 1
    if probability is not None:
        probability = probability.repeat(per_px, 0).repeat(per_px, 1).astype(np.float32)
    table = measurements.measure(
        instances,
        image,
        mpp=None if mpp is None else mpp / per_px,
        probability=probability,
        cell_expansion=cell_expansion,
    )
    table = in_px(table, per_px, mpp)
    paths = {name: output / f"{path.stem}{FILES[name]}" for name in FILES if name in names}
    write_tables(paths, table)
    if "geojson" in paths:
        write_outlines(paths["geojson"], path.name, outlines.trace(instances), table, 1 / per_px)
    return paths


def write_tables(paths: Mapping[str, pathlib.Path], table: measurements.Table) -> None:
    """Writes a table to those of `paths`, by the names of `FILES`, that are of tables."""
    for name in ("table", "parquet"):
        if name in paths:
            with tables.writing(paths[name]) as append:
                append(table)


def write_outlines(
    path: pathlib.Path,
    image: str,
    found: outlines.Outlines,
    table: measurements.Table,
    scale: float,
    offset: tuple[float, float] = (0.0, 0.0),
    of: str = "input image",
) -> None:
    """Writes outlines, px times `scale` plus `offset` (x, y), with the measurements of a table."""
    with geojson.writing(path, image, scale=scale, offset=offset, of=of) as add:
        add(found, table)


def in_px(table: measurements.Table, per_px: float, mpp: float | None) -> measurements.Table:
    """A table of nuclei found at `per_px` px per px of the image, in px of the image.

    Places change, and lengths and areas where there is no scale. Neighbours are of this table.
    """
    power = {"_px2": 2, "_px": 1}
    moved = {}
    for name, values in table.items():
        end = next((end for end in power if name.endswith(end)), None)
        if name in ("x_px", "y_px"):
            values = (values + 0.5) / per_px - 0.5
        elif end is not None:
            values = values / per_px ** power[end]
        moved[name] = values
    return moved | measurements.neighbours(moved["x_px"], moved["y_px"], mpp=mpp)


class Probability(contextlib.AbstractContextManager):
    """A sink that keeps the foreground's probability in memory, on the grid of its image.

    Attributes:
        map: float16 (H, W), once it is closed.
    """

    reads: ClassVar[tuple[str, ...]] = ("mask",)
    suffix: ClassVar[str] = ""
    enhanced: ClassVar[bool] = False

    def __init__(self, size: tuple[int, int], seen: tuple[int, int]):
        self._grid, self._strips = NearestRows(seen, size), [np.zeros((0, size[1]), np.float16)]
        self.map = self._strips[0]

    def add(self, outputs: Mapping[str, np.ndarray]) -> None:
        strip = np.asarray(outputs["mask"][..., 0], np.float16)
        self._strips += self._grid.pieces(strip)

    def __exit__(self, *_: object) -> None:
        pass

    def close(self) -> None:
        self.map = np.concatenate(self._strips)
