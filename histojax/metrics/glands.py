"""How well glands agree: object F1, object Dice and object Hausdorff distance, as GlaS ranks by.

The measures of the GlaS contest (Sirinukunwattana et al. 2017, Med. Image Anal. 35). An object's
counterpart is the object of the other image that it shares most pixels with, of several the one
with the lowest label; an object may be the counterpart of many.

Where neither image holds an object, F1 and Dice are 1 and the distance is 0. Where one of them
holds some, they are 0, 0 and infinite. N objects are true and M predicted.
"""

import numpy as np
from scipy.spatial import KDTree
from skimage.measure import regionprops

from histojax.metrics.instances import OverlapTable, best_pairs


def object_f1(table: OverlapTable) -> float:
    """2 TP / (N + M): TP predictions that hold more than half of their counterpart's area.

    A prediction that covers two glands finds only the one that it shares most pixels with.
    """
    if not table.instances:
        return 1.0
    best = best_pairs(table.prediction_index, table.shared)
    hits = 2 * table.shared[best] > table.truth_areas[table.truth_index[best]]
    return float(2 * hits.sum() / table.instances)


def object_dice(table: OverlapTable) -> float:
    """Dice of each object with its counterpart, weighted by area; the mean of both directions.

    An object without counterpart has a Dice of 0.
    """
    if not table.instances:
        return 1.0
    total = 0.0
    for side, areas in (
        (table.truth_index, table.truth_areas),
        (table.prediction_index, table.prediction_areas),
    ):
        best = best_pairs(side, table.shared)
        # The areas of a pair add up to its union and what it shares.
        dice = 2 * table.shared[best] / (table.union[best] + table.shared[best])
        total += np.sum(areas[side[best]] * dice) / max(areas.sum(), 1)
    return float(total / 2)


def object_hausdorff(table: OverlapTable) -> float:
    """Hausdorff distance of each object to its counterpart, px, weighted by area; both directions.

    The mean of both directions, in 0 .. infinity. The distance of two objects is exact, between the
    centres of all their pixels. An object that overlaps none is measured to that object of the
    other image which is nearest by this distance.
    """
    if not table.instances:
        return 0.0
    if not (len(table.truth_areas) and len(table.prediction_areas)):
        return np.inf
    true = _pixels(table.truth, table.truth_labels)
    predicted = _pixels(table.prediction, table.prediction_labels)
    total = 0.0
    for objects, areas, side, others, other_side in (
        (true, table.truth_areas, table.truth_index, predicted, table.prediction_index),
        (predicted, table.prediction_areas, table.prediction_index, true, table.truth_index),
    ):
        best = best_pairs(side, table.shared)
        counterpart = np.full(len(areas), -1)
        counterpart[side[best]] = other_side[best]
        distances = [
            _distance(one, others[j]) if j >= 0 else _nearest(one, others)
            for one, j in zip(objects, counterpart, strict=True)
        ]
        total += np.sum(areas * distances) / areas.sum()
    return float(total / 2)


def _pixels(image: np.ndarray, labels: np.ndarray) -> list[KDTree]:
    """The centres of each object's pixels."""
    # Of its own type, which the labels have: 0, though none of them, stays 0.
    known = np.concatenate([np.zeros(1, labels.dtype), labels])
    return [KDTree(found.coords) for found in regionprops(np.searchsorted(known, image))]


def _distance(one: KDTree, other: KDTree) -> float:
    """Hausdorff distance of two objects, px."""
    return max(one.query(other.data)[0].max(), other.query(one.data)[0].max())


def _nearest(one: KDTree, others: list[KDTree]) -> float:
    """Smallest Hausdorff distance from an object to any of the others, px."""
    # No distance is below the offset of two boxes' edges: the pixel on the outer edge is so far
    # from every pixel of the other object.
    edges = np.array([[*other.mins, *other.maxes] for other in others])
    bounds = np.abs(edges - [*one.mins, *one.maxes]).max(1)
    smallest = np.inf
    for j in np.argsort(bounds):
        if bounds[j] >= smallest:
            break
        smallest = min(smallest, _distance(one, others[j]))
    return smallest
