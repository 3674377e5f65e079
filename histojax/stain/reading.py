"""An image seen in other colours, region by region."""

from collections.abc import Iterator

import numpy as np

from histojax.imaging.tiling import RegionReader
from histojax.stain.normalization import Fit, Method, fit, normalize

# The fit of a larger image, px, is of windows spread evenly over it.
_WHOLE = 2**26
_WINDOW, _ACROSS = 512, 16


class NormalizedReader:
    """A reader of another's pixels, stain-normalised by one `fit` of the whole image."""

    def __init__(self, reader: RegionReader, method: Method, target: Fit, *, name: str):
        """Reads the image for its fit; `reader` stays open, `target` is what it is to look like."""
        self._reader, self._target = reader, target
        self.height, self.width = reader.height, reader.width
        self.fit = fit(looked_at(reader), method, name=name)

    def read(self, y: int, x: int, height: int, width: int) -> np.ndarray:
        """uint8 (height, width, 3) of the region at y, x."""
        return normalize(self._reader.read(y, x, height, width), self.fit, self._target)


def looked_at(reader: RegionReader) -> Iterator[np.ndarray]:
    """What a fit is made of: all of an image by strips, or windows spread over a slide."""
    if reader.height * reader.width <= _WHOLE:
        for y in range(0, reader.height, _WINDOW):
            yield reader.read(y, 0, min(_WINDOW, reader.height - y), reader.width)
        return
    height, width = min(_WINDOW, reader.height), min(_WINDOW, reader.width)
    for row in range(_ACROSS):
        for column in range(_ACROSS):
            y = row * (reader.height - height) // (_ACROSS - 1)
            x = column * (reader.width - width) // (_ACROSS - 1)
            yield reader.read(y, x, height, width)
