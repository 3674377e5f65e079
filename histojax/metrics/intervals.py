"""Means over images with bootstrap 95 % intervals, and paired differences with a test."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

_DRAWS_AT_ONCE = 2**22
_ENDS = [(1 - 0.95) / 2, (1 + 0.95) / 2]
# All 2^n signs are tried up to this many, and so many are drawn beyond.
_SIGNS = 2**14
# Images from which on an interval may show a sign: all of 4 fall on one side of 0 by chance once in
# 8 times, and their interval with them.
LEAST_IMAGES = 5


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
    values: Sequence[float] | np.ndarray, *, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """Mean over images (n,) and its percentile bootstrap interval (Efron 1979).

    Images are drawn with replacement, `resamples` times, by `seed`. With few images a percentile
    interval is itself somewhat narrow. NaN and infinities (PSNR of identical images) are left out
    and counted. One value has no spread: its interval is (mean, mean). No value gives NaN
    throughout.
    """
    scores = np.asarray(values, np.float64)
    if scores.ndim != 1:
        raise ValueError(f"values are one for each image, not of shape {scores.shape}")
    left_out = int(np.sum(~np.isfinite(scores)))
    scores = scores[np.isfinite(scores)]
    n = len(scores)
    if not n:
        return Interval(np.nan, np.nan, np.nan, 0, left_out)
    # Centred values keep the interval of a constant at that constant, free of rounding.
    mean = float(scores.mean()) if np.ptp(scores) else float(scores[0])
    if n == 1:
        return Interval(mean, mean, mean, n, left_out)
    rng = np.random.default_rng(seed)
    draws = (rng.integers(n, size=(size, n)) for size in _chunks(resamples, n))
    means = [(scores - mean)[draw].sum(1) / n for draw in draws]
    low, high = mean + np.quantile(np.concatenate(means), _ENDS)
    return Interval(mean, float(low), float(high), n, left_out)


def _chunks(resamples: int, n: int) -> list[int]:
    """Numbers of draws of n each that are made at once."""
    chunk = max(_DRAWS_AT_ONCE // n, 1)
    return [min(chunk, resamples - start) for start in range(0, resamples, chunk)]


def bootstrap_pooled(
    counts: np.ndarray,
    score: Callable[[np.ndarray], np.ndarray],
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> list[Interval]:
    """Scores of counts summed over images, and their percentile bootstrap intervals (Efron 1979).

    Images are drawn with replacement. A draw in which a score is not defined is left out of its
    interval; one image has no spread. Counts are integer (n, ...), such as confusion matrices;
    `score` takes sums (m, ...) to scores (m, k), NaN where there is none. The mean of each of the k
    intervals is the score of the sum of all.
    """
    n, counts = len(counts), np.asarray(counts, np.float64)  # exact up to 2^53
    means = score(counts.sum(0, keepdims=True))[0]
    low = high = means
    if n > 1:
        rng = np.random.default_rng(seed)
        draws = (rng.multinomial(n, np.full(n, 1 / n), size) for size in _chunks(resamples, n))
        drawn = np.concatenate([score(np.tensordot(draw, counts, 1)) for draw in draws])
        # What all images lack has no spread to be measured.
        drawn[:, np.isnan(means)] = 0
        low, high = np.nanquantile(drawn, _ENDS, axis=0)
    ends = zip(means, low, high, strict=True)
    return [Interval(float(mean), float(a), float(b), n) for mean, a, b in ends]


def paired_difference(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> Interval:
    """Mean of a - b over the same images with its interval, as in `bootstrap_mean`.

    Two methods scored on the same images differ by far less than the images do, so this interval,
    and not the overlap of two separate ones, shows whether one is better.
    """
    return bootstrap_mean(_differences(a, b))


def _differences(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> np.ndarray:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape:
        raise ValueError(f"{a.shape} and {b.shape} scores are not of the same images")
    with np.errstate(invalid="ignore"):
        return a - b


def paired_test(
    a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray, *, seed: int = 0
) -> PairedTest:
    """Two-sided permutation test of the mean of a - b over the same images (Fisher 1935, ch. III).

    If neither method were better, each image's difference might as well have the other sign: p is
    the share of all 2^n choices of signs whose mean lies as far from 0 as that observed. It tests
    the mean, whose interval `paired_difference` gives; Wilcoxon's test does the same with ranks,
    which ties and zeros spoil. With n images no p can be below 2 / 2^n, 0.031 for six. All signs
    are tried up to 14 images; beyond, 2^14 are drawn, by `seed`. Differences that are not finite
    are left out; without any p is NaN.
    """
    differences = _differences(a, b)
    differences = differences[np.isfinite(differences)]
    n = len(differences)
    if n < 2:
        return PairedTest(1.0 if n else np.nan, n, True)
    # Here, because it takes seconds to import, and a training or a prediction does without it.
    import scipy.stats

    options = {"n_resamples": _SIGNS, "batch": 1024, "vectorized": True, "rng": seed}
    test = scipy.stats.permutation_test
    found = test((differences,), np.mean, permutation_type="samples", **options)
    return PairedTest(float(found.pvalue), n, 2**n <= _SIGNS)
