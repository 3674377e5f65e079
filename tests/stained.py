"""Images of two known stains."""

import numpy as np

HAEMATOXYLIN = np.array([0.60, 0.70, 0.38]) / np.linalg.norm([0.60, 0.70, 0.38])
EOSIN = np.array([0.20, 0.83, 0.52]) / np.linalg.norm([0.20, 0.83, 0.52])
STAINS = np.stack([HAEMATOXYLIN, EOSIN])


def concentrations(seed=0, count=64 * 64, maxima=(2.0, 1.2)):
    """float64 (2, count): .3 to 1 of the maxima; two pixels in five of each stain, one of both."""
    rng = np.random.default_rng(seed)
    present = np.array([[1, 0, 1, 0, 1], [0, 1, 0, 1, 1]])[:, rng.integers(0, 5, count)]
    return present * rng.uniform(0.3, 1.0, (2, count)) * np.array(maxima)[:, None]


def image(seed=0, side=64, stains=STAINS, maxima=(2.0, 1.2)):
    """uint8 (side, side, 3)."""
    density = concentrations(seed, side * side, maxima).T @ stains
    return np.rint(255 * np.exp(-density)).astype(np.uint8).reshape(side, side, 3)
