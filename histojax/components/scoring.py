"""Host-side scores of evaluation batches, as (sum, count) pairs to be divided once at the end.

Of pairs of arrays, an entry for each class, the score is the mean over what is divided.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from histojax.components import images
from histojax.metrics import image_quality, overlap
from histojax.metrics.instances import score_instances
from histojax.nuclei import postprocessing

Sums = dict[str, tuple[float | np.ndarray, float | np.ndarray]]

# PSNR of two images that differ by the rounding to uint8 alone, whose variance is 1/12: 58.9 dB.
IDENTICAL = 10.0 * math.log10(255.0**2 * 12.0)


def divided(total: float | np.ndarray, count: float | np.ndarray) -> float:
    """The score of a pair that was summed over batches; entries without a count are left out.

    Where nothing was counted there was nothing to find and nothing was found, which scores 1.
    """
    total, count = np.atleast_1d(total), np.atleast_1d(count)
    counted = count != 0
    return float(np.mean(total[counted] / count[counted])) if counted.any() else 1.0


def score_images(sr: np.ndarray, hr: np.ndarray, weight: np.ndarray) -> Sums:
    """PSNR and SSIM (protocol P1) of uint8 images (B, H, W, 3); weight 0 marks padding.

    PSNR counts up to IDENTICAL: a crop of blank glass is easily met exactly, and one infinite value
    would leave a run without a best step.
    """
    rows = [image_quality.score_rgb(sr[i], hr[i]) for i in np.flatnonzero(weight)]
    values = {
        "psnr_rgb": [min(row["psnr_rgb"], IDENTICAL) for row in rows],
        "ssim_rgb": [row["ssim_rgb"] for row in rows],
    }
    return {name: (float(np.sum(found)), float(len(found))) for name, found in values.items()}


def score_detail(sr: np.ndarray, hr: np.ndarray, weight: np.ndarray, scale: int) -> Sums:
    """Power of fine detail beyond the real image's, dB, of uint8 images (B, H, W, 3)."""
    kept = np.flatnonzero(weight)
    rows = [image_quality.power_spectrum_excess(sr[i], hr[i], scale=scale) for i in kept]
    return {"power_spectrum_excess": (float(np.sum(rows)), float(len(rows)))}


def score_masks(
    probability: np.ndarray, mask: np.ndarray, weight: np.ndarray, threshold: float
) -> Sums:
    """Foreground Dice and IoU pooled over all pixels of (B, H, W) maps; weight 0 marks padding.

    Pooled, because these are crops: a crop without nuclei says little by itself.
    """
    kept = np.flatnonzero(weight)
    predicted, actual = probability[kept] >= threshold, mask[kept] > 0
    overlap = float(np.sum(predicted & actual))
    total = float(np.sum(predicted)) + float(np.sum(actual))
    return {
        "dice_pooled": (2.0 * overlap, total),
        "iou_pooled": (overlap, total - overlap),
    }


def score_classes(maps: Mapping[str, np.ndarray], mask: np.ndarray, weight: np.ndarray) -> Sums:
    """Mean IoU of classes, pooled over all pixels of (B, H, W, 1) maps; nothing without classes.

    Args:
        maps: of all heads; "mask" and a map for each of K - 1 classes.
        mask: class indices (B, H, W), 0 .. K - 1.
        weight: (B,), 0 marks padding.
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

    The mean over crops; those without a nucleus of either kind are left out.
    """
    scores = []
    for i in np.flatnonzero(weight):
        # What is not a number finds nothing; whether the run is lost is not for a score to say.
        crop = {name: np.nan_to_num(m[i, ..., 0]) for name, m in maps.items()}
        labels = postprocessing.label(crop, parameters)
        if labels.any() or instances[i].any():
            scores.append(score_instances(labels, instances[i])["aji"])
    return {"aji": (float(np.sum(scores)), float(len(scores)))}
