import numpy as np
import pytest
import skimage.measure

from histojax.errors import UserError
from histojax.nuclei import components


def _mask(*rows):
    return np.array([[c == "#" for c in row] for row in rows], np.uint8)


U_SHAPE = _mask(
    "#...#..#",
    "#...#..#",
    "#...#...",
    "#####..#",
)
DIAGONAL = _mask(
    "#......#",
    ".#....#.",
    "..#..#..",
    "...##...",
    "........",
    ".#......",
    "#.......",
)
SPIRAL = _mask(
    "###########",
    "..........#",
    "#########.#",
    "#.......#.#",
    "#.#####.#.#",
    "#.#...#.#.#",
    "#.#.###.#.#",
    "#.#.....#.#",
    "#.#######.#",
    "#.........#",
    "###########",
)
RING_WITH_ISLAND = _mask(
    ".........",
    ".#######.",
    ".#.....#.",
    ".#..#..#.",
    ".#.....#.",
    ".#######.",
    ".........",
    "..###...#",
    "..#.#..#.",
    "..###...#",
)


def test_components_are_numbered_by_their_first_pixel():
    labels = components.label_mask(U_SHAPE)
    assert labels.dtype == np.int32
    # The U is one component; of the right column's two pieces the upper comes first.
    assert labels.max() == 3
    assert labels[0, 0] == labels[0, 4] == 1
    assert labels[0, 7] == 2
    assert labels[3, 7] == 3


def test_diagonal_neighbors_join_at_8_and_part_at_4():
    assert components.label_mask(DIAGONAL).max() == 2
    # At 4 every pixel is its own component but for the two that share an edge: 10 pixels, 9.
    assert components.label_mask(DIAGONAL, connectivity=4).max() == DIAGONAL.sum() - 1


def test_area_counts_the_whole_component():
    assert components.label_mask(SPIRAL, min_area=int(SPIRAL.sum())).max() == 1
    assert components.label_mask(SPIRAL, min_area=int(SPIRAL.sum()) + 1).max() == 0


def test_filled_holes_join_what_they_hold():
    # The ring's hole is 5 x 3 less the island, 14 px; the small ring's is 1 px.
    labels = components.label_mask(RING_WITH_ISLAND)
    assert labels.max() == 4
    labels = components.label_mask(RING_WITH_ISLAND, max_hole=13)
    assert labels.max() == 4
    assert labels[8, 3] == labels[7, 2]
    assert labels[2, 2] == 0
    labels = components.label_mask(RING_WITH_ISLAND, max_hole=14)
    assert labels.max() == 3
    assert (labels == 1).sum() == 35


def test_a_bay_at_the_border_is_no_hole():
    mask = _mask("#.#", "###")
    np.testing.assert_array_equal(components.label_mask(mask, max_hole=9), mask)


def test_a_hole_leaks_at_a_corner_of_4_connected_tissue():
    mask = _mask(".....", ".###.", ".#.#.", ".##..", ".....")
    assert components.label_mask(mask, max_hole=1, connectivity=8)[2, 2] == 1
    assert components.label_mask(mask, max_hole=1, connectivity=4)[2, 2] == 0


@pytest.mark.parametrize("connectivity", [4, 8])
def test_labels_equal_those_of_scikit_image(connectivity):
    mask = np.random.default_rng(5).random((90, 70)) < 0.5
    expected = skimage.measure.label(mask, connectivity=1 if connectivity == 4 else 2)
    np.testing.assert_array_equal(components.label_mask(mask, connectivity=connectivity), expected)


def test_objects_larger_than_a_nucleus_are_dropped_and_the_rest_numbered_again():
    # Of the U (11 px), the upper right (2 px) and the lower right (1 px) the largest goes.
    labels = components.label_mask(U_SHAPE)
    rest = np.zeros_like(labels)
    rest[:2, 7], rest[3, 7] = 1, 2
    np.testing.assert_array_equal(components.drop_larger(labels, 10), rest)
    np.testing.assert_array_equal(components.drop_larger(labels, 11), labels)
    assert not components.drop_larger(np.zeros((2, 3), np.int32), 5).any()


@pytest.mark.faults
def test_many_components():
    mask = np.zeros((800, 1400), np.uint8)
    mask[::4, ::4] = 1
    labels = components.label_mask(mask)
    assert labels.max() == 70_000
    assert labels[0, 0] == 1
    assert labels[796, 1396] == 70_000


@pytest.mark.faults
@pytest.mark.parametrize("value", [0, 1])
def test_empty_and_full_masks(value):
    mask = np.full((9, 7), value, np.uint8)
    np.testing.assert_array_equal(components.label_mask(mask, max_hole=100), mask)


def test_unknown_connectivity_is_refused():
    with pytest.raises(UserError, match="connectivity=6 is not known; choose one of 4, 8"):
        components.label_mask(U_SHAPE, connectivity=6)
