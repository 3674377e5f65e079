"""Masks painted in an image's mean colours, with noise like its own.

This is the baseline of a network that makes tissue for masks: right in colour, contrast and grain,
without any structure.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import ndimage


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Colours of an image's background and nuclei, in this order."""

    colors: np.ndarray  # (2, 3) means, grey levels
    covariances: np.ndarray  # (2, 3, 3) of the pixels' differences from them
    correlation: float  # of these differences between neighbouring pixels


def statistics_of(image: np.ndarray, labels: np.ndarray) -> Statistics | None:
    """The statistics of an image, uint8 (H, W, 3), with labels (H, W), 0 background.

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
    return Statistics(colors, covariances, float(product / square) if square > 0 else 0.0)


def mean_statistics(several: Sequence[Statistics]) -> Statistics:
    """The mean of the statistics of one or more images."""
    return Statistics(
        np.mean([each.colors for each in several], 0),
        np.mean([each.covariances for each in several], 0),
        float(np.mean([each.correlation for each in several])),
    )


def paint(labels: np.ndarray, statistics: Statistics, rng: np.random.Generator) -> np.ndarray:
    """Labels (H, W), 0 background, in an image's colours and noise, uint8 (H, W, 3).

    The noise is white noise behind a Gaussian filter, whose neighbours correlate by
    exp(-1 / (4 sigma^2)).
    """
    inside = (labels > 0).astype(int)
    noise = rng.standard_normal((*labels.shape, 3))
    correlation = min(statistics.correlation, 0.99)
    if correlation > 0.01:
        sigma = np.sqrt(-1 / (4 * np.log(correlation)))
        noise = ndimage.gaussian_filter(noise, (sigma, sigma, 0), mode="wrap")
        noise /= noise.std((0, 1))
    values, vectors = np.linalg.eigh(statistics.covariances)
    roots = (vectors * np.sqrt(np.maximum(values, 0))[:, None]) @ vectors.transpose(0, 2, 1)
    drawn = statistics.colors[inside] + np.einsum("hwcd,hwd->hwc", roots[inside], noise)
    return np.clip(np.rint(drawn), 0, 255).astype(np.uint8)
