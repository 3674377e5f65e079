"""Masks painted in an image's mean colours, with noise like its own.

What a network that makes tissue for masks has to be better than: right in colour, contrast and
grain, without any structure.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import ndimage


@dataclasses.dataclass(frozen=True)
class Look:
    """How an image looks, background first and then nuclei.

    Attributes:
      colors: (2, 3) means, grey levels.
      covariances: (2, 3, 3) of what a pixel differs from them by.
      correlation: of that difference between neighbouring pixels.
    """

    colors: np.ndarray
    covariances: np.ndarray
    correlation: float


def look_of(image: np.ndarray, labels: np.ndarray) -> Look | None:
    """The look of an image, uint8 (H, W, 3), with labels (H, W), 0 background.

    None where it holds fewer than 2 pixels of background or of nuclei.
    """
    inside = labels > 0
    if min(inside.sum(), (~inside).sum()) < 2:
        return None
    pixels = image.astype(np.float64)
    parts = [pixels[~inside], pixels[inside]]
    colors = np.stack([part.mean(0) for part in parts])
    off = pixels - colors[inside.astype(int)]
    pairs = [(off[:-1], off[1:]), (off[:, :-1], off[:, 1:])]
    product = sum(np.sum(a * b) for a, b in pairs)
    square = sum(0.5 * np.sum(a * a + b * b) for a, b in pairs)
    covariances = np.stack([np.cov(part, rowvar=False) for part in parts])
    return Look(colors, covariances, float(product / square) if square > 0 else 0.0)


def mean_look(looks: Sequence[Look]) -> Look:
    """The mean of several looks, one or more."""
    return Look(
        np.mean([look.colors for look in looks], 0),
        np.mean([look.covariances for look in looks], 0),
        float(np.mean([look.correlation for look in looks])),
    )


def painted(labels: np.ndarray, look: Look, rng: np.random.Generator) -> np.ndarray:
    """Labels (H, W), 0 background, in a look's colours with its noise, uint8 (H, W, 3).

    The noise is white noise behind a Gaussian filter, of which neighbours correlate by
    exp(-1 / (4 sigma^2)).
    """
    inside = (labels > 0).astype(int)
    noise = rng.standard_normal((*labels.shape, 3))
    correlation = min(look.correlation, 0.99)
    if correlation > 0.01:
        sigma = np.sqrt(-1 / (4 * np.log(correlation)))
        noise = ndimage.gaussian_filter(noise, (sigma, sigma, 0), mode="wrap")
        noise /= noise.std((0, 1))
    values, vectors = np.linalg.eigh(look.covariances)
    roots = (vectors * np.sqrt(np.maximum(values, 0))[:, None]) @ vectors.transpose(0, 2, 1)
    drawn = look.colors[inside] + np.einsum("hwcd,hwd->hwc", roots[inside], noise)
    return np.clip(np.rint(drawn), 0, 255).astype(np.uint8)
