"""What happens to an image on its way to low resolution: blur, noise, ringing, JPEG.

Images (H, W, C) are in grey levels, 0 to 255; K is the side of a filter (odd). `blur_weights` and
`noisy` run on NumPy and JAX arrays; the rest is for the host, in NumPy.
"""

import functools
import io
from typing import Any

import numpy as np
from PIL import Image
from scipy import special

# Radius of the ringing filter, px: 21 x 21 as in Wang et al. 2021, section 4.1.
_SINC_RADIUS = 10


@functools.lru_cache(maxsize=16)
def _reflected_distances(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distances from pixel i to pixel j and to its mirror images beyond both ends, (size, size)."""
    i, j = np.indices((size, size), dtype=np.int32)
    return np.abs(i - j), i + j + 1, 2 * size - 1 - i - j


def blur_weights(size: int, sigma: Any) -> Any:
    """The matrix of a Gaussian blur along one axis, half-sample symmetric borders: (size, size).

    Mirror images of the first order are summed, so sigma, a NumPy or JAX scalar in px, is to stay
    below about size / 4; 0 gives the identity. float32, rows sum to 1.
    """
    xp = sigma.__array_namespace__()
    sigma = xp.maximum(sigma, 1e-3).astype(xp.float32)
    distance = xp.arange(2 * size, dtype=xp.float32)
    # Beyond 13 sigma the value is below the smallest float32 and only costs denormal arithmetic.
    profile = xp.exp(-0.5 * xp.minimum(distance / sigma, 13.0) ** 2)
    profile = xp.where(distance < 13.0 * sigma, profile, 0.0)
    direct, below, above = _reflected_distances(size)
    weights = xp.take(profile, direct) + xp.take(profile, below) + xp.take(profile, above)
    return weights / weights.sum(axis=1, keepdims=True)


def gaussian_filter(sigma_a: float, sigma_b: float, angle: float) -> np.ndarray:
    """A sampled Gaussian of two widths (Wang et al. 2021, equation 2): float32 (K, K), sum 1.

    The standard deviations, px, above 0, are those along and across a direction `angle` radians
    from the x axis towards the y axis. It is cut beyond 4 of the larger one.
    """
    radius = max(1, int(np.ceil(4.0 * max(sigma_a, sigma_b))))
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    along = np.cos(angle) * x + np.sin(angle) * y
    across = np.cos(angle) * y - np.sin(angle) * x
    weights = np.exp(-0.5 * ((along / sigma_a) ** 2 + (across / sigma_b) ** 2))
    return (weights / weights.sum()).astype(np.float32)


def sinc_filter(cutoff: float) -> np.ndarray:
    """The ideal low-pass in all directions, which rings (Wang et al. 2021, section 3.3).

    k(d) = w J1(w d) / (2 pi d) at d px from the centre, w = pi cutoff; nothing passes from `cutoff`
    on, in shares of the Nyquist frequency. float32 (21, 21) that sums to 1.
    """
    w = np.pi * cutoff
    y, x = np.mgrid[-_SINC_RADIUS : _SINC_RADIUS + 1, -_SINC_RADIUS : _SINC_RADIUS + 1]
    distance = np.maximum(np.hypot(y, x), 1e-6)
    weights = w * special.j1(w * distance) / (2.0 * np.pi * distance)
    return (weights / weights.sum()).astype(np.float32)


def filtered(image: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """float32 (H, W, C) convolved with (K, K), borders half-sample symmetric -> the same size."""
    # A fifth of the time to import a chain, which most runs need not spend.
    from scipy import signal

    radius = len(weights) // 2
    padded = np.pad(image, ((radius, radius), (radius, radius), (0, 0)), mode="symmetric")
    planes = np.moveaxis(padded, -1, 0)
    made = signal.fftconvolve(planes, weights[None], mode="valid", axes=(1, 2))
    return np.moveaxis(made, 0, -1)


def noisy(image: Any, read_sigma: Any, inverse_photons: Any, noise: Any) -> Any:
    """Adds a camera's noise, unit variance, to an image, float (..., H, W, C); unclipped.

    The white read noise has sigma `read_sigma`, grey levels. With N photons at white, 1 / N being
    `inverse_photons`, 0 for none, the shot noise has variance x / N at intensity x in [0, 1], the
    Gaussian limit of a Poisson law.
    """
    xp = image.__array_namespace__()
    shot_variance = xp.maximum(image, 0.0) * (255.0 * inverse_photons)
    return image + xp.sqrt(read_sigma**2 + shot_variance) * noise


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """uint8 (H, W, 3) -> the same through JPEG at `quality` 1..100 with 4:2:0 chroma."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "jpeg", quality=int(quality), subsampling="4:2:0")
    return np.asarray(Image.open(buffer))
