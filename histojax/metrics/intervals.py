"""Means over images with bootstrap 95 % intervals, and sums carried as (sum, count)."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

_DRAWS_AT_ONCE = 2**22


class Interval(NamedTuple):
    """A mean, its interval, the n values that it is of, and how many non-finite were left out."""

    mean: float
    low: float
    high: float
    n: int
    left_out: int = 0


def bootstrap_mean(
    values: Sequence[float] | np.ndarray,
    *,
    groups: Sequence[Hashable] | None = None,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Mean over images and its percentile bootstrap interval (Efron 1979).

    Images are drawn with replacement; with `groups` (patients, say) whole groups are, since images
    of one patient are not independent and an interval over images would be too narrow. With few
    images a percentile interval is itself somewhat narrow. NaN and infinities (PSNR of identical
    images) are left out and counted. One value, or one group, tells nothing of the spread: the
    interval is (mean, mean). No value gives NaN throughout.

    Args:
        values: one for each image, (n,).
        groups: each image's group, (n,).
        level: coverage, in 0 .. 1.
        resamples: draws. seed: of the draws; the same values and seed give the same interval.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 1:
        raise ValueError(f"values are one for each image, not of shape {values.shape}")
    labels = np.arange(len(values)) if groups is None else _codes(groups)
    if len(labels) != len(values):
        raise ValueError(f"{len(values)} values have {len(labels)} groups")
    finite = np.isfinite(values)
    left_out = int(np.sum(~finite))
    values, labels = values[finite], labels[finite]
    if not len(values):
        return Interval(np.nan, np.nan, np.nan, 0, left_out)
    _, labels = np.unique(labels, return_inverse=True)
    # Centred values keep the interval of a constant at that constant, free of rounding.
    mean = float(values.mean()) if np.ptp(values) else float(values[0])
    sums, counts = np.bincount(labels, weights=values - mean), np.bincount(labels)
    if len(counts) == 1:
        return Interval(mean, mean, mean, len(values), left_out)
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    chunk = max(_DRAWS_AT_ONCE // len(counts), 1)
    for start in range(0, resamples, chunk):
        part = slice(start, min(start + chunk, resamples))
        drawn = rng.integers(len(counts), size=(part.stop - part.start, len(counts)))
        means[part] = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = mean + np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean, float(low), float(high), len(values), left_out)


def paired_difference(
    a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray, **options
) -> Interval:
    """Mean of a - b over the same images with its interval; options as in `bootstrap_mean`.

    Two methods scored on the same images differ by far less than the images do, so this interval,
    and not the overlap of two separate ones, tells whether one is better.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape:
        raise ValueError(f"{a.shape} and {b.shape} scores are not of the same images")
    with np.errstate(invalid="ignore"):
        return bootstrap_mean(a - b, **options)


def _codes(groups: Sequence[Hashable]) -> np.ndarray:
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(group, len(numbers)) for group in groups], np.int64)
