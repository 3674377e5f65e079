"""Distance between sets of images, by their features: the kernel Inception distance and its like.

KID is the squared maximum mean discrepancy under a cubic kernel (Binkowski et al. 2018, section 4),
whose estimate has no bias, so that small sets can be compared. The features are those of whatever
network is named beside the number; two numbers by different networks cannot be compared.
"""

from collections.abc import Sequence

import numpy as np


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(x y^T / D + 1)^3 of (N, D) and (M, D)."""
    return np.power(x @ y.T / x.shape[1] + 1.0, 3)


def squared_mmd(x: np.ndarray, y: np.ndarray) -> float:
    """Unbiased estimate of the squared discrepancy of features (N, D) and (M, D).

    N and M are at least 2. Below 0 by chance where the two are alike. Gretton et al. 2012, eq. 3.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    n, m = len(x), len(y)
    if min(n, m) < 2 or x.shape[1:] != y.shape[1:] or x.ndim != 2:
        raise ValueError(f"features are (N, D) with N of 2 or more, not {x.shape} and {y.shape}")
    within_x, within_y = _kernel(x, x), _kernel(y, y)
    within = (within_x.sum() - np.trace(within_x)) / (n * (n - 1))
    within += (within_y.sum() - np.trace(within_y)) / (m * (m - 1))
    return float(within - 2.0 * _kernel(x, y).mean())


def kernel_distance(
    x: np.ndarray, y: np.ndarray, *, subsets: int = 100, size: int = 100, seed: int = 0
) -> float:
    """KID: mean of `squared_mmd` over random subsets of `size` rows (N or M where that is smaller).

    Raises:
        ValueError: fewer than 2 rows, or features of two sizes.
    """
    rng = np.random.default_rng(seed)
    x, y = np.asarray(x), np.asarray(y)
    size = min(size, len(x), len(y))
    found = []
    for _ in range(subsets):
        drawn = (rows[rng.choice(len(rows), size, replace=False)] for rows in (x, y))
        found.append(squared_mmd(*drawn))
    return float(np.mean(found))


def jackknife_error(
    x: np.ndarray, y: np.ndarray, groups_x: Sequence[str], groups_y: Sequence[str]
) -> float:
    """Standard error of `squared_mmd` where rows come in groups, such as squares of one image.

    Groups are left out one by one (Efron and Tibshirani 1993, eq. 11.5), of both sets where the
    groups are the same. Subsets of a small set have too much in common to tell an error. Of sets
    that are alike it says too much. NaN where either has one group alone.
    """
    of_x, of_y = np.asarray(groups_x), np.asarray(groups_y)
    paired = set(groups_x) == set(groups_y)
    variance = 0.0
    for groups in [set(groups_x)] if paired else [set(groups_x), set(groups_y)]:
        count = len(groups)
        if count < 2:
            return float("nan")
        without = [squared_mmd(x[of_x != group], y[of_y != group]) for group in sorted(groups)]
        variance += (count - 1) * float(np.var(without))
    return float(np.sqrt(variance))


def _squared(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Squared distances (N, M); of equal vectors rounding leaves a little more or less than 0."""
    return np.square(x).sum(1)[:, None] + np.square(y).sum(1) - 2.0 * x @ y.T


def nearest(
    features: np.ndarray, references: np.ndarray, *, count: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest references (M, D) of each image (N, D): whether it was memorised.

    Returns:
        (indices (N, count), nearest first; Euclidean distances (N, count)).
    """
    x, y = np.asarray(features, np.float64), np.asarray(references, np.float64)
    squared = _squared(x, y)
    order = np.argsort(squared, axis=1, kind="stable")[:, :count]
    return order, np.sqrt(np.maximum(np.take_along_axis(squared, order, 1), 0.0))


def diversity(features: np.ndarray) -> float:
    """Mean Euclidean distance between the images of one mask by different noises, (masks, K, D).

    The mean over all pairs of the K noises and all masks; 0 where noise changes nothing.
    """
    distances = []
    for images in np.asarray(features, np.float64):
        pairs = _squared(images, images)[np.triu_indices(len(images), 1)]
        distances.append(np.sqrt(np.maximum(pairs, 0.0)).mean())
    return float(np.mean(distances))
