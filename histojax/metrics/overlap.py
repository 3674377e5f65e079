"""How well masks agree: IoU and Dice, from one confusion matrix.

A matrix of one image gives that image's score; the sum of the matrices of many images gives the
pooled score. Rows are the truth, columns the prediction.

Axes: H, W pixels, K classes (0 is background).
"""

import numpy as np


def confusion(prediction: np.ndarray, truth: np.ndarray, *, classes: int = 2) -> np.ndarray:
    """Pixel counts int64 (K, K): [i, j] pixels of true class i were called j.

    Raises:
        ValueError: shapes that differ, or no integer or bool class in 0 .. K - 1.
    """
    prediction, truth = np.asarray(prediction), np.asarray(truth)
    if prediction.shape != truth.shape:
        raise ValueError(f"masks of {prediction.shape} and {truth.shape} cannot be compared")
    for name, mask in (("prediction", prediction), ("truth", truth)):
        if mask.dtype != bool and not np.issubdtype(mask.dtype, np.integer):
            raise ValueError(f"the {name} holds class indices, not {mask.dtype}")
        if mask.size and (mask.min() < 0 or mask.max() >= classes):
            raise ValueError(
                f"the {name} holds classes {mask.min()} to {mask.max()}, not 0 to {classes - 1}"
            )
    index = truth.astype(np.int64).ravel() * classes + prediction.astype(np.int64).ravel()
    return np.bincount(index, minlength=classes**2).reshape(classes, classes)


def iou(matrix: np.ndarray) -> float:
    """Foreground intersection over union, TP / (TP + FP + FN), in 0 .. 1; 1 where both are empty.

    All classes but 0 count as one foreground.
    """
    hit, union = int(matrix[1:, 1:].sum()), int(matrix.sum() - matrix[0, 0])
    return hit / union if union else 1.0


def dice(matrix: np.ndarray) -> float:
    """Foreground Dice, 2 TP / (2 TP + FP + FN), in 0 .. 1; 1 where both are empty; see `iou`."""
    hit, union = int(matrix[1:, 1:].sum()), int(matrix.sum() - matrix[0, 0])
    return 2 * hit / (hit + union) if union else 1.0


def class_iou(matrix: np.ndarray) -> np.ndarray:
    """IoU of each class, float64 (..., K), of matrices (..., K, K); NaN where neither holds it."""
    hit = np.diagonal(matrix, axis1=-2, axis2=-1)
    return _share(hit, matrix.sum(-2) + matrix.sum(-1) - hit)


def class_dice(matrix: np.ndarray) -> np.ndarray:
    """Dice of each class, float64 (..., K), of matrices (..., K, K); NaN as in `class_iou`."""
    hit = np.diagonal(matrix, axis1=-2, axis2=-1)
    return _share(2 * hit, matrix.sum(-2) + matrix.sum(-1))


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, float64; NaN where there is no whole."""
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=whole > 0)


def mean_iou(matrix: np.ndarray) -> float:
    """Mean IoU over the classes that either mask holds, background included, in 0 .. 1."""
    scores = class_iou(matrix)
    present = scores[~np.isnan(scores)]
    return float(present.mean()) if present.size else 1.0
