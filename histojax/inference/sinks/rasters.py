"""Outputs as TIFF on the grid of the output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

import numpy as np

from histojax.imaging.writers import TiffStream
from histojax.inference.sinks.base import Image, Written


class Raster:
    """One output, strip by strip."""

    reads: ClassVar[tuple[str, ...]]
    suffix: ClassVar[str]

    def __init__(self, image: Image):
        self._path = image.folder / f"{image.name}{self.suffix}"
        self._tiff = TiffStream(self._path, height=image.height, width=image.width, mpp=image.mpp)

    def add(self, strip: Mapping[str, np.ndarray]) -> None:
        self._tiff.add(strip[self.reads[0]])

    def close(self) -> Written:
        self._tiff.close()
        return Written(self._path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._tiff.drop()


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

    def __init__(self, image: Image):
        super().__init__(image)
        self._count = 0

    def add(self, strip: Mapping[str, np.ndarray]) -> None:
        self._count = max(self._count, int(strip["labels"].max(initial=0)))
        super().add(strip)

    def close(self) -> Written:
        return Written(super().close().path, {"nuclei": self._count})
