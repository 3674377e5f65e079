"""Instance scores of made-up label images: time by part, memory, and loops over instances beside.

The nuclei are ellipses about the squares of a lattice, and many touch; a prediction has them moved,
stretched and turned, and misses one in twenty.
"""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import scipy.optimize

from histojax.metrics import instances, registry
from launch import benchmark_timing as timing

# Semi-axes of a nucleus and the deviation of its centre, by the pitch of the lattice.
_AXES, _SHIFT = (0.25, 0.5), 0.2
_MISSED = 0.05


def nuclei(size: int, count: int, *, missed: float = 0.0, seed: int = 0) -> np.ndarray:
    """Label image, int32 (size, size), of `count` ellipses; the same seed gives the same one.

    Args:
        size: side, px; 10 px for each nucleus in a row at least.
        count: labels 1 .. count lie in random order; the higher covers the lower where two meet.
        missed: share of the nuclei that are left out.
        seed: of the axes, angles, centres and labels.
    """
    rng = np.random.default_rng(seed)
    across = math.ceil(math.sqrt(count))
    pitch = size / across
    image = np.zeros((size, size), np.int32)
    cells = np.random.default_rng(0).permutation(across**2)[:count]
    for label, cell in enumerate(cells, 1):
        y, x = (np.array(divmod(cell, across)) + 0.5 + rng.uniform(-_SHIFT, _SHIFT, 2)) * pitch
        (a, b), angle = rng.uniform(*_AXES, 2) * pitch, rng.uniform(0, np.pi)
        if rng.random() < missed:
            continue
        reach = max(a, b)
        top, left = max(int(y - reach), 0), max(int(x - reach), 0)
        window = image[top : int(y + reach) + 1, left : int(x + reach) + 1]
        down = (np.arange(window.shape[0]) + top - y)[:, None]
        right = np.arange(window.shape[1]) + left - x
        along = right * np.cos(angle) + down * np.sin(angle)
        aside = down * np.cos(angle) - right * np.sin(angle)
        window[(along / a) ** 2 + (aside / b) ** 2 <= 1] = label
    return image


def score_by_loops(prediction: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """What `registry.scores` gives, instance by instance and with a matrix of all pairs.

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
    return {
        "aji": intersections / unions,
        "aji_plus": paired / (np.sum(truth > 0) + np.sum(prediction > 0) - paired),
        "pq": dq * sq,
        "dq": dq,
        "sq": sq,
        "f1": 2 * np.sum(iou[rows, columns] >= 0.5) / whole,
    }


def measure(size: int, count: int, repeats: int, *, loops: bool) -> dict[str, Any]:
    """Scores one pair of label images, each of the scores by itself and all together.

    Args:
        size, count: as in `nuclei`.
        repeats: runs of each.
        loops: whether `score_by_loops` runs once too.

    Returns:
        size, nuclei (true, predicted), pairs (that overlap), parts {table, aji, aji_plus, pq, f1,
        all: as `benchmark_timing.repeated`}, before_bytes (this process with both images, at its
        peak before scoring), peak_bytes (when scored), scores; with loops their seconds,
        cpu_seconds and scores, and times_slower and times_slower_cpu: loops / all.
    """
    truth, prediction = nuclei(size, count), nuclei(size, count, missed=_MISSED, seed=1)
    before = timing.process_peak_bytes()
    table = instances.overlap_table(prediction, truth)
    runs = {
        "table": lambda: instances.overlap_table(prediction, truth),
        "aji": lambda: instances.aji(table),
        "aji_plus": lambda: instances.aji_plus(table),
        "pq": lambda: instances.panoptic_quality(table),
        "f1": lambda: instances.f1(table),
        "all": lambda: registry.scores("instances", instances.overlap_table(prediction, truth)),
    }
    made: dict[str, Any] = {
        "size": size,
        "nuclei": [len(table.truth_labels), len(table.prediction_labels)],
        "pairs": len(table.shared),
        "parts": {name: timing.repeated(run, repeats) for name, run in runs.items()},
        "before_bytes": before,
        "peak_bytes": timing.process_peak_bytes(),
        "scores": registry.scores("instances", table),
    }
    if loops:
        wall, cpu = time.perf_counter(), time.process_time()
        scores = {name: float(v) for name, v in score_by_loops(prediction, truth).items()}
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        whole = made["parts"]["all"]
        made["loops"] = {"seconds": wall, "cpu_seconds": cpu, "scores": scores}
        made["times_slower"] = wall / whole["seconds"]
        made["times_slower_cpu"] = cpu / whole["cpu_seconds"]
    return made
