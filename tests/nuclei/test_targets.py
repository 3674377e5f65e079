import numpy as np
import pytest
import scipy.ndimage
import skimage.draw

from histojax.nuclei import targets


def blobs(seed=0, shape=(120, 130), count=40):
    """Overlapping ellipses, so that many touch and some are cut by the border; int32."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.int32)
    for number in range(1, count + 1):
        y, x = rng.uniform(0, shape[0]), rng.uniform(0, shape[1])
        a, b, turn = rng.uniform(1, 16), rng.uniform(1, 9), rng.uniform(0, 3)
        labels[skimage.draw.ellipse(y, x, a, b, shape, turn)] = number
    return labels


def rectangle(area):
    """One instance of exactly `area` px, as square as it can be, far from the border; (60, 60)."""
    labels = np.zeros((60, 60), np.int32)
    side = int(np.sqrt(area))
    labels[10:50, 10 : 10 + side].flat[:area] = 1
    assert labels.sum() == area
    return labels


def drawn(*rows):
    return np.array([[int(c) if c.isdigit() else 0 for c in row] for row in rows], np.int32)


@pytest.mark.parametrize(
    ("radius", "widths"),
    [
        (0, [1]),
        (1, [1, 3, 1]),
        (2, [1, 3, 5, 3, 1]),
        (3, [5] * 5),
        (4, [3, 5, 7, 7, 7, 5, 3]),
        (5, [5, 7, 9, 9, 9, 9, 9, 7, 5]),
        (6, [7, 9, 11, 11, 11, 11, 11, 11, 11, 9, 7]),
    ],
)
def test_disks_are_those_of_matlab(radius, widths):
    disk = targets.disk(radius)
    assert list(disk.sum(1)) == widths
    np.testing.assert_array_equal(disk, disk.T)
    np.testing.assert_array_equal(disk, disk[::-1, ::-1])


def test_golden_sizes_of_the_disks():
    assert [int(targets.disk(r).sum()) for r in targets.RADII] == [1, 5, 37, 109]


@pytest.mark.parametrize(
    ("area", "radius"), [(70, 0), (71, 1), (120, 1), (121, 4), (500, 4), (501, 6)]
)
def test_radius_by_area(area, radius):
    labels = rectangle(area)
    expected = scipy.ndimage.binary_erosion(labels > 0, targets.disk(radius))
    np.testing.assert_array_equal(targets.shape_markers(labels) > 0, expected)
    assert expected.any()


@pytest.mark.parametrize("seed", range(4))
def test_markers_are_each_instance_eroded_by_itself(seed):
    labels = blobs(seed)
    expected = np.zeros_like(labels)
    for number in np.unique(labels)[1:]:
        one = labels == number
        area = one.sum()
        radius = 0 if area <= 70 else 1 if area <= 120 else 4 if area <= 500 else 6
        eroded = scipy.ndimage.binary_erosion(one, targets.disk(radius), border_value=1)
        expected[eroded] = number
    found = targets.shape_markers(labels, separate=False)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("make", [targets.shape_markers, targets.center_markers])
@pytest.mark.parametrize("seed", range(4))
def test_touching_nuclei_keep_separate_markers(seed, make):
    found = make(blobs(seed))
    components, count = scipy.ndimage.label(found > 0, np.ones((3, 3)))
    for number in range(1, count + 1):
        assert len(np.unique(found[components == number])) == 1
    # Nothing but what touches another marker is cut.
    together = make(blobs(seed), separate=False)
    assert (found <= together).all()
    near = scipy.ndimage.maximum_filter(together, 3)
    least = scipy.ndimage.minimum_filter(np.where(together, together, 2**30), 3)
    lone = (together > 0) & (near == together) & (least == together)
    np.testing.assert_array_equal(found[lone], together[lone])


def test_two_small_nuclei_side_by_side_are_parted_by_a_gap():
    labels = drawn("11112222", "11112222", "11112222")
    np.testing.assert_array_equal(
        targets.shape_markers(labels), drawn("111..222", "111..222", "111..222")
    )
    np.testing.assert_array_equal(targets.shape_markers(labels, separate=False), labels)


def test_the_border_of_the_image_erodes_nothing():
    labels = np.zeros((40, 40), np.int32)
    labels[:20, :20] = 7  # 400 px: the disk of 4 px reaches 3
    expected = np.zeros_like(labels)
    # The octagon cuts the inner corner at 45 degrees: |x| + |y| reaches 4 px, one more than 3.
    expected[:17, :17] = 7
    np.testing.assert_array_equal(targets.shape_markers(labels), expected)
    labels[:] = 7
    np.testing.assert_array_equal(targets.shape_markers(labels), labels)


def test_a_nucleus_that_is_eroded_to_nothing_has_no_marker():
    labels = np.zeros((50, 50), np.int32)
    labels[10:12, 5:45] = 1  # 80 px, 2 px high: the cross is 3
    assert not targets.shape_markers(labels).any()


def test_scale_changes_areas_and_radii():
    # At .5 um per px a disk of 4 px becomes one of 2, and 121 to 500 px become 31 to 125.
    labels = rectangle(125)
    expected = scipy.ndimage.binary_erosion(labels > 0, targets.disk(2))
    np.testing.assert_array_equal(targets.shape_markers(labels, mpp=0.5) > 0, expected)
    expected = scipy.ndimage.binary_erosion(rectangle(126) > 0, targets.disk(3))
    np.testing.assert_array_equal(targets.shape_markers(rectangle(126), mpp=0.5) > 0, expected)
    np.testing.assert_array_equal(
        targets.shape_markers(labels, mpp=0.25), targets.shape_markers(labels)
    )


def test_center_marker_is_a_disk_about_the_centroid():
    labels = np.zeros((31, 31), np.int32)
    labels[5:26, 3:20] = 4  # centroid (15, 11)
    expected = np.zeros((31, 31), bool)
    expected[12:19, 8:15] = targets.disk(4)
    np.testing.assert_array_equal(targets.center_markers(labels), np.where(expected, 4, 0))


def test_center_marker_of_a_crescent_lies_inside():
    labels = np.zeros((21, 21), np.int32)
    labels[2:19, 2:5] = 1
    labels[2:5, 2:19] = labels[16:19, 2:19] = 1
    # The centroid, (10, 8), is 4 px right of the stem, whose nearest pixel is (10, 4).
    found = targets.center_markers(labels, radius=1)
    expected = np.zeros_like(labels)
    expected[9:12, 4] = expected[10, 3] = 1
    np.testing.assert_array_equal(found, expected)


def test_center_markers_at_the_border_and_of_one_pixel():
    labels = np.zeros((9, 9), np.int32)
    labels[0, 0] = 3
    labels[7:, 5:] = 9
    found = targets.center_markers(labels, radius=4)
    assert found[0, 0] == 3
    np.testing.assert_array_equal(found == 9, labels == 9)


def test_contours_ring_each_nucleus():
    labels = np.zeros((20, 20), np.int32)
    labels[4:12, 2:10] = 1
    labels[4:12, 10:18] = 2
    expected = np.zeros((20, 20), np.uint8)
    for left in (2, 10):
        expected[4:12, left : left + 8] = 1
        expected[5:11, left + 1 : left + 7] = 0
    np.testing.assert_array_equal(targets.contours(labels, width=1), expected)
    assert targets.contours(labels, width=1).dtype == np.uint8
    expected[4:12, 2:18] = 1
    for left in (2, 10):
        expected[6:10, left + 2 : left + 6] = 0
    np.testing.assert_array_equal(targets.contours(labels, width=2), expected)


@pytest.mark.parametrize("seed", range(3))
def test_contours_are_what_erosion_takes(seed):
    labels = blobs(seed)
    octagon = scipy.ndimage.binary_dilation(np.pad(targets.disk(2), 1), np.ones((3, 3)))
    expected = np.zeros(labels.shape, bool)
    for number in np.unique(labels)[1:]:
        one = labels == number
        expected |= one & ~scipy.ndimage.binary_erosion(one, octagon, border_value=1)
    np.testing.assert_array_equal(targets.contours(labels, width=3), expected)


def test_distances_rise_to_the_middle():
    labels = np.zeros((12, 12), np.int32)
    labels[1:6, 1:6] = 1
    labels[1:6, 6:11] = 2
    square = np.array([[1] * 5, [1, 2, 2, 2, 1], [1, 2, 3, 2, 1], [1, 2, 2, 2, 1], [1] * 5]) / 3
    expected = np.zeros((12, 12), np.float32)
    expected[1:6, 1:6] = expected[1:6, 6:11] = square
    np.testing.assert_allclose(targets.distances(labels), expected, atol=1e-6)
    assert targets.distances(labels).dtype == np.float32


@pytest.mark.parametrize("seed", range(3))
def test_distances_are_each_nucleus_by_itself(seed):
    labels = blobs(seed)
    expected = np.zeros(labels.shape)
    for number in np.unique(labels)[1:]:
        one = labels == number
        edge = one & ~scipy.ndimage.binary_erosion(one, np.ones((3, 3)), border_value=1)
        depth = 1 + scipy.ndimage.distance_transform_edt(~edge)
        expected[one] = depth[one] / depth[one].max()
    np.testing.assert_allclose(targets.distances(labels), expected, atol=1e-6)


def test_legacy_labels_lose_what_is_not_wholly_foreground():
    mask = np.zeros((1000, 1000), np.uint8)
    mask[100:200, 300:440] = 1
    # Pixel i of 992 lies at (i + .5) 1000 / 992 - .5, between two pixels of 1000.
    place = (np.arange(992) + 0.5) * 1000 / 992 - 0.5
    rows = np.flatnonzero((place >= 100) & (place <= 199))
    columns = np.flatnonzero((place >= 300) & (place <= 439))
    expected = np.zeros((992, 992), np.uint8)
    expected[np.ix_(rows, columns)] = 1
    np.testing.assert_array_equal(targets.resized_mask(mask, 992, legacy_labels=True), expected)
    # The clean form keeps what is half foreground: half a pixel more on every side.
    clean = targets.resized_mask(mask, 992)
    half = np.flatnonzero((place >= 99.5) & (place <= 199.5))
    assert clean.sum(0).max() == len(half) == len(rows) + 1
    np.testing.assert_array_equal(targets.resized_mask(mask, 1000, legacy_labels=True), mask)


MAPS = (
    targets.shape_markers,
    targets.center_markers,
    targets.contours,
    targets.distances,
)


@pytest.mark.parametrize("make", MAPS)
def test_renumbered_labels_give_the_same_targets(make):
    labels = blobs(2)
    # Too large to count by, in another order and another dtype.
    others = np.where(labels > 0, 2**31 + 977 * (100 - labels.astype(np.int64)), 0)
    first, second = make(labels), make(others.astype(np.uint32))
    if make in (targets.shape_markers, targets.center_markers):
        assert second.dtype == np.uint32
        np.testing.assert_array_equal(second, np.where(first > 0, others, 0))
    else:
        np.testing.assert_allclose(second, first, atol=1e-6)


@pytest.mark.parametrize("make", MAPS)
@pytest.mark.parametrize("value", [0, 5])
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (7, 6)])
def test_blank_and_full_images(make, shape, value):
    found = make(np.full(shape, value, np.int32))
    assert found.shape[:2] == shape
    assert np.isfinite(found).all()
    if value == 0:
        assert not found.any()
    elif make is targets.shape_markers:
        assert (found == 5).all()
    elif make is targets.distances:
        assert (found == 1).all()
    elif make is targets.contours:
        assert not found.any()


@pytest.mark.parametrize("make", MAPS)
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((3, 3)), "labels are integers"),
        (np.zeros((3, 3, 1), int), "labels are integers"),
        (np.full((3, 3), -1), "labels are 0 or more"),
    ],
)
def test_what_is_no_label_image_is_refused(make, labels, message):
    with pytest.raises(ValueError, match=message):
        make(labels)


def test_wrong_settings_are_refused():
    labels = rectangle(80)
    with pytest.raises(ValueError, match="scale is above 0"):
        targets.shape_markers(labels, mpp=0.0)
    with pytest.raises(ValueError, match="1 px wide"):
        targets.contours(labels, width=0)
    with pytest.raises(ValueError, match="0 px or more"):
        targets.disk(-1)
    with pytest.raises(ValueError, match="not empty"):
        targets.resized_mask(np.zeros((0, 3)), 5)
