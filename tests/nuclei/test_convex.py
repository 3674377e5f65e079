import numpy as np
import pytest
import skimage.morphology

from histojax.nuclei import convex


def hull_area(mask):
    """`convex_areas` of one mask, (H, W), which fills its first and last row."""
    rows = [np.flatnonzero(row) for row in mask]
    left = np.array([row[0] if len(row) else 1 for row in rows])
    right = np.array([row[-1] if len(row) else 0 for row in rows])
    return convex.convex_areas(np.array([len(mask)]), left, right)[0]


def test_hulls_of_drawn_shapes():
    assert hull_area(np.ones((1, 1))) == 1
    assert hull_area(np.ones((1, 7))) == 7
    assert hull_area(np.ones((4, 5))) == 20
    # A diagonal line holds the centers on the line alone, because the hull is half a pixel wide.
    assert hull_area(np.eye(6)) == 6
    # The upper left triangle of a square is convex; the missing center of a frame is filled.
    assert hull_area(np.tri(5)[::-1]) == 15
    frame = np.ones((3, 3))
    frame[1, 1] = 0
    assert hull_area(frame) == 9
    # Two pixels in one column, far apart: the column between them.
    assert hull_area(np.array([[1], [0], [0], [1]])) == 4


@pytest.mark.parametrize("seed", range(4))
def test_hulls_equal_those_of_scikit_image_one_by_one_and_together(seed):
    rng = np.random.default_rng(seed)
    masks = []
    for _ in range(60):
        mask = rng.random(rng.integers(1, 40, 2)) < rng.choice([0.05, 0.3, 0.9])
        mask[[0, -1], rng.integers(mask.shape[1], size=2)] = True
        masks.append(mask)
    expected = [skimage.morphology.convex_hull_image(mask).sum() for mask in masks]
    assert [hull_area(mask) for mask in masks] == expected
    rows = [np.flatnonzero(row) for mask in masks for row in mask]
    left = np.array([row[0] if len(row) else 1 for row in rows])
    right = np.array([row[-1] if len(row) else 0 for row in rows])
    heights = np.array([len(mask) for mask in masks])
    np.testing.assert_array_equal(convex.convex_areas(heights, left, right), expected)


def test_no_nuclei_have_no_areas():
    none = np.zeros(0, int)
    assert convex.convex_areas(none, none, none).shape == (0,)
