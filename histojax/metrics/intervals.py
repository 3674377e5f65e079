"""Means over images with bootstrap 95 % intervals, and paired differences with a test."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import numpy as np

_DRAWS_AT_ONCE = 2**22
# All 2^n signs are tried up to this many, and so many are drawn beyond.
_SIGNS = 2**14


class Interval(NamedTuple):
    """A mean, its interval, the n values that it is of, and how many non-finite were left out."""

    mean: float
    low: float
    high: float
    n: int
    left_out: int = 0


class PairedTest(NamedTuple):
    """A two-sided p over n pairs, and whether all signs were tried."""

    p: float
    n: int
    exact: bool


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
    images) are left out and counted. One value, or one group, has no spread: its interval is
    (mean, mean). No value gives NaN throughout.

    Args:
        values: one for each image, (n,).
        groups: each image's group, (n,).
        level: coverage, in 0 .. 1.
        resamples: number of draws.
        seed: of the draws; the same values and seed give the same interval.
    """
    scores = np.asarray(values, np.float64)
    if scores.ndim != 1:
        raise ValueError(f"values are one for each image, not of shape {scores.shape}")
    own = range(len(scores)) if groups is None else groups
    if len(own) != len(scores):
        raise ValueError(f"{len(scores)} values have {len(own)} groups")
    finite = np.isfinite(scores)
    left_out = int(np.sum(~finite))
    scores = scores[finite]
    if not len(scores):
        return Interval(np.nan, np.nan, np.nan, 0, left_out)
    numbers: dict[Hashable, int] = {}
    kept = [group for group, is_finite in zip(own, finite, strict=True) if is_finite]
    labels = [numbers.setdefault(group, len(numbers)) for group in kept]
    # Centred values keep the interval of a constant at that constant, free of rounding.
    mean = float(scores.mean()) if np.ptp(scores) else float(scores[0])
    sums, counts = np.bincount(labels, weights=scores - mean), np.bincount(labels)
    if len(counts) == 1:
        return Interval(mean, mean, mean, len(scores), left_out)
    rng = np.random.default_rng(seed)
    chunk = max(_DRAWS_AT_ONCE // len(counts), 1)
    means = []
    for start in range(0, resamples, chunk):
        size = (min(chunk, resamples - start), len(counts))
        drawn = rng.integers(len(counts), size=size)
        means.append(sums[drawn].sum(1) / counts[drawn].sum(1))
    low, high = mean + np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean, float(low), float(high), len(scores), left_out)


def bootstrap_pooled(
    counts: np.ndarray,
    score: Callable[[np.ndarray], np.ndarray],
    *,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> list[Interval]:
    """Scores of counts summed over images, and their percentile bootstrap intervals (Efron 1979).

    Images are drawn with replacement. A draw in which a score is not defined is left out of its
    interval; one image has no spread, as in `bootstrap_mean`.

    Args:
        counts: of each image, such as its confusion matrix, integer (n, ...).
        score: sums (m, ...) -> scores (m, k), NaN where there is none.
        level, resamples, seed: as in `bootstrap_mean`.

    Returns:
        An interval for each of the k scores, whose mean is the score of the sum of all.
    """
    n, counts = len(counts), np.asarray(counts, np.float64)  # exact up to 2^53
    means = score(counts.sum(0, keepdims=True))[0]
    low = high = means
    if n > 1:
        rng = np.random.default_rng(seed)
        chunk = max(_DRAWS_AT_ONCE // n, 1)
        sizes = [min(chunk, resamples - start) for start in range(0, resamples, chunk)]
        drawn = np.concatenate(
            [
                score(np.tensordot(rng.multinomial(n, np.full(n, 1 / n), size), counts, 1))
                for size in sizes
            ]
        )
        # What all images lack has no spread to be measured.
        drawn[:, np.isnan(means)] = 0
        low, high = np.nanquantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
    ends = zip(means, low, high, strict=True)
    return [Interval(float(mean), float(a), float(b), n) for mean, a, b in ends]


def paired_difference(
    a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray, **options
) -> Interval:
    """Mean of a - b over the same images with its interval; options as in `bootstrap_mean`.

    Two methods scored on the same images differ by far less than the images do, so this interval,
    and not the overlap of two separate ones, shows whether one is better.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape:
        raise ValueError(f"{a.shape} and {b.shape} scores are not of the same images")
    with np.errstate(invalid="ignore"):
        return bootstrap_mean(a - b, **options)


def paired_test(
    a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray, *, seed: int = 0
) -> PairedTest:
    """Two-sided permutation test of the mean of a - b over the same images (Fisher 1935, ch. III).

    If neither method were better, each image's difference might as well have the other sign: p is
    the share of all 2^n choices of signs whose mean lies as far from 0 as that observed. It tests
    the mean, whose interval `paired_difference` gives; Wilcoxon's test does the same with ranks,
    which ties and zeros spoil. With n images no p can be below 2 / 2^n, 0.031 for six. All signs
    are tried up to 14 images; beyond, 2^14 are drawn. Differences that are not finite are left out;
    without any p is NaN.

    Args:
        a, b: one for each image, (n,).
        seed: of the drawn signs.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape:
        raise ValueError(f"{a.shape} and {b.shape} scores are not of the same images")
    with np.errstate(invalid="ignore"):
        differences = a - b
    differences = differences[np.isfinite(differences)]
    n = len(differences)
    if n < 2:
        return PairedTest(1.0 if n else np.nan, n, True)
    # Here, because it takes seconds to import, and a training or a prediction does without it.
    import scipy.stats

    found = scipy.stats.permutation_test(
        (differences,),
        np.mean,
        permutation_type="samples",
        n_resamples=_SIGNS,
        batch=1024,
        vectorized=True,
        rng=seed,
    )
    return PairedTest(float(found.pvalue), n, 2**n <= _SIGNS)
