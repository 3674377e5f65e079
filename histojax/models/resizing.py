"""Images and maps at r times the size, or at 1/r: pixel shuffle, nearest, bilinear, bicubic, blur.

B batch, H and W pixels, C channels, r an integer scale factor.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def pixel_shuffle(x: jax.Array, r: int) -> jax.Array:
    """Spreads channels over an r times finer grid: (B, H, W, C r^2) -> (B, r H, r W, C).

    Input channel c r^2 + i r + j becomes channel c of the pixel (r y + i, r x + j), as in PyTorch
    (Shi et al. 2016, eq. 4).
    """
    b, h, w, c = x.shape
    x = x.reshape(b, h, w, c // (r * r), r, r).transpose(0, 1, 4, 2, 5, 3)
    return x.reshape(b, h * r, w * r, c // (r * r))


def pixel_unshuffle(x: jax.Array, r: int) -> jax.Array:
    """The inverse of `pixel_shuffle`: (B, r H, r W, C) to (B, H, W, C r^2)."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // r, r, w // r, r, c).transpose(0, 1, 3, 5, 2, 4)
    return x.reshape(b, h // r, w // r, c * r * r)


def nearest_upsample(x: jax.Array, r: int) -> jax.Array:
    """Repeats every pixel r times along both axes: (B, H, W, C) to (B, r H, r W, C)."""
    return jnp.repeat(jnp.repeat(x, r, axis=1), r, axis=2)


def _triangle(t: np.ndarray) -> np.ndarray:
    return (1.0 - abs(t)).clip(0.0)


def _keys_cubic(t: np.ndarray) -> np.ndarray:
    # Keys 1981, eq. 4, with a = -1/2, as Pillow's BICUBIC.
    t = np.abs(t)
    near = 1.5 * t**3 - 2.5 * t**2 + 1.0
    far = -0.5 * t**3 + 2.5 * t**2 - 4.0 * t + 2.0
    return np.where(t < 1, near, np.where(t < 2, far, 0.0))


def _half_pixel_weights(size: int, r: int, kernel, radius: int) -> np.ndarray:
    # The half-pixel grid puts output pixel r i + p at i + (p + 1/2) / r - 1/2: the weights depend
    # on p alone, but for those outside the image, which are dropped and the rest renormalised.
    phase = (np.arange(r) + 0.5) / r - 0.5
    weights = kernel(np.arange(-radius, radius + 1) - phase[:, None])
    if not isinstance(size, int):  # free, in an exported network: `_upsample_axis` renormalises
        return weights[:, :, None]
    inside = np.pad(np.ones(size), radius)
    mass = sum(w[:, None] * inside[k : k + size] for k, w in enumerate(weights.T))
    return weights[:, :, None] / mass[:, None]


def _align_corners_weights(size: int, r: int) -> Any:
    # Output pixel r i + p lies less than one pixel from i.
    xp = np if isinstance(size, int) else jnp
    first = xp.arange(size)
    position = (r * first + np.arange(r)[:, None]) * (size - 1) / max(r * size - 1, 1)
    return xp.stack([_triangle(first + k - position) for k in (-1, 0, 1)], 1)


def _upsample_axis(x: jax.Array, axis: int, weights: Any) -> jax.Array:
    # weights[p, k, i]: what input i + k - radius gives to output r i + p; [p, k, 0]: of any i.
    y = _weighted(x, axis, weights)
    if isinstance(x.shape[axis], int) or not isinstance(weights, np.ndarray):
        return y
    ones = jnp.ones([n if a == axis else 1 for a, n in enumerate(x.shape)], x.dtype)
    return y / _weighted(ones, axis, weights)


def _weighted(x: jax.Array, axis: int, weights: Any) -> jax.Array:
    r, taps, given = weights.shape
    size, radius = x.shape[axis], taps // 2
    along_axis = [given if a == axis else 1 for a in range(x.ndim)]
    padded = jnp.pad(x, [(radius, radius) if a == axis else (0, 0) for a in range(x.ndim)])
    phases = []
    for p in range(r):
        parts = [
            weights[p, k].reshape(along_axis).astype(x.dtype)
            * lax.slice_in_dim(padded, k, k + size, axis=axis)
            for k in range(taps)
            if not isinstance(weights, np.ndarray) or weights[p, k].any()
        ]
        phases.append(sum(parts))
    shape = [r * n if a == axis else n for a, n in enumerate(x.shape)]
    return jnp.stack(phases, axis + 1).reshape(shape)


def upsample(x: jax.Array, r: int, method: str) -> jax.Array:
    """Enlarges (B, H, W, C) r times, on the half-pixel grid as Pillow's resize in floating point.

    Weights outside the image are dropped and the rest renormalised to sum to 1. The sums run over
    shifted slices: `jax.image.resize` is equal to 3e-7, and its forward and backward pass takes
    1.1 to 2.5 times as long on CPU (1.3 to 1.6 for the maps of a decoder).

    `method` is "bilinear", "bicubic" (Keys, a = -1/2), which overshoots the range of x near edges,
    or "bilinear_align_corners", PyTorch's align_corners=True: corner pixels stay corner pixels, and
    the weights of an output pixel depend on its position in the image.
    """
    methods = {
        "bilinear": lambda size: _half_pixel_weights(size, r, _triangle, 1),
        "bicubic": lambda size: _half_pixel_weights(size, r, _keys_cubic, 2),
        "bilinear_align_corners": lambda size: _align_corners_weights(size, r),
    }
    if method not in methods:
        raise ValueError(f"method {method!r} is not one of {', '.join(methods)}")
    for axis in (1, 2):
        x = _upsample_axis(x, axis, methods[method](x.shape[axis]))
    return x


@jax.jit
def filtered(x: jax.Array, kernels: jax.Array) -> jax.Array:
    """Enlarges (..., H, W, C) to (..., r H, r W, C) by a kernel for each phase, (r, r, k, k).

    Output pixel (r y + p, r x + q) is kernels[p, q] times the k x k input pixels around (y, x) of
    its channel, summed; borders are reflected.
    """
    r, size = kernels.shape[1:3]
    height, width = x.shape[-3:-1]
    planes = jnp.moveaxis(x, -1, 0).reshape(-1, height, width, 1)
    sides = (size // 2, size // 2)
    y = lax.conv_general_dilated(
        jnp.pad(planes, ((0, 0), sides, sides, (0, 0)), mode="reflect"),
        kernels.reshape(r * r, 1, size, size).transpose(2, 3, 1, 0),
        (1, 1),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=lax.Precision.HIGHEST,
    )
    y = pixel_shuffle(y, r)
    return jnp.moveaxis(y.reshape(x.shape[-1], *x.shape[:-3], *y.shape[1:3]), 0, -1)


def block_mean(x: jax.Array, r: int) -> jax.Array:
    """Means over r x r pixels: (B, r H, r W, C) to (B, H, W, C)."""
    b, h, w, c = x.shape
    return x.reshape(b, h // r, r, w // r, r, c).mean((2, 4))


def gaussian_radius(sigma: float) -> int:
    """Where `gaussian_blur` is cut off, px: at 3 sigma."""
    return math.ceil(3 * sigma)


def gaussian_blur(x: jax.Array, sigma: float) -> jax.Array:
    """Gaussian of `sigma` > 0 px of (B, H, W, C); weights outside the image as in `upsample`."""

    def kernel(t: np.ndarray) -> np.ndarray:
        return np.exp(-0.5 * (t / sigma) ** 2)

    for axis in (1, 2):
        weights = _half_pixel_weights(x.shape[axis], 1, kernel, gaussian_radius(sigma))
        x = _upsample_axis(x, axis, weights)
    return x
