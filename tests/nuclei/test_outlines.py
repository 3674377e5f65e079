import dataclasses

import numpy as np
import pytest
import skimage.measure

from histojax.nuclei import outlines
from histojax.nuclei.outlines import collect, rasterize, trace


def _labels(*rows):
    return np.array([[int(c) for c in row.replace(".", "0")] for row in rows], np.int32)


def area(ring):
    """Signed area of a ring, px."""
    x, y = ring.astype(float).T
    return (x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2


SQUARE = _labels(".......", ".55555.", ".55555.", ".55555.", ".55555.", ".55555.")
CORNER = _labels("11..", "11..", "..11", "..11")
SPUR = _labels(".....", ".111.", ".1111", ".111.", ".1...", ".....")
SMALL = _labels("1.2", "..2", "33.")
FRAME = _labels("11111", "1...1", "1.1.1", "1...1", "11111")
# The hole meets the exterior in one vertex, and two holes meet in one.
BITE = _labels(".111", "1.11", "1111", "1111")
HOLES = _labels("11111", "1.111", "11.11", "11111")
OPEN = _labels(".11", "1.1", "111")
TOUCHING = _labels("1122", "1322", "3312", "3311")
ISLANDS = _labels("777.", "7.7.", "777.", "...7", "77..", "77..")
NESTED = _labels("1111111", "1.....1", "1.111.1", "1.1.1.1", "1.111.1", "1.....1", "1111111")
DRAWN = (SQUARE, CORNER, SPUR, SMALL, FRAME, BITE, HOLES, OPEN, TOUCHING, ISLANDS, NESTED)


def check_valid(labels, found):
    """Asserts what makes polygons valid, and that they enclose the pixels of their labels."""
    parts = skimage.measure.label(labels, background=0, connectivity=1)
    for label, polygons in found:
        # A polygon for each part that edges connect: its interior is connected.
        assert len(polygons) == len(np.unique(parts[labels == label]))
        assert sum(area(ring) for rings in polygons for ring in rings) == (labels == label).sum()
        for rings in polygons:
            assert [area(ring) > 0 for ring in rings] == [True] + [False] * (len(rings) - 1)
            edges = []
            for ring in rings:
                # Every vertex once, and a turn at each: no ring touches or crosses itself, and none
                # has a vertex on a line between two others.
                assert len(np.unique(ring, axis=0)) == len(ring) >= 4
                step = np.roll(ring, -1, axis=0) - ring
                assert ((step == 0).sum(axis=1) == 1).all()
                assert ((step[:, 0] == 0) != (np.roll(step[:, 0], 1) == 0)).all()
                edges += [
                    tuple(corner + k * np.sign(move)) + tuple(abs(np.sign(move)))
                    for corner, move in zip(np.minimum(ring, ring + step), abs(step), strict=True)
                    for k in range(abs(move).max())
                ]
            # No two rings share a piece of an edge.
            assert len(set(edges)) == len(edges)
    assert [label for label, _ in found] == sorted(set(labels[labels > 0].tolist()))


@pytest.mark.parametrize("labels", DRAWN)
def test_outlines_of_drawn_labels_are_valid_and_give_them_back(labels):
    for turned in (labels, labels[::-1], labels[:, ::-1], labels.T, np.pad(labels, 2)):
        found = trace(turned)
        check_valid(turned, found)
        np.testing.assert_array_equal(rasterize(found, turned.shape), turned)


@pytest.mark.parametrize("seed", range(6))
def test_outlines_of_noise_are_valid_and_give_it_back(seed):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 26, 2))
    labels = rng.choice([0, 1, 2, 2**31 - 1], shape, p=[0.3, 0.5, 0.1, 0.1]).astype(np.int32)
    found = trace(labels)
    check_valid(labels, found)
    np.testing.assert_array_equal(rasterize(found, shape), labels)


def test_a_square_lies_on_the_edges_of_its_pixels():
    ((label, ((ring,),)),) = trace(SQUARE)
    assert label == 5
    assert ring.tolist() == [[1, 1], [6, 1], [6, 6], [1, 6]]
    ((_, ((ring,),)),) = trace(SQUARE, origin=(100, 30))
    assert ring.tolist() == [[31, 101], [36, 101], [36, 106], [31, 106]]


@pytest.mark.faults
def test_pixels_that_meet_in_a_corner_are_two_polygons_of_one_label():
    ((label, polygons),) = trace(CORNER)
    assert label == 1
    assert [[ring.tolist() for ring in rings] for rings in polygons] == [
        [[[0, 0], [2, 0], [2, 2], [0, 2]]],
        [[[2, 2], [4, 2], [4, 4], [2, 4]]],
    ]


@pytest.mark.faults
def test_a_ring_that_closes_in_a_corner_is_an_exterior_and_a_hole():
    ((_, (rings,)),) = trace(OPEN)
    assert [abs(area(ring)) for ring in rings] == [8, 1]
    ((_, (rings,)),) = trace(HOLES)
    assert [abs(area(ring)) for ring in rings] == [20, 1, 1]


def test_holes_belong_to_the_island_around_them():
    ((_, polygons),) = trace(NESTED)
    assert [[abs(area(ring)) for ring in rings] for rings in polygons] == [[49, 25], [9, 1]]
    ((_, polygons),) = trace(ISLANDS)
    assert [[abs(area(ring)) for ring in rings] for rings in polygons] == [[9, 1], [1], [4]]


@pytest.mark.faults
def test_regions_give_the_outlines_of_the_whole_image():
    labels = np.zeros((40, 60), np.int32)
    labels[3:9, 4:11], labels[20:31, 22:40] = 3, 900_000
    whole = dict(trace(labels))
    part = dict(trace(labels[15:35, 20:45], origin=(15, 20)))
    np.testing.assert_array_equal(part[900_000][0][0], whole[900_000][0][0])


@pytest.mark.faults
def test_more_labels_than_16_bits_hold():
    labels = np.zeros((520, 520), np.int32)
    labels[::2, ::2] = np.arange(1, 260**2 + 1).reshape(260, 260)
    found = trace(labels)
    assert len(found.labels) == 260**2
    np.testing.assert_array_equal(rasterize(found, labels.shape), labels)


def test_collected_outlines_are_those_that_were_traced():
    found = trace(ISLANDS)
    again = collect(found)
    for name in ("points", "rings", "polygons", "labels"):
        np.testing.assert_array_equal(getattr(again, name), getattr(found, name))
    moved = [
        (label, [[ring * 0.37 + (1000.5, -3) for ring in rings] for rings in polygons])
        for label, polygons in found
    ]
    back = collect(reversed(moved), scale=0.37, offset=(1000.5, -3))
    np.testing.assert_array_equal(back.points, found.points)


@pytest.mark.faults
def test_no_labels_have_no_outlines():
    for shape in ((0, 0), (0, 5), (3, 4)):
        found = trace(np.zeros(shape, np.int32))
        assert list(found) == []
        assert not rasterize(found, shape).any()
    assert list(collect([])) == []


@pytest.mark.faults
def test_outlines_that_no_pixels_have_are_refused():
    slanted = collect([(1, [[np.array([[0, 0], [4, 0], [2, 3]])]])])
    with pytest.raises(ValueError, match="neither rows nor columns"):
        rasterize(slanted, (5, 5))
    with pytest.raises(ValueError, match="beyond the image"):
        rasterize(trace(SQUARE), (5, 5))


def test_a_long_ring_is_walked_to_its_end():
    labels = np.zeros((3, 4001), np.int32)
    labels[0], labels[1, ::2] = 1, 1
    found = trace(labels)
    # Three corners more than two a tooth's side: the comb's four outer ones and its gaps.
    assert len(found.points) == 4 + 4 * 2000
    assert outlines.rasterize(found, labels.shape)[1].sum() == 2001


@pytest.mark.faults
def test_of_overlapping_outlines_the_smallest_label_has_the_pixels():
    one, other, third = (np.zeros((9, 12), np.int32) for _ in range(3))
    one[1:5, 1:6], other[3:8, 4:9], third[6:9, 8:12] = 1, 5, 9
    parts = [feature for labels in (other, third, one) for feature in trace(labels)]
    expected = np.where(one > 0, one, np.where(other > 0, other, third))
    np.testing.assert_array_equal(rasterize(collect(parts), (9, 12)), expected)


@pytest.mark.faults
def test_fractions_of_pixels_are_refused():
    found = dataclasses.replace(trace(SQUARE), points=trace(SQUARE).points * 1.5)
    with pytest.raises(ValueError, match="fractions of px enclose no whole pixels"):
        rasterize(found, (12, 12))
