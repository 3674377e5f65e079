import os

import numpy as np
import pytest
import skimage.io
import skimage.measure

from histojax.errors import UserError
from histojax.imaging import tiling
from histojax.nuclei import components


def _mask(*rows):
    return np.array([[c == "#" for c in row] for row in rows], np.uint8)


def label_strips(strips, *, rows=None, **options):
    """The labels of a mask given by strips, recut to `rows` first where that is given."""
    pieces = list(strips if rows is None else tiling.recut(strips, rows))
    with components.StripLabeller(pieces[0].shape[1], **options) as labeller:
        for piece in pieces:
            labeller.add(piece)
        return labeller.finish()


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


def _stream(mask, rows, **options):
    with label_strips([mask], rows=rows, **options) as labels:
        pieces = list(labels.strips(5))
        return np.concatenate(pieces), labels.areas


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


@pytest.mark.parametrize("mask", [U_SHAPE, DIAGONAL, SPIRAL, RING_WITH_ISLAND])
def test_drawn_shapes_stream_to_the_same_labels(mask):
    for turned in (mask, mask[::-1], mask[:, ::-1], mask.T):
        for options in ({}, {"min_area": 3}, {"max_hole": 14}, {"max_hole": 1, "min_area": 9}):
            expected = components.label_mask(turned, **options)
            for rows in (1, 2, 3, 5, 100):
                labels, areas = _stream(turned, rows, **options)
                assert labels.dtype == np.int32
                np.testing.assert_array_equal(labels, expected)
                np.testing.assert_array_equal(areas, np.bincount(expected.ravel())[1:])


@pytest.mark.parametrize("seed", range(12))
def test_random_masks_stream_to_the_same_labels(seed):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 60, 2))
    # Around .4 and .6 the 8- and 4-connected components of noise percolate: long, tangled shapes.
    mask = (rng.random(shape) < rng.choice([0.1, 0.35, 0.5, 0.6, 0.9])).astype(np.uint8)
    for min_area, max_hole in ((0, 0), (4, 0), (0, 3), (6, 10_000), (1, 2)):
        options = dict(min_area=min_area, max_hole=max_hole)
        expected = components.label_mask(mask, **options)
        for rows in (1, 2, int(rng.integers(3, 40))):
            labels, areas = _stream(mask, rows, **options)
            np.testing.assert_array_equal(labels, expected)
            np.testing.assert_array_equal(areas, np.bincount(expected.ravel())[1:])


@pytest.mark.parametrize("connectivity", [4, 8])
def test_labels_equal_those_of_scikit_image(connectivity):
    mask = np.random.default_rng(5).random((90, 70)) < 0.5
    expected = skimage.measure.label(mask, connectivity=1 if connectivity == 4 else 2)
    np.testing.assert_array_equal(components.label_mask(mask, connectivity=connectivity), expected)


@pytest.mark.parametrize("core", [4, 9, 32])
def test_the_tile_does_not_change_the_labels(core):
    image = np.zeros((41, 53, 3), np.uint8)
    image[:] = (np.random.default_rng(1).random((41, 53)) < 0.45)[..., None]

    def network(windows):
        return {"mask": windows[..., 0].repeat(2, 1).repeat(2, 2)}

    strips = tiling.strips(tiling.tiled(network, image, core=core, halo=3, scale=2))
    with label_strips((strip["mask"] for strip in strips), min_area=12) as labels:
        expected = components.label_mask(image[..., 0].repeat(2, 0).repeat(2, 1), min_area=12)
        np.testing.assert_array_equal(labels.read(0, 0, 82, 106), expected)
        np.testing.assert_array_equal(labels.read(10, 20, 30, 500), expected[10:40, 20:])
        assert labels.count == expected.max()


def test_objects_larger_than_a_nucleus_are_dropped_and_the_rest_numbered_again():
    # Of the U (11 px), the upper right (2 px) and the lower right (1 px) the largest goes.
    labels = components.label_mask(U_SHAPE)
    rest = np.zeros_like(labels)
    rest[:2, 7], rest[3, 7] = 1, 2
    np.testing.assert_array_equal(components.drop_larger(labels, 10), rest)
    np.testing.assert_array_equal(components.drop_larger(labels, 11), labels)
    with label_strips([U_SHAPE], rows=2) as found:
        assert found.drop_larger(10) == 1
        np.testing.assert_array_equal(np.concatenate(list(found.strips(3))), rest)
        assert found.areas.tolist() == [2, 1]
        assert found.drop_larger(0.5) == 2
        assert found.count == 0
    assert not components.drop_larger(np.zeros((2, 3), np.int32), 5).any()


@pytest.mark.faults
def test_many_components():
    mask = np.zeros((800, 1400), np.uint8)
    mask[::4, ::4] = 1
    labels, areas = _stream(mask, 97)
    assert len(areas) == 70_000
    assert labels[0, 0] == 1
    assert labels[796, 1396] == 70_000


@pytest.mark.faults
@pytest.mark.parametrize("value", [0, 1])
def test_empty_and_full_masks(value):
    mask = np.full((9, 7), value, np.uint8)
    labels, areas = _stream(mask, 2, max_hole=100)
    np.testing.assert_array_equal(labels, mask)
    assert list(areas) == [63] * value


def test_unknown_connectivity_and_unwritable_folder_are_refused(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="connectivity=6 is not known; choose one of 4, 8"):
        components.label_mask(U_SHAPE, connectivity=6)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "absent"))
    with pytest.raises(UserError, match="Writing to the temporary folder failed"):
        label_strips([U_SHAPE])


def test_the_temporary_file_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with label_strips([U_SHAPE]) as labels:
        assert labels.count == 3
    assert os.listdir(tmp_path) == []


def test_strips_of_another_width_are_refused():
    with pytest.raises(ValueError, match="8 columns"):
        label_strips([U_SHAPE, U_SHAPE[:, :5]])
