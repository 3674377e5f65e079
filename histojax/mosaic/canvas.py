"""The mosaic as an image that is read by region; only the fields that a region shows are read."""

from collections.abc import Sequence

import numpy as np
import PIL.Image

from histojax.errors import UserError
from histojax.imaging.tiling import RegionReader
from histojax.mosaic.light import Light
from histojax.mosaic.views import size_of

# A field's weight is its distance to the border to this power: the higher, the narrower a seam.
_FEATHER = 3
_MARGIN = 3


class Mosaic:
    """Fields of one group, joined; an `imaging.tiling.RegionReader`.

    Attributes:
        height, width: of the canvas, which holds all corners of all fields, px.
        mpp: um per px, or None.
        members: numbers of the fields that are joined.
        corners: complex (N,): where the middle of each field's first pixel lies, y + ix, px.
    """

    def __init__(
        self,
        images: Sequence[np.ndarray | RegionReader],
        centers: np.ndarray,
        angles: np.ndarray,
        light: Light,
        *,
        members: Sequence[int],
        mpp: float | None = None,
        max_pixels: int = 2**32,
    ):
        """Takes all images, their centers (N,) and angles (N,); `members` are joined in order.

        Raises:
            UserError: the canvas has more than max_pixels px.
        """
        self._images, self._light, self.members = images, light, tuple(members)
        self._angles, self.mpp = angles, mpp
        sizes = [size_of(image) for image in images]
        self._middles = np.array([complex(h - 1, w - 1) / 2 for h, w in sizes])
        halves = np.array([complex(h, w) / 2 for h, w in sizes])
        outer = np.stack([halves, halves.conj(), -halves, -halves.conj()])
        outer = centers + np.exp(1j * angles) * outer
        own = outer[:, self.members]
        low = complex(own.real.min(), own.imag.min())
        # Places known to a hundredth of a pixel do not add a row.
        self.height, self.width = (
            int(np.ceil(side - 0.01))
            for side in (own.real.max() - low.real, own.imag.max() - low.imag)
        )
        if self.height * self.width > max_pixels:
            raise UserError(
                f"the mosaic would have {self.width:,} x {self.height:,} px, above "
                f"--max_pixels={max_pixels:,}; give fewer fields, or a larger --max_pixels"
            )
        self._centers = centers - low - (0.5 + 0.5j)
        self._boxes = outer - low
        self.corners = self._centers - np.exp(1j * angles) * self._middles

    def frame(self, number: int) -> np.ndarray:
        """The four corners of a field's frame in turn, complex (4,), px."""
        return self._boxes[:, number]

    def read(self, y: int, x: int, height: int, width: int) -> np.ndarray:
        """uint8 (height, width, 3) of a region inside the mosaic; white where no field lies."""
        total = np.zeros((height, width, 3), np.float32)
        weights = np.zeros((height, width, 1), np.float32)
        for number in self.members:
            box = self._boxes[:, number]
            top, bottom = _clipped(box.real.min() - y, box.real.max() - y, height)
            left, right = _clipped(box.imag.min() - x, box.imag.max() - x, width)
            if top < bottom and left < right:
                place = slice(top, bottom), slice(left, right)
                values, weight = self._part(number, y + top, x + left, bottom - top, right - left)
                total[place] += values * weight
                weights[place] += weight
        shown = weights > 0
        joined = np.where(shown, total / np.where(shown, weights, 1), 255)
        return np.clip(joined + 0.5, 0, 255).astype(np.uint8)

    def _part(
        self, number: int, y: int, x: int, height: int, width: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """A field's values (height, width, 3) and weights (height, width, 1) in a region."""
        image, turn = self._images[number], np.exp(-1j * self._angles[number])
        rows, columns = np.arange(y, y + height), np.arange(x, x + width)
        points = rows[:, None] + 1j * columns - self._centers[number]
        places = turn * points + self._middles[number]
        full = size_of(image)
        spans = []
        for part, side in zip((places.real, places.imag), full, strict=True):
            low = max(0, int(np.floor(part.min())) - _MARGIN)
            spans.append((low, min(side, int(np.ceil(part.max())) + _MARGIN + 1)))
        (top, bottom), (left, right) = spans
        if top >= bottom or left >= right:
            return np.zeros((height, width, 3)), np.zeros((height, width, 1))
        if isinstance(image, np.ndarray):
            pixels = image[top:bottom, left:right]
        else:
            pixels = image.read(top, left, bottom - top, right - left)
        # Pillow's coordinates: x before y, and a pixel's middle at a half.
        origin = places[0, 0] - complex(top, left) + (0.5 + 0.5j)
        down, across = turn, turn * 1j
        start = origin - (down + across) / 2
        matrix = (across.imag, down.imag, start.imag, across.real, down.real, start.real)
        source = PIL.Image.fromarray(np.ascontiguousarray(pixels))
        moved = source.transform(
            (width, height), PIL.Image.Transform.AFFINE, matrix, PIL.Image.Resampling.BICUBIC
        )
        v, u = ((p + 0.5) / side for p, side in zip((places.real, places.imag), full, strict=True))
        distance = np.minimum(np.minimum(v, 1 - v) * full[0], np.minimum(u, 1 - u) * full[1])
        # A sample outside the frame's pixels is Pillow's black.
        weight = np.where(distance > 0.01, distance / max(full), 0) ** _FEATHER
        values = np.asarray(moved) * self._light.factors(number, 2 * v - 1, 2 * u - 1)
        return values, weight[..., None]


def _clipped(low: float, high: float, side: int) -> tuple[int, int]:
    return max(0, int(np.floor(low))), min(side, int(np.ceil(high)))
