"""How well the classes of label images agree, by their names: in an image, and pooled over images.

Pooled scores are those of the sum of all confusion matrices, as the code of Li et al. 2022 has
them. A class that neither the prediction nor the truth holds has no score and takes no part in a
mean. Background is a class like any other.

Axes: N images, K classes (0 is background).
"""

import re
from collections.abc import Sequence

import numpy as np

from histojax.metrics import intervals, overlap, registry


def class_words(names: Sequence[str]) -> list[str]:
    """Names of classes as parts of a metric's name; their numbers where two names are alike."""
    words = [re.sub(r"\W+", "_", name).strip("_").lower() for name in names]
    distinct = "" not in words and len(set(words)) == len(words)
    return words if distinct else [str(number) for number in range(len(words))]


def score_classes(matrix: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    """{"class_miou", "class_dice_<name>"} of an image's `overlap.confusion` (K, K), in 0 .. 1."""
    dice = zip(class_words(names), overlap.class_dice(matrix).tolist(), strict=True)
    return registry.scores("classes", matrix) | {
        f"class_dice_{word}": value for word, value in dice if not np.isnan(value)
    }


def score_pooled(matrices: np.ndarray, names: Sequence[str]) -> dict[str, intervals.Interval]:
    """{"class_miou_pooled", "class_dice_pooled_<name>"} of all `overlap.confusion` (N, K, K)."""

    def scores(pooled: np.ndarray) -> np.ndarray:
        mean = np.nanmean(overlap.class_iou(pooled), -1, keepdims=True)
        return np.concatenate([mean, overlap.class_dice(pooled)], -1)

    metrics = ["class_miou_pooled", *(f"class_dice_pooled_{word}" for word in class_words(names))]
    found = zip(metrics, intervals.bootstrap_pooled(matrices, scores), strict=True)
    return {metric: interval for metric, interval in found if not np.isnan(interval.mean)}
