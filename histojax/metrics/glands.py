"""How well glands agree: object F1, object Dice and object Hausdorff distance, as GlaS ranks by.

The measures of the GlaS contest (Sirinukunwattana et al. 2017, Med. Image Anal. 35). An object's
counterpart is the object of the other image that it shares most pixels with, of several the one
with the lowest label; an object may be the counterpart of many.

Where neither image holds an object, F1 and Dice are 1 and the distance is 0. Where one of them
holds some, they are 0, 0 and infinite. N objects are true and M predicted.
"""

import numpy as np
import scipy.ndimage

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
    true = _Objects(table.truth, table.truth_labels)
    predicted = _Objects(table.prediction, table.prediction_labels)
    total = 0.0
    for objects, areas, side, others, other_side in (
        (true, table.truth_areas, table.truth_index, predicted, table.prediction_index),
        (predicted, table.prediction_areas, table.prediction_index, true, table.truth_index),
    ):
        best = best_pairs(side, table.shared)
        counterpart = np.full(len(areas), -1)
        counterpart[side[best]] = other_side[best]
        distances = [
            objects.distance(i, others, j) if j >= 0 else objects.nearest(i, others)
            for i, j in enumerate(counterpart)
        ]
        total += np.sum(areas * distances) / areas.sum()
    return float(total / 2)


class _Objects:
    """The objects of a label image by index, and the boxes around them."""

    def __init__(self, image: np.ndarray, labels: np.ndarray):
        # Of its own type, which the labels have: 0, though none of them, stays 0.
        known = np.concatenate([np.zeros(1, labels.dtype), labels])
        self.numbers = np.searchsorted(known, np.asarray(image)).astype(np.int32)
        self.boxes = boxes = scipy.ndimage.find_objects(self.numbers)
        # First and last row, and column, of each object; int64 (n, 4).
        self.edges = np.array([[e for s in box for e in (s.start, s.stop - 1)] for box in boxes])

    def distance(self, i: int, others: "_Objects", j: int) -> float:
        """Hausdorff distance of an object to one of the others, px."""
        box = tuple(
            slice(min(a.start, b.start), max(a.stop, b.stop))
            for a, b in zip(self.boxes[i], others.boxes[j], strict=True)
        )
        one, other = self.numbers[box] == i + 1, others.numbers[box] == j + 1
        return max(
            scipy.ndimage.distance_transform_edt(~other)[one].max(),
            scipy.ndimage.distance_transform_edt(~one)[other].max(),
        )

    def nearest(self, i: int, others: "_Objects") -> float:
        """Smallest Hausdorff distance from an object to any of the others, px."""
        # No distance is below the offset of two boxes' edges: the pixel on the outer edge is so far
        # from every pixel of the other object.
        bounds = np.abs(others.edges - self.edges[i]).max(1)
        smallest = np.inf
        for j in np.argsort(bounds):
            if bounds[j] >= smallest:
                break
            smallest = min(smallest, self.distance(i, others, j))
        return smallest
