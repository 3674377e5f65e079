import numpy as np
import pytest
import scipy.spatial.distance

from histojax.metrics import glands, registry
from histojax.metrics.instances import overlap_table


def image(*boxes, shape=(20, 40)):
    """Rectangles by (label, top, left, height, width)."""
    labels = np.zeros(shape, np.int32)
    for label, top, left, height, width in boxes:
        labels[top : top + height, left : left + width] = label
    return labels


def discs(seed, *, size=40, count=6):
    rng = np.random.default_rng(seed)
    labels = np.zeros((size, size), np.int32)
    y, x = np.mgrid[:size, :size]
    for label, (cy, cx, radius) in enumerate(
        rng.uniform((0, 0, 3), (size, size, 9), (count, 3)), 1
    ):
        labels[(y - cy) ** 2 + (x - cx) ** 2 < radius**2] = label
    return labels


def by_loops(prediction, truth):
    """The three scores object by object, with SciPy's Hausdorff distance of all pixels."""

    def hausdorff(a, b):
        directed = scipy.spatial.distance.directed_hausdorff
        return max(directed(a, b)[0], directed(b, a)[0])

    sides = []
    for one, other in ((truth, prediction), (prediction, truth)):
        pixels = [np.argwhere(other == label) for label in np.unique(other) if label]
        dice = distance = 0.0
        for label in np.unique(one):
            if not label:
                continue
            mask = one == label
            weight = mask.sum() / np.sum(one > 0)
            shared = np.bincount(other[mask], minlength=1)
            shared[0] = 0
            if shared.any():
                counterpart = other == shared.argmax()
                dice += weight * 2 * shared.max() / (mask.sum() + counterpart.sum())
                distance += weight * hausdorff(np.argwhere(mask), np.argwhere(counterpart))
            else:
                distance += weight * min(hausdorff(np.argwhere(mask), p) for p in pixels)
        sides.append((dice, distance))
    hits = 0
    for label in np.unique(prediction):
        shared = np.bincount(truth[prediction == label], minlength=1)
        shared[0] = 0
        hits += bool(label) and shared.max() > 0.5 * np.sum(truth == shared.argmax())
    objects = len(np.unique(truth[truth > 0])) + len(np.unique(prediction[prediction > 0]))
    dice, distance = np.mean(sides, axis=0)
    return {"object_f1": 2 * hits / objects, "object_dice": dice, "object_hausdorff": distance}


def scored(prediction, truth):
    return registry.scores("glands", overlap_table(prediction, truth))


def test_identical_and_empty():
    some, empty = image((3, 2, 2, 6, 6)), image()
    perfect = {"object_f1": 1.0, "object_dice": 1.0, "object_hausdorff": 0.0}
    assert scored(some, some) == perfect
    assert scored(empty, empty) == perfect
    nothing = {"object_f1": 0.0, "object_dice": 0.0, "object_hausdorff": np.inf}
    assert scored(some, empty) == nothing
    assert scored(empty, some) == nothing


def test_moved_square():
    scores = scored(image((1, 5, 8, 10, 10)), image((1, 5, 5, 10, 10)))
    # 7 of 10 columns are shared; the outermost column is 3 px from the other square.
    assert scores == pytest.approx(
        {"object_f1": 1.0, "object_dice": 0.7, "object_hausdorff": 3.0}, abs=1e-12
    )


def test_more_than_half_of_the_true_gland():
    truth = image((1, 5, 5, 10, 10))
    half, more = image((1, 5, 5, 10, 5)), image((1, 5, 5, 10, 6))
    assert glands.object_f1(overlap_table(half, truth)) == 0
    assert glands.object_f1(overlap_table(more, truth)) == 1
    # Its own size does not matter: the whole image holds all of the gland.
    assert glands.object_f1(overlap_table(np.ones_like(truth), truth)) == 1


def test_merged_glands():
    truth = image((1, 0, 0, 10, 20), (2, 0, 20, 10, 10))
    prediction = image((4, 0, 0, 10, 30))
    scores = scored(prediction, truth)
    # One of two found, nothing extra.
    assert scores["object_f1"] == pytest.approx(2 / 3)
    # Glands of 200 and 100 px have Dice 400/500 and 200/400, the prediction that of the larger.
    dice = (200 * 0.8 + 100 * 0.5) / 300
    assert scores["object_dice"] == pytest.approx((dice + 0.8) / 2)
    # The far ends of the prediction are 10 px from gland 1 and 20 px from gland 2.
    assert scores["object_hausdorff"] == pytest.approx(((200 * 10 + 100 * 20) / 300 + 10) / 2)


def test_distance_is_from_inside_as_well():
    truth, ring = image((1, 0, 0, 11, 11)), image((1, 0, 0, 11, 11))
    ring[1:10, 1:10] = 0
    # The centre, 5 px from the ring, is the farthest; no outline's pixel is off the ring.
    assert scored(ring, truth)["object_hausdorff"] == 5


def test_gland_without_counterpart_goes_to_the_nearest():
    truth = image((1, 0, 0, 4, 4), (2, 0, 20, 4, 4))
    prediction = image((1, 0, 0, 4, 4), (2, 10, 24, 4, 4), (3, 16, 36, 1, 1))
    # Gland 2 is 10 rows and 4 columns from prediction 2, and further from the others; prediction
    # 2 likewise. Prediction 3 is nearest to gland 2, from whose first corner it is 16, 16 px.
    scores = scored(prediction, truth)
    near, far = np.hypot(10, 4), np.hypot(16, 16)
    true, predicted = 16 * near / 32, (16 * near + 1 * far) / 33
    assert scores["object_hausdorff"] == pytest.approx((true + predicted) / 2)
    assert scores["object_dice"] == pytest.approx((16 / 32 + 16 / 33) / 2)


def test_nearest_is_by_distance_and_not_by_rows_and_columns():
    truth = image((1, 5, 5, 1, 1))
    prediction = image((1, 5, 13, 1, 1), (2, 10, 10, 1, 1))
    # 8 columns off, and 5 rows and 5 columns, which is nearer.
    near = np.hypot(5, 5)
    scores = scored(prediction, truth)
    assert scores["object_hausdorff"] == pytest.approx((near + (8 + near) / 2) / 2)


def test_counterpart_is_the_lowest_label_of_equals():
    truth = image((5, 0, 0, 2, 8))
    # Half of the gland each; 7 is the larger for what lies outside.
    lower = overlap_table(image((6, 0, 0, 2, 4), (7, 0, 4, 2, 12)), truth)
    assert glands.object_dice(lower) == pytest.approx(
        (16 / 24 + (8 * 16 / 24 + 24 * 16 / 40) / 32) / 2
    )
    upper = overlap_table(image((7, 0, 0, 2, 4), (6, 0, 4, 2, 12)), truth)
    assert glands.object_dice(upper) == pytest.approx(
        (16 / 40 + (8 * 16 / 24 + 24 * 16 / 40) / 32) / 2
    )


@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_loops_over_objects(seed):
    truth, prediction = discs(seed), discs(seed + 100)
    scores = scored(prediction, truth)
    assert scores == pytest.approx(by_loops(prediction, truth), abs=1e-9)
    # The labels' own values and types do not matter.
    spread = prediction.astype(np.uint64) * np.uint64(2**60)
    assert scored(spread, truth) == pytest.approx(scores, abs=1e-12)


def test_refusal():
    with pytest.raises(ValueError, match="cannot be compared"):
        scored(image(), image(shape=(3, 3)))
