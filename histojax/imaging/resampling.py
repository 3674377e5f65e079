"""Pillow's resampling on the host and inside a jitted step, and the scale factors.

Axes: H, W pixels, h, w of the smaller image, r the scale factor, C channels. Every function runs on
NumPy arrays (by Pillow) and on jax.numpy arrays (each axis by a static weight matrix).
"""

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from histojax.errors import UserError

SCALES = (2, 3, 4, 8)
_KERNELS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "box": Image.Resampling.BOX,
    "lanczos3": Image.Resampling.LANCZOS,
}
KERNELS = tuple(_KERNELS)


def check_kernel(kernel: str) -> None:
    if kernel not in _KERNELS:
        raise UserError(f"resampling kernel {kernel!r} is unknown; choose one of {list(KERNELS)}")


def check_scale(scale: int) -> None:
    if scale not in SCALES:
        raise UserError(
            f"scale factor {scale!r} (data.scale) is not supported; choose one of {list(SCALES)}"
        )


def check_size(height: int, width: int, scale: int) -> None:
    """Raises UserError unless an hr image of `height` x `width` px can be reduced by `scale`."""
    if height % scale or width % scale or not height or not width:
        raise UserError(
            f"an hr image of {height}x{width} pixels cannot be reduced by {scale}; crop it to a "
            f"multiple of {scale} on both sides"
        )


@functools.lru_cache(maxsize=64)
def resize_weights(size_in: int, size_out: int, kernel: str) -> np.ndarray:
    """The matrix of Pillow's antialiased resampling along one axis, float32 (size_out, size_in).

    Read-only; every row sums to 1. Pillow stretches the kernel by size_in / size_out when it
    reduces, cuts it at the borders and normalizes it there.
    """
    check_kernel(kernel)
    # A linear map is known by its image of the identity. jax.image.resize has no box kernel, takes
    # up to 1.5 times as long for uint8 and changes 8e-5 of its values (bilinear, 256 to 64 px).
    identity = Image.fromarray(np.eye(size_in, dtype=np.float32))
    weights = np.array(identity.resize((size_in, size_out), _KERNELS[kernel]))
    weights.flags.writeable = False
    return weights


def round_to_uint8(x: Any) -> Any:
    """Float (...) in grey levels -> uint8, halves upwards as Pillow rounds."""
    xp = x.__array_namespace__()
    return xp.floor(xp.clip(x, 0.0, 255.0) + 0.5).astype(xp.uint8)


def along_height(weights: Any, x: Any) -> Any:
    """weights (O, H) over axis -3 of x (..., H, W, C) -> (..., O, W, C)."""
    xp = x.__array_namespace__()
    if xp is np:
        flat = x.reshape(*x.shape[:-2], x.shape[-2] * x.shape[-1])
        return np.matmul(weights, flat).reshape(*x.shape[:-3], len(weights), *x.shape[-2:])
    return xp.einsum("oh,...hwc->...owc", weights, x, precision="highest")


def along_width(weights: Any, x: Any) -> Any:
    """weights (O, W) over axis -2 of x (..., H, W, C) -> (..., H, O, C)."""
    xp = x.__array_namespace__()
    if xp is np:
        return np.matmul(weights, x)
    return xp.einsum("ow,...hwc->...hoc", weights, x, precision="highest")


def _pillow_resize(image: np.ndarray, height: int, width: int, kernel: str) -> np.ndarray:
    """(H, W, C) uint8 or float32 -> (height, width, C) of the same dtype, by Pillow."""
    resample = _KERNELS[kernel]
    size = (width, height)
    if image.dtype == np.uint8 and image.shape[-1] == 3:
        contiguous = np.ascontiguousarray(image)
        return np.asarray(Image.fromarray(contiguous).resize(size, resample))
    planes = (np.ascontiguousarray(image[..., c]) for c in range(image.shape[-1]))
    resized = [np.asarray(Image.fromarray(plane).resize(size, resample)) for plane in planes]
    return np.stack(resized, axis=-1)


def resize(x: Any, height: int, width: int, kernel: str) -> Any:
    xp = x.__array_namespace__()
    quantized = x.dtype == np.uint8
    if xp is np:
        x = x if quantized else x.astype(np.float32)
        images = x.reshape(-1, *x.shape[-3:])
        resized = [_pillow_resize(image, height, width, kernel) for image in images]
        return np.stack(resized).reshape(*x.shape[:-3], height, width, x.shape[-1])
    rows = resize_weights(x.shape[-3], height, kernel)
    columns = resize_weights(x.shape[-2], width, kernel)
    # Wider where it is wider, for what is compared in double precision.
    x = along_width(columns, x.astype(xp.result_type(x.dtype, xp.float32)))
    if not quantized:
        return along_height(rows, x)
    # Pillow works along the width first and rounds in between.
    x = round_to_uint8(x).astype(xp.float32)
    return round_to_uint8(along_height(rows, x))


def downsample(hr: Any, scale: int, kernel: str = "bicubic") -> Any:
    """Reduces images (..., H, W, C) by r, one of `SCALES`, as Pillow's `Image.resize` does.

    (..., H/r, W/r, C): uint8 for uint8, rounded between the axes as Pillow does; float32 for float
    (float64 for a JAX array of that), unrounded and unclipped (bicubic and lanczos3 overshoot).

    Raises:
        UserError: for an unknown kernel or scale, or a size that is no multiple of the scale.
    """
    check_kernel(kernel)
    check_scale(scale)
    height, width = hr.shape[-3:-1]
    check_size(height, width, scale)
    return resize(hr, height // scale, width // scale, kernel)


def upsample(lr: Any, scale: int, kernel: str = "bicubic") -> Any:
    """Enlarges images (..., h, w, C) by r as Pillow's `Image.resize` does: the bicubic baseline.

    The result is (..., h r, w r, C), of types as in `downsample`. A JAX array is multiplied by a
    dense matrix (h r, h) along each axis, which suits crops and tiles.

    Raises:
        UserError: for an unknown kernel or scale.
    """
    check_kernel(kernel)
    check_scale(scale)
    return resize(lr, lr.shape[-3] * scale, lr.shape[-2] * scale, kernel)


class NearestRows:
    """Labels on another grid: each pixel takes the one that its centre lies in, strip by strip."""

    def __init__(self, size_in: tuple[int, int], size_out: tuple[int, int]):
        """From the grid of (H, W) px that the strips have in all, to that of another (H, W)."""
        # In whole numbers: the centre of pixel i of n lies at (i + 1/2) N / n of N.
        self._rows, self._columns = (
            (2 * np.arange(n) + 1) * before // (2 * n)
            for before, n in zip(size_in, size_out, strict=True)
        )
        self._y = 0

    def pieces(self, strip: np.ndarray, most: int = 512) -> Iterator[np.ndarray]:
        """The next strip (rows, W), top to bottom, as what it holds of the other grid.

        Pieces have at most `most` rows, since a strip may become many times as high.
        """
        begin, end = np.searchsorted(self._rows, (self._y, self._y + len(strip)))
        for row in range(begin, end, most):
            rows = self._rows[row : min(row + most, end)] - self._y
            yield strip[rows[:, None], self._columns]
        self._y += len(strip)
