"""The arithmetic of Reinhard et al. (IEEE Comput. Graph. Appl. 21, 2001), in CIELAB.

The paper works in the l-alpha-beta space of Ruderman et al.; histology took CIELAB in its place,
which has the same three roles (lightness, two opponent colours) and which scikit-image converts.
Colours are (N, 3) throughout, N pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import skimage.color

# Standard deviation in L*, a* and b* below which a colour is constant: the rounding of grey levels.
LEAST_SPREAD = 0.5


def statistics(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of L*, a* and b*: uint8 (N, 3) -> float64 (3,) each."""
    lab = skimage.color.rgb2lab(pixels)
    return lab.mean(axis=0), lab.std(axis=0)


def transfer(
    pixels: np.ndarray,
    source_mean: Sequence[float],
    source_spread: Sequence[float],
    target_mean: Sequence[float],
    target_spread: Sequence[float],
) -> np.ndarray:
    """Gives colours of one mean and spread those of another: uint8 (N, 3) -> uint8 (N, 3)."""
    lab = skimage.color.rgb2lab(pixels.astype(np.float32) / np.float32(255.0))
    lab = (lab - source_mean) * np.divide(target_spread, source_spread) + target_mean
    lab[:, 0] = np.clip(lab[:, 0], 0.0, 100.0)
    # No light is yellower than Z = 0, where b* = 200 f(Y), f(Y) = (L* + 16) / 116; scikit-image
    # cuts it there too, with a warning, which rounding must not bring about.
    lab[:, 2] = np.minimum(lab[:, 2], 200.0 / 116.0 * (lab[:, 0] + 16.0) - 1e-6)
    return (skimage.color.lab2rgb(lab) * 255.0 + 0.5).astype(np.uint8)
