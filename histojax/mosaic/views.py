"""Fields reduced for matching, and the local contrast by which they are compared.

Points are complex, y + ix, in px of the full field from its middle. A rigid motion multiplies by
exp(i angle) and adds a shift.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import PIL.Image
from scipy import ndimage

from histojax.errors import UserError
from histojax.imaging.tiling import RegionReader
from histojax.metrics.image_quality import luma_bt601

# The root of a field's area for the search of all pairs, and for the measurement of one, px.
_SEARCHED, _MEASURED = 160, 1024
# Grey levels of contrast that count half; a camera's noise stays below.
_HALF_CONTRAST = 3.0


class View(NamedTuple):
    """A field at 1 / factor of its pixels: local contrast, float32 (h, w), about 1 in tissue.

    `middle` is the field's middle, y + ix, in px of the view.
    """

    pixels: np.ndarray
    factor: float
    middle: complex


@dataclasses.dataclass(frozen=True, eq=False)
class Field:
    """What matching keeps of a field: its size (H, W), digest, luma (h, w) and small colors."""

    size: tuple[int, int]
    digest: str
    luma: np.ndarray
    colors: np.ndarray
    factors: tuple[float, float]

    @property
    def middle(self) -> complex:
        return complex(self.size[0] - 1, self.size[1] - 1) / 2

    @functools.cached_property
    def texture(self) -> float:
        """The mean squared contrast, 0 (blank) to about 1."""
        return float(np.mean(self.small.pixels**2))

    @functools.cached_property
    def small(self) -> View:
        """The view in which all pairs are searched."""
        return self._view(luma_bt601(self.colors), self.factors[0], 0.7, 6.0)

    @functools.lru_cache(maxsize=64)  # noqa: B019 (bounded, and as short-lived as the search)
    def large(self) -> View:
        """The view in which one pair is measured."""
        return self._view(self.luma, self.factors[1], 1.0, 12.0)

    def _view(self, luma: np.ndarray, factor: float, fine: float, coarse: float) -> View:
        middle = (self.middle + (0.5 + 0.5j)) / factor - (0.5 + 0.5j)
        return View(local_contrast(luma, fine, coarse), factor, middle)


def local_contrast(luma: np.ndarray, fine: float, coarse: float) -> np.ndarray:
    """The band of `luma` (H, W) between two sigmas, px, over its local standard deviation.

    Shading and gain cancel. The frame's edges fade out, so that they do not match each other.
    """
    plane = luma.astype(np.float32)
    band = ndimage.gaussian_filter(plane, fine) - ndimage.gaussian_filter(plane, coarse)
    spread = np.sqrt(ndimage.gaussian_filter(band * band, coarse))
    ramps = [
        np.minimum(1, (np.minimum(np.arange(n), np.arange(n)[::-1]) + 1) / 4) for n in plane.shape
    ]
    return (band / (spread + _HALF_CONTRAST) * np.outer(*ramps)).astype(np.float32)


def factors_of(images: Sequence[np.ndarray | RegionReader]) -> tuple[float, float]:
    """The common reductions of all fields, for the search and for the measurement."""
    side = float(np.median([np.sqrt(np.prod(size_of(image))) for image in images]))
    return max(1.0, side / _SEARCHED), max(1.0, side / _MEASURED)


def field_of(image: np.ndarray | RegionReader, factors: tuple[float, float], name: str) -> Field:
    """Reads a field, uint8 RGB (H, W, 3), and keeps what matching needs of it."""
    height, width = size_of(image)
    pixels = image if isinstance(image, np.ndarray) else image.read(0, 0, height, width)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise UserError(f"{name} is {pixels.dtype} {pixels.shape}; a field is uint8 RGB (H, W, 3)")
    if min(height, width) < 8 * factors[0]:
        raise UserError(
            f"{name} of {width} x {height} px is too small beside the others; leave it out, or "
            "give fields of like sizes"
        )
    pixels = np.ascontiguousarray(pixels)
    digest = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()
    luma = luma_bt601(_reduced(pixels, factors[1]))
    small = _reduced(pixels, factors[0])
    return Field((height, width), digest, luma.round().astype(np.uint8), small, factors)


def size_of(image: np.ndarray | RegionReader) -> tuple[int, int]:
    """(H, W) of an image or a reader, px."""
    return image.shape[:2] if isinstance(image, np.ndarray) else (image.height, image.width)


def _reduced(pixels: np.ndarray, factor: float) -> np.ndarray:
    """The image at exactly 1 / factor; what is less than a pixel at the far sides is cut off."""
    if factor == 1:
        return pixels
    height, width = (int(side / factor) for side in pixels.shape[:2])
    box = (0, 0, width * factor, height * factor)
    image = PIL.Image.fromarray(pixels)
    return np.asarray(image.resize((width, height), PIL.Image.Resampling.HAMMING, box=box))
