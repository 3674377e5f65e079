"""Outputs as TIFF on the grid of the output."""

import pathlib
from collections.abc import Mapping
from typing import ClassVar, Self

import numpy as np

from histojax.imaging.writers import TiffStream


class Raster:
    """One output, strip by strip."""

    reads: ClassVar[tuple[str, ...]]
    suffix: ClassVar[str]

    def __init__(self, path: pathlib.Path, *, height: int, width: int, mpp: float | None = None):
        self._tiff = TiffStream(path, height=height, width=width, mpp=mpp)

    def add(self, outputs: Mapping[str, np.ndarray]) -> None:
        self._tiff.add(outputs[self.reads[0]])

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


class Classes(Raster):
    """Each pixel's likeliest class, uint8, 0 background."""

    reads: ClassVar[tuple[str, ...]] = ("classes",)
    suffix = ".classes.tif"


class Labels(Raster):
    """The nuclei, uint32: 0 background, 1..n in raster order of each nucleus's first pixel."""

    reads: ClassVar[tuple[str, ...]] = ("labels",)
    suffix = ".labels.tif"
