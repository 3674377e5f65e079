import numpy as np
import pytest

from histojax.inference.regions import region_nuclei
from histojax.inference.regions.cut import Region, Seen
from histojax.inference.regions.region_nuclei import Nuclei
from histojax.nuclei import measurements, outlines
from tests.inference.regions import dark

LABELS = np.zeros((40, 60), np.int32)
LABELS[1:6, 1:6], LABELS[3, 3] = 3, 0
LABELS[0:2, 58:60] = LABELS[22:24, 0:3] = 7
LABELS[18:20, 30:32] = 8
LABELS[30:39, 45:50] = 12
IMAGE = np.full((40, 60, 3), dark.PINK, np.uint8)


def nuclei(labels, origin=(0, 0)):
    image = np.full((*labels.shape, 3), 150, np.uint8)
    table = measurements.measure(
        labels, image, mpp=0.5, origin=origin, frame=(0, 0, 40, 60), with_neighbours=False
    )
    return Nuclei(table, outlines.trace(labels, origin))


def halves():
    """The same nuclei from an upper and a lower half, numbered in each."""
    upper, lower = LABELS.copy(), LABELS.copy()
    upper[:, :] = np.where(np.isin(LABELS, (3, 8)), LABELS, 0)
    lower[:, :] = np.where(np.isin(LABELS, (7, 12)), LABELS, 0)
    return nuclei(upper), nuclei(lower)


def same(first, second):
    assert first.table.keys() == second.table.keys()
    for name, values in first.table.items():
        np.testing.assert_array_equal(values, second.table[name])
    for name in ("points", "rings", "polygons", "labels"):
        np.testing.assert_array_equal(getattr(first.outlines, name), getattr(second.outlines, name))


def test_what_is_saved_is_read(tmp_path):
    found = nuclei(LABELS)
    region_nuclei.save(tmp_path / "parts" / "a.npz", found)
    same(region_nuclei.load(tmp_path / "parts" / "a.npz"), found)
    assert [path.name for path in (tmp_path / "parts").iterdir()] == ["a.npz"]


def test_no_nuclei_are_saved_and_joined_too(tmp_path):
    none = nuclei(np.zeros_like(LABELS))
    region_nuclei.save(tmp_path / "a.npz", none)
    same(region_nuclei.load(tmp_path / "a.npz"), none)
    both = region_nuclei.joined([none, nuclei(LABELS), none])
    assert both.table["label"].tolist() == [1, 2, 3, 4]
    assert region_nuclei.joined([none, none]).table["label"].tolist() == []


def test_joined_nuclei_are_numbered_part_by_part():
    whole = region_nuclei.joined(halves())
    assert whole.table["label"].tolist() == [1, 2, 3, 4]
    drawn = outlines.rasterize(whole.outlines, LABELS.shape)
    number = {0: 0, 3: 1, 8: 2, 7: 3, 12: 4}
    np.testing.assert_array_equal(drawn, np.vectorize(number.get)(LABELS))
    # A row of the table is about the nucleus of its number.
    areas = np.bincount(drawn.ravel())[1:]
    np.testing.assert_allclose(whole.table["area_um2"], areas * 0.25)


@pytest.mark.parametrize("rows", [1, 7, 512])
def test_strips_of_labels_are_what_the_outlines_enclose(rows):
    whole = region_nuclei.joined(halves())
    strips = list(region_nuclei.label_strips(whole.outlines, 40, 60, rows=rows))
    assert {strip.dtype for strip in strips} == {np.dtype(np.uint32)}
    assert [len(strip) for strip in strips][:-1] == [rows] * (len(strips) - 1)
    expected = outlines.rasterize(whole.outlines, (40, 60))
    np.testing.assert_array_equal(np.concatenate(strips), expected)


def test_a_slide_without_nuclei_has_empty_labels():
    none = outlines.trace(np.zeros((5, 5), np.int32))
    strips = list(region_nuclei.label_strips(none, 40, 60, rows=30))
    assert [strip.shape for strip in strips] == [(30, 60), (10, 60)]
    assert not np.concatenate(strips).any()


def test_those_in_a_box_are_numbered_again_in_their_order():
    found = region_nuclei.joined([nuclei(LABELS)])
    # By their centroids: 3 at (3, 3), 7 at (13.7, 24), 8 at (18.5, 30.5), 12 at (34, 47).
    part = region_nuclei.within(found, (10, 20, 30, 40))
    assert part.table["label"].tolist() == [1, 2, 3]
    drawn = outlines.rasterize(part.outlines, LABELS.shape)
    number = {0: 0, 3: 0, 7: 1, 8: 2, 12: 3}
    np.testing.assert_array_equal(drawn, np.vectorize(number.get)(LABELS))
    same(region_nuclei.within(found, (0, 0, 40, 60)), found)
    assert region_nuclei.within(found, (0, 20, 5, 5)).table["label"].tolist() == []


def test_the_copied_polygons_are_those_that_were_asked_for():
    found = outlines.trace(LABELS)
    wanted = np.flatnonzero(found.labels == 7)
    part = region_nuclei.selected(found, wanted)
    np.testing.assert_array_equal(outlines.rasterize(part, LABELS.shape), 7 * (LABELS == 7))
    part.points[:] += 1
    np.testing.assert_array_equal(outlines.rasterize(found, LABELS.shape), LABELS)
    assert not len(region_nuclei.selected(found, np.zeros(0, int)).labels)


@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.faults
def test_a_nucleus_in_the_corner_of_four_regions_is_found_once(scale):
    """Centroids on the very border belong to the region that begins there."""
    y, x = np.mgrid[: 80 * scale, : 80 * scale]
    middle = 40 * scale - 0.5
    disc = np.hypot(y - middle, x - middle) <= 9 * scale
    run, size = dark.run(), (80 * scale, 80 * scale)
    found = []
    for top, left in ((0, 0), (0, 40), (40, 0), (40, 40)):
        seen = Region((top, left, 40, 40), (0, 0, 80, 80))
        image = np.full((*size, 3), 150, np.uint8)
        maps = {"mask": disc[..., None].astype(np.float32), "sr": image}
        one = region_nuclei.find(
            run,
            None,
            Seen(seen, image, maps, tiles=1),
            size=size,
            frame=(0, 0, *size),
            mpp=0.5,
            at=0.5,
            cell_expansion=5.0,
        )
        found.append(len(one.table["label"]))
    assert found == [0, 0, 0, 1]


def found_in(labels, region):
    """What a region finds of the labels of a slide."""
    y, x, height, width = region.seen
    mask = labels[y : y + height, x : x + width, None] > 0
    image = np.full((height, width, 3), 150, np.uint8)
    return region_nuclei.find(
        dark.run(),
        None,
        Seen(region, image, {"mask": mask.astype(np.float32)}, tiles=1),
        size=labels.shape,
        frame=(0, 0, *labels.shape),
        mpp=0.5,
        at=0.5,
        cell_expansion=0.0,
    )


def test_a_region_measures_what_lies_in_the_whole():
    labels = np.zeros((60, 80), np.int32)
    labels[20:30, 50:62] = labels[0:5, 44:50] = 1
    found = found_in(labels, Region((0, 40, 60, 40), (0, 24, 60, 56)))
    assert found.table["x_px"].tolist() == [46.5, 55.5]
    assert found.table["y_px"].tolist() == [2.0, 24.5]
    assert found.table["area_um2"].tolist() == [30 * 0.25, 120 * 0.25]
    # The upper one touches the edge of the slide, and neither the region's.
    assert found.table["touches_edge"].tolist() == [True, False]
    assert found.table["probability"].tolist() == [1.0, 1.0]
    drawn = outlines.rasterize(found.outlines, (60, 80)) > 0
    np.testing.assert_array_equal(drawn, labels > 0)


@pytest.mark.faults
def test_an_object_that_the_window_cuts_is_dropped_and_counted():
    """Of three bars one ends at the slide's edge, one before the window's, one is cut by that."""
    labels = np.zeros((60, 100), bool)
    labels[5:9, 0:40] = labels[20:24, 20:59] = labels[40:44, 18:90] = True
    found = found_in(labels, Region((0, 0, 60, 40), (0, 0, 60, 60)))
    assert found.table["area_um2"].tolist() == [160 * 0.25, 4 * 39 * 0.25]
    # The part of the third that the region owns; its centroid in the window is at column 38.5.
    assert found.dropped == 4 * 22
    assert not outlines.rasterize(found.outlines, (60, 100))[40:44].any()
