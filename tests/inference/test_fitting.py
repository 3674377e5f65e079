import dataclasses

import numpy as np

from histojax.inference.fitting import search
from histojax.nuclei.watershed import InstanceParameters, label_instances


@dataclasses.dataclass(frozen=True)
class Point:
    x: float = 0
    y: float = 0


def far(point):
    # The two truths' mean is 3; x and y hang together.
    return float(
        np.mean([-((point.x - truth) ** 2) - (point.y - point.x) ** 2 for truth in (2, 4)])
    )


def test_fields_go_to_the_best_in_turn_until_nothing_changes():
    grid = {"x": [0, 1, 2, 3], "y": [0, 1, 2, 3]}
    # From (0, 0), x alone is best at 1 or 2, of which the first stays, and y follows.
    assert search(Point(), grid, far, rounds=1)[0] == Point(1, 1)
    scored = []

    def once(point):
        scored.append(point)
        return far(point)

    best, scores = search(Point(), grid, once)
    # Then both go to 2; (3, 3) is better, but neither x nor y alone is better at 3.
    assert best == Point(2, 2)
    assert next(iter(scores.items())) == (Point(), far(Point()))
    # Nothing is scored twice.
    assert len(set(scored)) == len(scored) == len(scores)
    assert search(Point(), {}, far)[0] == Point()


def test_of_equal_scores_the_earlier_stays():
    best, _ = search(Point(), {"x": [1, 2]}, lambda point: 1.0)
    assert best == Point()


def test_a_threshold_is_found():
    # Nuclei at .4 on noise of .3: thresholds between them find the truth.
    truth = np.zeros((30, 30), np.int32)
    truth[5:15, 5:15] = 1
    truth[18:27, 15:25] = 2
    mask = np.where(truth > 0, 0.4, 0.3)
    best, _ = search(
        InstanceParameters(),
        {"mask_threshold": [0.2, 0.35, 0.5], "marker_threshold": [0.35]},
        lambda p: float((label_instances({"mask": mask, "marker": mask}, p) == truth).mean()),
    )
    assert best == InstanceParameters(mask_threshold=0.35)
