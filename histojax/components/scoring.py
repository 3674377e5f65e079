"""Host-side scores of evaluation batches, as (sum, count) pairs to be divided once at the end.

A pair of arrays has an entry for each class; its score is the mean of the quotients.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from histojax.components import images
from histojax.metrics import image_quality, overlap
from histojax.metrics.instances import aji, overlap_table
from histojax.nuclei import postprocessing

Sums = dict[str, tuple[float | np.ndarray, float | np.ndarray]]

# PSNR of two images that differ by rounding to uint8 alone, of variance 1/12: 58.9 dB.
IDENTICAL = 10.0 * math.log10(255.0**2 * 12.0)


def divided(total: float | np.ndarray, count: float | np.ndarray) -> float:
    """The score of a pair that was summed over batches; entries without a count are left out.

    A pair without any count scores 1: there was nothing to find, and nothing was found.
    """
    total, count = np.atleast_1d(total), np.atleast_1d(count)
    counted = count != 0
    return float(np.mean(total[counted] / count[counted])) if counted.any() else 1.0


def _summed(scores: Sequence[float]) -> tuple[float, float]:
    return float(np.sum(scores)), float(len(scores))


def score_images(sr: np.ndarray, hr: np.ndarray, weight: np.ndarray) -> Sums:
    """PSNR and SSIM (protocol P1) of uint8 images (B, H, W, 3); weight 0 marks padding.

    PSNR counts up to IDENTICAL: a network easily meets a crop of blank glass exactly, and one
    infinite value would leave a run without a best step.
    """
    kept = np.flatnonzero(weight)
    psnr = [min(image_quality.psnr_rgb(sr[i], hr[i]), IDENTICAL) for i in kept]
    ssim = [image_quality.ssim_rgb(sr[i], hr[i]) for i in kept]
    return {"psnr_rgb": _summed(psnr), "ssim_rgb": _summed(ssim)}


def score_detail(sr: np.ndarray, hr: np.ndarray, weight: np.ndarray, scale: int) -> Sums:
    """Power of fine detail above that of the real images, dB; uint8 images (B, H, W, 3)."""
    kept = np.flatnonzero(weight)
    rows = [image_quality.power_spectrum_excess(sr[i], hr[i], scale) for i in kept]
    return {"power_spectrum_excess": _summed(rows)}


def score_masks(
    probability: np.ndarray, mask: np.ndarray, weight: np.ndarray, threshold: float
) -> Sums:
    """Foreground Dice and IoU pooled over all pixels of (B, H, W) maps; weight 0 marks padding.

    Scores of crops are pooled because a crop without nuclei has none of its own.
    """
    kept = np.flatnonzero(weight)
    predicted, actual = probability[kept] >= threshold, mask[kept] > 0
    overlap = float(np.sum(predicted & actual))
    total = float(np.sum(predicted)) + float(np.sum(actual))
    return {"dice_pooled": (2.0 * overlap, total), "iou_pooled": (overlap, total - overlap)}


def score_classes(maps: Mapping[str, np.ndarray], mask: np.ndarray, weight: np.ndarray) -> Sums:
    """Mean IoU of classes, pooled over all pixels of (B, H, W, 1) maps; {} without classes.

    `maps` are "mask" and a map for each of K - 1 classes, `mask` (B, H, W) the class indices
    0 .. K - 1, and weight 0 marks padding.
    """
    if not images.tells_classes(maps):
        return {}
    kept = np.flatnonzero(weight)
    found = images.likeliest_class({head: values[kept] for head, values in maps.items()})
    matrix = overlap.confusion(found, mask[kept], classes=len(maps))
    hit = np.diag(matrix)
    return {"class_miou_pooled": (hit, matrix.sum(0) + matrix.sum(1) - hit)}


def score_nuclei(
    maps: Mapping[str, np.ndarray],
    instances: np.ndarray,
    weight: np.ndarray,
    parameters: postprocessing.Parameters,
) -> Sums:
    """AJI of the nuclei in (B, H, W, 1) maps against (B, H, W) labels; weight 0 marks padding.

    It is the mean over crops that hold a nucleus, true or found.
    """
    scores = []
    for i in np.flatnonzero(weight):
        # NaN counts as background; the training loop reports a run that has diverged.
        crop = {name: np.nan_to_num(m[i, ..., 0]) for name, m in maps.items()}
        labels = postprocessing.label(crop, parameters)
        if labels.any() or instances[i].any():
            scores.append(aji(overlap_table(labels, instances[i])))
    return {"aji": _summed(scores)}
