"""Outputs as TIFF."""

import pathlib
from collections.abc import Mapping
from typing import ClassVar, Self

import numpy as np

from histojax.imaging.resampling import NearestRows
from histojax.imaging.writers import TiffStream
from histojax.inference.sinks.base import Size


class Raster:
    """The first of the outputs that it reads, strip by strip."""

    reads: ClassVar[tuple[str, ...]]
    suffix: ClassVar[str]
    enhanced: ClassVar[bool] = False

    def __init__(self, path: pathlib.Path, *, size: Size, seen: Size, mpp: float | None):
        self._tiff = TiffStream(path, height=size[0], width=size[1], mpp=mpp)
        self._grid = None if seen == size else NearestRows(seen, size)

    def add(self, outputs: Mapping[str, np.ndarray]) -> None:
        strip = outputs[self.reads[0]]
        for piece in [strip] if self._grid is None else self._grid.pieces(strip):
            self._tiff.add(piece)

    def close(self) -> None:
        self._tiff.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._tiff.__exit__(*error)


class Enhanced(Raster):
    """The high-resolution image, uint8 RGB."""

    reads: ClassVar[tuple[str, ...]] = ("sr",)
    suffix = ".sr.tif"
    enhanced = True


class Classes(Raster):
    """Each pixel's likeliest class, uint8, 0 background."""

    reads: ClassVar[tuple[str, ...]] = ("classes",)
    suffix = ".classes.tif"


class Labels(Raster):
    """The nuclei, uint32: 0 background, 1..n in raster order of each nucleus's first pixel.

    That order is of the image in which they were found; one that covers no pixel here is missing.
    """

    reads: ClassVar[tuple[str, ...]] = ("labels",)
    suffix = ".labels.tif"


class EnhancedLabels(Labels):
    """The same nuclei and numbers over the enhanced image."""

    reads: ClassVar[tuple[str, ...]] = ("labels", "sr")
    suffix = ".sr.labels.tif"
    enhanced = True
