import numpy as np
import pytest
import scipy.ndimage

from histojax.errors import UserError
from histojax.nuclei.usenet import USENetParameters, usenet_instances, zone_borders


def maps(shape=(60, 80)):
    return np.zeros(shape, np.float64), np.zeros(shape, np.float64)


@pytest.mark.parametrize("gap", [10, 11])
def test_the_line_lies_half_way_and_zones_do_not_touch(gap):
    seeds = np.zeros((30, 40), np.int32)
    seeds[:, 12] = 1
    seeds[:, 12 + gap] = 2
    line = zone_borders(seeds)
    rows, columns = np.nonzero(line)
    assert set(rows) == set(range(30))
    # The px as far from both; of two such px, the one on the side of the larger number.
    assert set(columns) == {12 + (gap + 1) // 2}
    _, count = scipy.ndimage.label(~line, np.ones((3, 3)))
    assert count == 2


def test_lines_are_within_a_pixel_of_the_zones_borders():
    rng = np.random.default_rng(0)
    seeds = np.zeros((80, 80), np.int32)
    for number in range(1, 9):
        y, x = rng.integers(3, 77, 2)
        seeds[y - 1 : y + 2, x - 1 : x + 2] = number
    far = np.stack(
        [
            scipy.ndimage.distance_transform_cdt(seeds != number, "chessboard")
            for number in range(1, 9)
        ]
    )
    nearest, second = np.sort(far, 0)[:2]
    line = zone_borders(seeds)
    # On a line two seeds are as near but for a step; off it every px is in a nearest seed's zone.
    assert (second - nearest)[line].max() == 1
    zones, count = scipy.ndimage.label(~line, np.ones((3, 3)))
    assert count == 8
    for number in range(1, 9):
        (zone,) = np.unique(zones[seeds == number])
        np.testing.assert_array_equal(far[number - 1][zones == zone], nearest[zones == zone])


def test_no_or_one_marker_cuts_nothing():
    assert not zone_borders(np.zeros((5, 6), int)).any()
    assert not zone_borders(np.eye(5, dtype=int)).any()


def test_steps_on_two_touching_squares():
    mask, marker = maps()
    mask[20:30, 10:40] = 1
    marker[22:28, 12:18] = marker[22:28, 32:38] = 1
    found = usenet_instances(mask, marker)
    assert found.dtype == np.int32
    assert found.max() == 2
    # Half way lies between columns 24 and 25; grown by a px, both meet, the right one on top.
    left, right = (np.flatnonzero((found == n).any(0)) for n in (1, 2))
    assert (left[0], right[-1]) == (9, 40)
    assert abs(right[0] - 24) <= 1
    assert left[-1] in (right[0], right[0] - 1)
    # A cross grows each by one row up and down, and not at corners.
    assert (found[19, 10:40] > 0).sum() >= 28
    assert found[19, 9] == found[19, 40] == found[18, 15] == 0


def test_thresholds_are_of_8_bit_values():
    mask, marker = maps()
    mask[10:20, 10:20] = 25.99 / 255
    assert not usenet_instances(mask, marker).any()
    mask[10:20, 10:20] = 26.01 / 255
    assert usenet_instances(mask, marker).max() == 1
    assert not usenet_instances(mask, marker, USENetParameters(mask_threshold=0.2)).any()


def test_sizes_at_their_bounds():
    mask, marker = maps()
    mask[5:10, 5:15] = 1  # 50 px
    mask[5:12, 30:37] = 1  # 49 px
    found = usenet_instances(mask, marker)
    assert found.max() == 1
    assert found[7, 7] == 1
    # A ring around 99 px of background is filled, one around 100 px is not.
    for inner, filled in (((9, 11), True), ((10, 10), False)):
        mask, marker = maps()
        mask[20 : 24 + inner[0], 20 : 24 + inner[1]] = 1
        hole = np.s_[22 : 22 + inner[0], 22 : 22 + inner[1]]
        mask[hole] = 0
        found = usenet_instances(mask, marker)
        assert (found[hole] > 0).all() == filled
    # Markers of 20 px divide, of 19 px do not.
    for width, expected in ((5, 2), (4.75, 1)):
        mask, marker = maps()
        mask[20:30, 10:40] = 1
        marker[22:26, 12:17] = marker[22:26, 32:37] = 1
        if width < 5:
            marker[22, 32] = 0
        assert usenet_instances(mask, marker).max() == expected


def test_pieces_without_a_marker_are_nuclei():
    mask, marker = maps()
    mask[5:15, 5:15] = mask[5:15, 25:35] = 1
    marker[7:13, 7:13] = 1
    assert usenet_instances(mask, marker).max() == 2


def test_later_numbers_down_the_columns_are_on_top():
    mask, marker = maps()
    # Two pieces with one column between them: both grow into it.
    mask[10:20, 10:18] = mask[5:15, 19:27] = 1
    found = usenet_instances(mask, marker)
    # By rows the right piece begins first, by columns the left: the right one is on top.
    assert found[5, 22] == 1
    assert found[15, 12] == 2
    assert (found[10:15, 18] == 1).all()
    assert (found[15:20, 18] == 2).all()


@pytest.mark.faults
@pytest.mark.parametrize("shape", [(1, 1), (5, 9), (12, 15)])
@pytest.mark.parametrize("dtype", [bool, np.float32])
def test_blank_and_full_maps(shape, dtype):
    blank, full = np.zeros(shape, dtype), np.ones(shape, dtype)
    for marker in (blank, full):
        found = usenet_instances(full, marker)
        assert found.dtype == np.int32
        # Fewer px than a nucleus has are dropped, and then nothing is left to be filled.
        assert (found == (1 if full.size > 50 else 0)).all()
        assert not usenet_instances(blank, marker).any()


@pytest.mark.faults
def test_what_is_no_map_is_refused():
    good = np.zeros((4, 5))
    for bad in (np.full((4, 5), np.nan), np.zeros((4, 5), int), np.zeros((4, 6)), np.zeros(5)):
        with pytest.raises(ValueError, match="map 'marker'"):
            usenet_instances(good, bad)
    with pytest.raises(UserError, match="mask_threshold=2"):
        USENetParameters(mask_threshold=2)
    with pytest.raises(UserError, match="min_marker=-1"):
        USENetParameters(min_marker=-1)
