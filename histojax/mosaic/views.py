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
    """A field at 1 / factor of its pixels, float32 (h, w).

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
        """The view in which all pairs are searched: contrast that fades out at the border.

        So the frames' edges do not match each other.
        """
        plane = local_contrast(luma_bt601(self.colors), 6.0)
        ramps = [
            np.minimum(1, np.minimum(n + 1, n[::-1] + 1) / 4) for n in map(np.arange, plane.shape)
        ]
        return self._view(ndimage.gaussian_filter(plane, 0.7) * np.outer(*ramps), self.factors[0])

    @functools.lru_cache(maxsize=64)  # noqa: B019 (bounded, and as short-lived as the search)
    def large(self) -> View:
        """The view in which one pair is measured: luma."""
        return self._view(ndimage.gaussian_filter(self.luma.astype(np.float32), 1), self.factors[1])

    def _view(self, plane: np.ndarray, factor: float) -> View:
        middle = (self.middle + (0.5 + 0.5j)) / factor - (0.5 + 0.5j)
        return View(plane.astype(np.float32), factor, middle)


def local_contrast(luma: np.ndarray, sigma: float, weights: np.ndarray | None = None) -> np.ndarray:
    """How far `luma` (H, W) lies from its local mean, in local standard deviations.

    Shading and gain cancel. `weights` (H, W) say what counts, 0 to 1, by default all.
    """
    plane = luma.astype(np.float32)
    weights = np.ones_like(plane) if weights is None else weights.astype(np.float32)
    total = np.maximum(ndimage.gaussian_filter(weights, sigma), 1e-3)
    band = plane - ndimage.gaussian_filter(plane * weights, sigma) / total
    spread = np.sqrt(ndimage.gaussian_filter(band * band * weights, sigma) / total)
    return band / (spread + _HALF_CONTRAST)


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
    if reason := too_small(image, factors):
        raise UserError(f"{name} {reason}; leave it out, or give fields of like sizes")
    pixels = np.ascontiguousarray(pixels)
    digest = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()
    luma = luma_bt601(_reduced(pixels, factors[1]))
    small = _reduced(pixels, factors[0])
    return Field((height, width), digest, luma.round().astype(np.uint8), small, factors)


def too_small(image: np.ndarray | RegionReader, factors: tuple[float, float]) -> str:
    """Says of a field that too few of its pixels remain for the search; else nothing."""
    height, width = size_of(image)
    small = min(height, width) < 8 * factors[0]
    return f"of {width} x {height} px is too small beside the others" if small else ""


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
