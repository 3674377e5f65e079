"""Naive forms and peers of fast code: what tests and the benchmark compare it with."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import scipy.ndimage
import scipy.optimize
import skimage.segmentation

from histojax.nuclei.components import label_mask
from histojax.nuclei.watershed import InstanceParameters, flooded_height


def score_by_loops(prediction: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """The scores of `instances.score_instances`, by loops over instances and a matrix of all pairs.

    Args:
        prediction, truth: integer label images of one shape, each with an instance at least.
    """
    true = [label for label in np.unique(truth) if label]
    predicted = [label for label in np.unique(prediction) if label]
    iou = np.zeros((len(true), len(predicted)))
    shared, union = np.zeros(iou.shape, np.int64), np.zeros(iou.shape, np.int64)
    areas = [np.sum(prediction == label) for label in predicted]
    intersections = unions = 0
    used = set()
    for i, label in enumerate(true):
        one = truth == label
        best, area = None, one.sum()
        for other in np.unique(prediction[one]):
            if not other:
                continue
            j = predicted.index(other)
            shared[i, j] = np.sum(prediction[one] == other)
            union[i, j] = area + areas[j] - shared[i, j]
            iou[i, j] = shared[i, j] / union[i, j]
            if best is None or iou[i, j] > iou[i, best]:
                best = j
        intersections += shared[i, best] if best is not None else 0
        unions += union[i, best] if best is not None else area
        used.add(best)
    unions += sum(area for j, area in enumerate(areas) if j not in used)
    rows, columns = scipy.optimize.linear_sum_assignment(iou, maximize=True)
    paired = shared[rows, columns].sum()
    matches = iou > 0.5
    whole = len(true) + len(predicted)
    dq = 2 * matches.sum() / whole
    sq = iou[matches].mean() if matches.any() else 0.0
    rows, columns = scipy.optimize.linear_sum_assignment(iou >= 0.5, maximize=True)
    true_areas = np.array([np.sum(truth == label) for label in true])
    together = np.sum(2 * shared > true_areas[:, None], axis=0)
    return {
        "aji": intersections / unions,
        "aji_plus": paired / (np.sum(truth > 0) + np.sum(prediction > 0) - paired),
        "pq": dq * sq,
        "dq": dq,
        "sq": sq,
        "f1": 2 * np.sum(iou[rows, columns] >= 0.5) / whole,
        "merged": sum(n for n in together if n > 1) / len(true),
    }


def whole_image(maps: Mapping[str, np.ndarray], parameters: InstanceParameters) -> np.ndarray:
    """The labels of `label_instances`: every step on the whole image, every component flooded."""
    p = parameters
    mask = maps["mask"] >= p.mask_threshold
    components = label_mask(mask, min_area=p.min_area, max_hole=p.max_hole)
    seeds = label_mask(mask & (maps["marker"] >= p.marker_threshold), min_area=p.min_marker)
    peaks = scipy.ndimage.maximum(maps["marker"], seeds, np.arange(seeds.max() + 1))
    seeds[(peaks < p.marker_peak)[seeds] | (components == 0)] = 0
    height, basins = flooded_height(maps, p), np.zeros_like(components)
    for number, box in enumerate(scipy.ndimage.find_objects(components), 1):
        mask = components[box] == number
        basins[box] += skimage.segmentation.watershed(
            height[box], seeds[box] * mask, mask=mask, connectivity=2
        )
    unmarked = (basins == 0) & (components > 0)
    large = np.bincount(components[unmarked], minlength=components.max() + 1) >= p.min_unmarked
    basins = np.where(unmarked & large[components], components + seeds.max(), basins)
    values, first, areas = np.unique(basins, return_index=True, return_counts=True)
    kept = (values > 0) & (areas >= p.min_area)
    order = np.argsort(first[kept])
    table = np.zeros(basins.max() + 1, np.int32)
    table[values[kept][order]] = np.arange(1, kept.sum() + 1)
    return table[basins]
