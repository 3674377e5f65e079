import dataclasses

import numpy as np
import pytest

from histojax.errors import UserError
from histojax.nuclei.fitting import fit_thresholds
from histojax.nuclei.watershed import InstanceParameters, label_instances


@dataclasses.dataclass(frozen=True)
class Point:
    x: float = 0
    y: float = 0


def far(point, truth):
    return -((point.x - truth) ** 2) - (point.y - point.x) ** 2


def fitted(grid, start=None, rounds=3):
    # The two truths' mean is 3; x and y hang together.
    return fit_thresholds(
        ["a", "b"],
        [2, 4],
        grid,
        start=start or Point(),
        label=lambda maps, point: point,
        score=far,
        rounds=rounds,
    )


def test_fields_go_to_the_best_in_turn_until_nothing_changes():
    grid = {"x": [0, 1, 2, 3], "y": [0, 1, 2, 3]}
    # From (0, 0), x alone is best at 1 or 2, of which the first stays, and y follows.
    assert fitted(grid, rounds=1)[0] == Point(1, 1)
    best, tried = fitted(grid)
    # Then both go to 2; (3, 3) is better, but neither x nor y alone is better at 3.
    assert best == Point(2, 2)
    assert tried[0] == (Point(), far(Point(), 2) / 2 + far(Point(), 4) / 2)
    # Nothing is scored twice.
    assert len({point for point, _ in tried}) == len(tried)
    assert fitted({})[0] == Point()


def test_of_equal_scores_the_earlier_stays():
    best, _ = fit_thresholds(
        [0], [0], {"x": [1, 2]}, start=Point(), label=lambda m, p: p, score=lambda p, t: 1.0
    )
    assert best == Point()


def test_a_threshold_is_found():
    # Nuclei at .4 on noise of .3: thresholds between them find the truth.
    truth = np.zeros((30, 30), np.int32)
    truth[5:15, 5:15] = 1
    truth[18:27, 15:25] = 2
    mask = np.where(truth > 0, 0.4, 0.3)
    best, _ = fit_thresholds(
        [{"mask": mask, "marker": mask}],
        [truth],
        {"mask_threshold": [0.2, 0.35, 0.5], "marker_threshold": [0.35]},
        start=InstanceParameters(),
        label=label_instances,
        score=lambda found, true: float((found == true).mean()),
    )
    assert best == InstanceParameters(mask_threshold=0.35)


def test_wrong_fits_are_refused():
    with pytest.raises(UserError, match="no parameter 'z' to fit: choose out of"):
        fitted({"z": [1]})
    with pytest.raises(UserError, match="0 maps and 0 annotations"):
        fit_thresholds([], [], {}, start=Point(), label=None, score=None)
    with pytest.raises(UserError, match="1 maps and 2 annotations"):
        fit_thresholds([1], [1, 2], {}, start=Point(), label=None, score=None)
