import numpy as np
import pytest

from histojax.metrics import overlap, registry


def scored(prediction, truth):
    return registry.scores("mask", overlap.confusion(prediction, truth))


def _squares(shift):
    """A 10 x 10 square in 20 x 30 px, and the same one moved to the right."""
    truth, prediction = np.zeros((20, 30), np.uint8), np.zeros((20, 30), np.uint8)
    truth[5:15, 5:15] = 1
    prediction[5:15, 5 + shift : 15 + shift] = 1
    return prediction, truth


def test_squares_that_overlap_by_half():
    scores = scored(*_squares(5))
    # 50 px are shared, 50 extra, 50 missed, 450 are background in both.
    assert scores["dice"] == pytest.approx(2 * 50 / 200)
    assert scores["iou"] == pytest.approx(50 / 150)
    assert scores["miou"] == pytest.approx((50 / 150 + 450 / 550) / 2)


def test_confusion_has_truth_in_rows():
    prediction, truth = np.array([0, 1, 1, 2]), np.array([0, 0, 1, 1])
    np.testing.assert_array_equal(
        overlap.confusion(prediction, truth, classes=3), [[1, 1, 0], [0, 1, 1], [0, 0, 0]]
    )


@pytest.mark.parametrize(("shift", "score"), [(0, 1.0), (10, 0.0)])
def test_equal_and_disjoint(shift, score):
    matrix = overlap.confusion(*_squares(shift))
    assert overlap.dice(matrix) == overlap.iou(matrix) == score


def test_nothing_to_find_and_nothing_found_is_right():
    empty, some = np.zeros((4, 4), np.uint8), np.eye(4, dtype=np.uint8)
    assert scored(empty, empty) == {"iou": 1.0, "dice": 1.0, "miou": 1.0}
    assert scored(some, empty)["dice"] == 0
    assert scored(empty, some)["iou"] == 0


def test_pooled_scores_come_from_summed_counts():
    good, bad = overlap.confusion(*_squares(0)), overlap.confusion(*_squares(10))
    # Together 100 px are shared, 100 extra and 100 missed.
    assert overlap.dice(good + bad) == pytest.approx(2 * 100 / 400)
    assert overlap.iou(good + bad) == pytest.approx(100 / 300)


def test_classes_that_neither_holds_do_not_count():
    prediction, truth = np.array([0, 0, 2, 2]), np.array([0, 0, 2, 0])
    matrix = overlap.confusion(prediction, truth, classes=4)
    np.testing.assert_allclose(overlap.class_iou(matrix), [2 / 3, np.nan, 1 / 2, np.nan])
    assert overlap.mean_iou(matrix) == pytest.approx((2 / 3 + 1 / 2) / 2)


def test_foreground_is_every_class_but_background():
    matrix = overlap.confusion(np.array([1, 2, 0, 0]), np.array([2, 2, 1, 0]), classes=3)
    assert overlap.dice(matrix) == pytest.approx(2 * 2 / 5)


def test_bool_masks_and_refusals():
    assert overlap.dice(overlap.confusion(np.array([True]), np.array([1]))) == 1
    with pytest.raises(ValueError, match="0 to 255, not 0 to 1"):
        overlap.confusion(np.array([0, 255], np.uint8), np.array([0, 1]))
    with pytest.raises(ValueError, match="float"):
        overlap.confusion(np.array([0.2]), np.array([0]))
    with pytest.raises(ValueError, match="cannot be compared"):
        overlap.confusion(np.zeros((2, 3), int), np.zeros((3, 2), int))


def test_dice_of_each_class():
    prediction, truth = np.array([0, 0, 2, 2]), np.array([0, 0, 2, 0])
    matrix = overlap.confusion(prediction, truth, classes=4)
    np.testing.assert_allclose(overlap.class_dice(matrix), [4 / 5, np.nan, 2 / 3, np.nan])
    several = np.stack([matrix, 0 * matrix])
    for score in (overlap.class_dice, overlap.class_iou):
        np.testing.assert_array_equal(score(several), [score(matrix), [np.nan] * 4])
