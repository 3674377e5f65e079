import numpy as np
import pytest

from histojax.metrics import classes, overlap

NAMES = ["background", "tumour cells", "Stroma", "necrosis"]
# Two images of 6 px; none holds necrosis, and only the first stroma.
TRUTH = np.array([[0, 0, 1, 1, 2, 2], [0, 0, 0, 0, 1, 1]])
FOUND = np.array([[0, 1, 1, 1, 2, 0], [0, 0, 0, 1, 1, 1]])


def matrices():
    pairs = zip(FOUND, TRUTH, strict=True)
    return np.stack([overlap.confusion(found, truth, classes=4) for found, truth in pairs])


def test_classes_in_neither_image_nor_prediction_do_not_count():
    first, second = (classes.score_classes(matrix, NAMES) for matrix in matrices())
    # Background: 1 px shared of 2 and 2; tumour: 2 of 2 and 3; stroma: 1 of 2 and 1.
    assert first == {
        "class_miou": pytest.approx((1 / 3 + 2 / 3 + 1 / 2) / 3),
        "class_dice_background": pytest.approx(2 / 4),
        "class_dice_tumour_cells": pytest.approx(4 / 5),
        "class_dice_stroma": pytest.approx(2 / 3),
    }
    assert second == {
        "class_miou": pytest.approx((3 / 4 + 2 / 3) / 2),
        "class_dice_background": pytest.approx(6 / 7),
        "class_dice_tumour_cells": pytest.approx(4 / 5),
    }


def test_pooled_scores_are_of_all_pixels_together():
    found = classes.score_pooled(matrices(), NAMES)
    # Background: 4 px shared of 6 and 5; tumour: 4 of 4 and 6; stroma as in the first image.
    assert {name: interval.mean for name, interval in found.items()} == {
        "class_miou_pooled": pytest.approx((4 / 7 + 4 / 6 + 1 / 2) / 3),
        "class_dice_pooled_background": pytest.approx(8 / 11),
        "class_dice_pooled_tumour_cells": pytest.approx(8 / 10),
        "class_dice_pooled_stroma": pytest.approx(2 / 3),
    }
    # Of two images either may be drawn twice.
    background = found["class_dice_pooled_background"]
    assert (background.low, background.high) == pytest.approx((2 / 4, 6 / 7))
    assert background.n == 2
    stroma = found["class_dice_pooled_stroma"]
    assert stroma.low == stroma.high == pytest.approx(2 / 3)


def test_what_is_right_everywhere_scores_one():
    matrix = overlap.confusion(TRUTH, TRUTH, classes=4)
    assert set(classes.score_classes(matrix, NAMES).values()) == {1.0}
    assert {interval[:3] for interval in classes.score_pooled(matrix[None], NAMES).values()} == {
        (1.0, 1.0, 1.0)
    }


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["background", "Gleason 3+4", "Épithélium"], ["background", "gleason_3_4", "épithélium"]),
        (["a b", "a-b", "c"], ["0", "1", "2"]),
        (["a", "+"], ["0", "1"]),
    ],
)
def test_names_that_would_be_alike_are_numbers(names, words):
    assert classes.class_words(names) == words
