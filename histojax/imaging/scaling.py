"""An image seen at another physical scale, region by region."""

from __future__ import annotations

import math

import numpy as np
import PIL.Image

from histojax.imaging.reader import RegionReader

# Lanczos3 as Pillow has it reaches 3 source px beyond a region, times the reduction.
_SUPPORT = 3


class ResampledReader:
    """A reader whose pixels are `factor` times those of another (2: twice as many a side).

    Regions are resampled with antialiased Lanczos from the source pixels around them, so that a
    region does not depend on how the image is cut, to within rounding.
    """

    def __init__(self, reader: RegionReader, factor: float):
        """Args: reader, to be closed by its owner; factor, above 0."""
        self._reader, self._factor = reader, factor
        self.height = max(1, round(reader.height * factor))
        self.width = max(1, round(reader.width * factor))

    def read(self, y: int, x: int, height: int, width: int) -> np.ndarray:
        """uint8 (height, width, 3) of the region at y, x of the resampled image."""
        top, bottom, y0, y1 = self._span(y, height, self.height, self._reader.height)
        left, right, x0, x1 = self._span(x, width, self.width, self._reader.width)
        source = self._reader.read(top, left, bottom - top, right - left)
        box = (x0 - left, y0 - top, x1 - left, y1 - top)
        image = PIL.Image.fromarray(np.ascontiguousarray(source))
        return np.asarray(image.resize((width, height), PIL.Image.Resampling.LANCZOS, box=box))

    def _span(
        self, start: int, length: int, size: int, source: int
    ) -> tuple[int, int, float, float]:
        """(first, last source px to read, exact begin, exact end of the region in source px)."""
        step = source / size
        begin, end = start * step, min((start + length) * step, source)
        margin = math.ceil(_SUPPORT * max(step, 1.0)) + 1
        return max(0, int(begin) - margin), min(source, math.ceil(end) + margin), begin, end
