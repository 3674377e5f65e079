"""How well instances agree: AJI, AJI+, PQ and F1, from one sparse table of overlaps.

The table holds the pairs of a true and a predicted instance that share pixels, and the areas of
both sides; every score here follows from them alone. Images may be of any integer dtype; 0 is
background, and an instance is all pixels of another label, connected or not. Where neither image
holds an instance, every score but `merged` is 1. Where one of them holds some, it is 0.

Axes: H, W pixels, N true and M predicted instances, K pairs that overlap.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
import scipy.sparse
from scipy.optimize import linear_sum_assignment
from scipy.sparse.csgraph import connected_components, maximum_bipartite_matching

# Pixels looked at together: their temporaries stay in the processor's cache.
_PIXELS_AT_ONCE = 2**18


@dataclasses.dataclass(frozen=True)
class OverlapTable:
    """The overlaps of two label images; areas and shared are px, int64.

    Attributes:
        truth, prediction: the label images, (H, W).
        truth_labels, truth_areas: of the true instances, (N,), by rising label.
        prediction_labels, prediction_areas: of the predicted instances, (M,), by rising label.
        truth_index, prediction_index: of each pair, (K,), into the arrays above; pairs are sorted.
        shared: px that both have, (K,), at least 1.
    """

    truth: np.ndarray
    prediction: np.ndarray
    truth_labels: np.ndarray
    truth_areas: np.ndarray
    prediction_labels: np.ndarray
    prediction_areas: np.ndarray
    truth_index: np.ndarray
    prediction_index: np.ndarray
    shared: np.ndarray

    @property
    def union(self) -> np.ndarray:
        """Px that either instance of a pair has, int64 (K,)."""
        areas = self.truth_areas[self.truth_index] + self.prediction_areas[self.prediction_index]
        return areas - self.shared

    @property
    def iou(self) -> np.ndarray:
        """Intersection over union (the Jaccard index) of each pair, float64 (K,), in 0 .. 1."""
        return self.shared / self.union

    @property
    def instances(self) -> int:
        """N + M."""
        return len(self.truth_areas) + len(self.prediction_areas)


class PanopticQuality(NamedTuple):
    """pq = dq * sq, each in 0 .. 1."""

    pq: float
    dq: float
    sq: float


def overlap_table(prediction: np.ndarray, truth: np.ndarray) -> OverlapTable:
    """Counts what two label images share.

    Reads the integer images (H, W) piece by piece in raster order, as runs of pixels that agree in
    both labels, so that only runs are sorted. Memory beyond the images is bounded by a piece, by
    the number of pairs and by the pieces that each crosses; images that are not contiguous are
    copied.

    Raises:
        ValueError: shapes that differ, labels that are negative or no integers.
    """
    prediction, truth = np.asarray(prediction), np.asarray(truth)
    if prediction.shape != truth.shape:
        raise ValueError(f"label images of {prediction.shape} and {truth.shape} cannot be compared")
    for name, image in (("prediction", prediction), ("truth", truth)):
        if not np.issubdtype(image.dtype, np.integer):
            raise ValueError(f"the {name} holds integer labels, not {image.dtype}")
    flat_prediction, flat_truth = prediction.reshape(-1), truth.reshape(-1)
    parts = [(flat_truth[:0], flat_prediction[:0], np.zeros(0, np.int64))]
    for start in range(0, truth.size, _PIXELS_AT_ONCE):
        piece = slice(start, start + _PIXELS_AT_ONCE)
        parts.append(_summed(*_runs(flat_truth[piece], flat_prediction[piece])))
    true, predicted, pixels = _summed(*map(np.concatenate, zip(*parts, strict=True)))
    for name, labels in (("prediction", predicted), ("truth", true)):
        if labels.size and labels.min() < 0:
            raise ValueError(
                f"the {name} holds the label {labels.min()}, where labels are 0 for background "
                "and positive for instances"
            )
    truth_labels, truth_areas = _areas(true, pixels)
    prediction_labels, prediction_areas = _areas(predicted, pixels)
    both = (true != 0) & (predicted != 0)
    return OverlapTable(
        truth=truth,
        prediction=prediction,
        truth_labels=truth_labels,
        truth_areas=truth_areas,
        prediction_labels=prediction_labels,
        prediction_areas=prediction_areas,
        truth_index=np.searchsorted(truth_labels, true[both]),
        prediction_index=np.searchsorted(prediction_labels, predicted[both]),
        shared=pixels[both],
    )


def _runs(truth: np.ndarray, prediction: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels and lengths of the runs of pixels that agree in both labels, but background's."""
    begins = _changes(truth, prediction)
    lengths = np.diff(begins, append=truth.size)
    truth, prediction = truth[begins], prediction[begins]
    some = (truth != 0) | (prediction != 0)
    return truth[some], prediction[some], lengths[some]


def _summed(
    truth: np.ndarray, prediction: np.ndarray, pixels: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One row for each distinct pair of labels, in rising order, with the sum of its pixels."""
    order = np.lexsort((prediction, truth))
    truth, prediction = truth[order], prediction[order]
    first = _changes(truth, prediction)
    if not first.size:
        return truth, prediction, pixels
    return truth[first], prediction[first], np.add.reduceat(pixels[order], first)


def _changes(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Indices of the first places and of those where either label differs from the one before."""
    changes = np.ones(truth.size, bool)
    np.not_equal(truth[1:], truth[:-1], out=changes[1:])
    changes[1:] |= prediction[1:] != prediction[:-1]
    return np.flatnonzero(changes)


def _areas(labels: np.ndarray, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct labels but 0, rising, and the sum of their pixels."""
    known, index = np.unique(labels, return_inverse=True)
    areas = np.zeros(known.size, np.int64)
    np.add.at(areas, index, pixels)
    return known[known != 0], areas[known != 0]


def best_pairs(side: np.ndarray, value: np.ndarray) -> np.ndarray:
    """For each instance that has pairs, the index of its pair of greatest value; int64.

    `side` is the table's `truth_index` or `prediction_index`, (K,). Of several greatest values (K,)
    that of the other instance with the lowest label is taken.
    """
    order = np.lexsort((-value, side))
    return order[np.flatnonzero(np.diff(side[order], prepend=-1))]


def aji(table: OverlapTable) -> float:
    """Aggregated Jaccard index (Kumar et al. 2017, algorithm 1), as the MoNuSeg challenge has it.

    Each true instance takes the prediction of greatest IoU (of several the one with the lowest
    label, as in the challenge's code), also one that another has taken. The index is the sum of the
    intersections over that of the unions, to which instances left alone add their areas.
    """
    taken = best_pairs(table.truth_index, table.iou)
    predictions = table.prediction_index[taken]
    left = np.ones(len(table.prediction_areas), bool)
    left[predictions] = False
    shared = table.shared[taken].sum()
    # A union is the true area and what the prediction has beyond the intersection.
    union = table.truth_areas.sum() + table.prediction_areas[predictions].sum() - shared
    return _ratio(shared, union + table.prediction_areas[left].sum())


def aji_plus(table: OverlapTable) -> float:
    """AJI with each prediction used once at most (AJI+, Graham et al. 2019, HoVer-Net).

    Instances are paired one to one such that the sum of their IoU is greatest; what stays alone
    adds its area to the union. Where several assignments are best, one of them counts.
    """
    shared = table.shared[_assignment(table)].sum()
    return _ratio(shared, table.truth_areas.sum() + table.prediction_areas.sum() - shared)


def panoptic_quality(table: OverlapTable) -> PanopticQuality:
    """Panoptic quality of one class (Kirillov et al. 2019, eq. 1 and 2).

    A pair matches where its IoU is above .5, which no other pair of either instance can reach.
    dq is the F1 of these matches, sq their mean IoU (0 where nothing matches), pq the product.
    """
    matches = 2 * table.shared > table.union
    dq = _ratio(2 * matches.sum(), table.instances)
    if not table.instances:
        return PanopticQuality(1.0, dq, 1.0)
    sq = float(table.iou[matches].mean()) if matches.any() else 0.0
    return PanopticQuality(dq * sq, dq, sq)


def f1(table: OverlapTable, *, threshold: float = 0.5) -> float:
    """Object F1, 2 TP / (N + M): TP pairs of IoU of at least `threshold`, each instance in one.

    At 0.5 and below an instance may have several such pairs; then as many as possible count.

    Raises:
        ValueError: a threshold that is not above 0 and at most 1.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"a threshold of {threshold} is no IoU; give one above 0, at most 1")
    hits = table.iou >= threshold
    shape = len(table.truth_areas), len(table.prediction_areas)
    graph = _graph(
        table.truth_index[hits], table.prediction_index[hits], np.ones(hits.sum()), shape
    )
    matched = np.sum(maximum_bipartite_matching(graph) >= 0) if hits.any() else 0
    return _ratio(2 * matched, table.instances)


def merged(table: OverlapTable) -> float:
    """Share of true instances that one prediction takes together with another of them.

    A prediction takes what it covers more than half of. 0 where there is no true instance.
    """
    taken = 2 * table.shared > table.truth_areas[table.truth_index]
    count = np.bincount(table.prediction_index[taken], minlength=len(table.prediction_areas))
    return float(count[count > 1].sum() / max(len(table.truth_areas), 1))


def _ratio(part: np.integer | int, whole: np.integer | int) -> float:
    return float(part / whole) if whole else 1.0


def _graph(
    truth: np.ndarray, prediction: np.ndarray, weights: np.ndarray, shape: tuple[int, int]
) -> scipy.sparse.csr_array:
    return scipy.sparse.coo_array((weights, (truth, prediction)), shape=shape).tocsr()


def _assignment(table: OverlapTable) -> np.ndarray:
    """Indices of pairs, each instance in one at most, whose IoU have the greatest sum.

    Instances that overlap through others form a component, and each component is solved alone: a
    few instances at a time, where a matrix of all pairs would not fit in memory.
    """
    truth, prediction, iou = table.truth_index, table.prediction_index, table.iou
    nodes = table.instances
    graph = _graph(truth, len(table.truth_areas) + prediction, iou, (nodes, nodes))
    component = connected_components(graph, directed=False)[1][truth]
    order = np.argsort(component, kind="stable")
    settled = [np.zeros(0, np.int64)]
    for pairs in np.split(order, np.flatnonzero(np.diff(component[order])) + 1):
        if len(pairs) == 1:
            settled.append(pairs)
            continue
        rows, row = np.unique(truth[pairs], return_inverse=True)
        columns, column = np.unique(prediction[pairs], return_inverse=True)
        weights = np.zeros((len(rows), len(columns)))
        weights[row, column] = iou[pairs]
        chosen = np.zeros(weights.shape, bool)
        chosen[linear_sum_assignment(weights, maximize=True)] = True
        settled.append(pairs[chosen[row, column]])
    return np.concatenate(settled)
