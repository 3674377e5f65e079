import numpy as np
import pytest
import scipy.ndimage

from histojax.errors import UserError
from histojax.nuclei.watershed import InstanceParameters, label_instances
from tests.oracles import whole_image

# Every px counts: what is tested is not what is dropped.
ALL = dict(min_marker=0, min_area=0, min_unmarked=0, max_hole=0)
LEVEL = dict(mask_weight=0, marker_weight=0)


def smooth_maps(seed, shape, names=("mask", "marker"), sigma=2.0):
    """Smooth random maps in [0, 1], whose level sets are blobs of all sizes."""
    rng = np.random.default_rng(seed)
    maps = {}
    for name in names:
        noise = scipy.ndimage.gaussian_filter(rng.normal(size=shape), sigma)
        maps[name] = ((noise - noise.min()) / (np.ptp(noise) or 1)).astype(np.float32)
    return maps


def disc(shape, y, x, radius):
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


def two_discs():
    """Overlapping discs of 10 px about (20, 20) and (20, 34), with markers of 4 px; bool maps."""
    shape = (41, 55)
    return {
        "mask": disc(shape, 20, 20, 10) | disc(shape, 20, 34, 10),
        "marker": disc(shape, 20, 20, 4) | disc(shape, 20, 34, 4),
    }


@pytest.mark.parametrize("weights", [{}, LEVEL, {"mask_weight": 3, "marker_weight": 0}])
def test_overlapping_discs_part_half_way(weights):
    maps = two_discs()
    found = label_instances(maps, InstanceParameters(**weights))
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found > 0, maps["mask"])
    columns = np.arange(55) * maps["mask"]
    # The discs' circles meet in column 27, which is as far from either marker.
    assert (found[maps["mask"] & (columns < 26)] == 1).all()
    assert (found[maps["mask"] & (columns > 28)] == 2).all()


def test_a_contour_and_a_distance_move_the_line():
    maps = {name: values.astype(float) for name, values in two_discs().items()}
    ridge = np.zeros((41, 55))
    ridge[:, 24] = 1
    parameters = InstanceParameters(**LEVEL, contour_weight=1)
    found = label_instances({**maps, "contour": ridge}, parameters)
    assert (found[20, 10:24] == 1).all()
    assert (found[20, 25:45] == 2).all()
    # A distance map is a valley where it is high.
    parameters = InstanceParameters(**LEVEL, distance_weight=1)
    found = label_instances({**maps, "distance": 1 - ridge}, parameters)
    assert (found[20, 10:24] == 1).all()
    assert (found[20, 25:45] == 2).all()


def test_one_marker_makes_one_nucleus_and_none_a_large_piece():
    maps = two_discs()
    maps["marker"][:, 27:] = False
    np.testing.assert_array_equal(label_instances(maps), maps["mask"])
    maps["marker"][:] = False
    np.testing.assert_array_equal(label_instances(maps), maps["mask"])
    area = int(maps["mask"].sum())
    for least, expected in ((area, 1), (area + 1, 0)):
        parameters = InstanceParameters(min_unmarked=least)
        assert label_instances(maps, parameters).max() == expected


def test_weak_and_small_markers_are_dropped():
    maps = {name: values.astype(np.float32) for name, values in two_discs().items()}
    maps["marker"][:, 27:] *= 0.6
    assert label_instances(maps, InstanceParameters(marker_peak=0.6)).max() == 2
    assert label_instances(maps, InstanceParameters(marker_peak=0.61)).max() == 1
    area = int(disc((41, 55), 20, 20, 4).sum())
    assert label_instances(maps, InstanceParameters(min_marker=area)).max() == 2
    assert label_instances(maps, InstanceParameters(min_marker=area + 1)).max() == 1


def test_markers_outside_of_the_mask_are_cut_off():
    maps = two_discs()
    expected = label_instances(maps)
    maps["marker"][0, :] = maps["marker"][:, 0] = True
    np.testing.assert_array_equal(label_instances(maps), expected)
    # A marker that joins two nuclei through the background is one in each of them.
    maps = {"mask": np.zeros((9, 30), bool), "marker": np.zeros((9, 30), bool)}
    maps["mask"][:, :12] = maps["mask"][:, 18:] = True
    maps["marker"][4, 3:27] = True
    assert label_instances(maps).max() == 2


def test_small_components_small_pieces_and_holes():
    mask = np.zeros((30, 60), bool)
    mask[5:15, 5:15] = True  # 100 px
    mask[9:11, 9:11] = False  # of which 4 are a hole
    mask[5:15, 40:42] = True  # 20 px
    maps = {"mask": mask, "marker": np.zeros_like(mask)}
    parameters = InstanceParameters(min_area=20, min_unmarked=0, max_hole=4)
    found = label_instances(maps, parameters)
    assert list(np.bincount(found.ravel())[1:]) == [100, 20]
    parameters = InstanceParameters(min_area=21, min_unmarked=0, max_hole=3)
    assert list(np.bincount(label_instances(maps, parameters).ravel())[1:]) == [96]
    # A bar of 4 x 30 with markers at one end: the border lies half way, the left piece is small.
    maps = {"mask": np.zeros((10, 40), bool), "marker": np.zeros((10, 40), bool)}
    maps["mask"][3:7, 5:35] = True
    maps["marker"][3:7, 6] = maps["marker"][3:7, 10] = True
    options = {**ALL, **LEVEL}
    areas = np.bincount(label_instances(maps, InstanceParameters(**options)).ravel())[1:]
    assert areas.sum() == 120
    assert 12 <= areas[0] <= 16
    options["min_area"] = 17
    areas = np.bincount(label_instances(maps, InstanceParameters(**options)).ravel())[1:]
    assert list(areas) == [areas[0]]
    assert 104 <= areas[0] <= 108


def test_areas_are_physical_where_both_scales_are_known():
    maps = two_discs()
    area = int(maps["mask"].sum())
    maps["marker"][:] = False
    for mpp, factor in ((0.25, 1), (0.5, 0.25), (None, 1)):
        for least, expected in ((area / factor, 1), ((area + 1) / factor, 0)):
            parameters = InstanceParameters(min_unmarked=least, mpp=0.25)
            assert label_instances(maps, parameters, mpp=mpp).max() == expected
    # Areas of an unknown scale are px.
    parameters = InstanceParameters(min_unmarked=area)
    assert label_instances(maps, parameters, mpp=0.5).max() == 1


@pytest.mark.parametrize("seed", range(8))
def test_nuclei_are_those_of_a_flood_of_all_of_the_mask(seed):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(30, 120, 2))
    maps = smooth_maps(seed, shape, ("mask", "marker", "contour"))
    p = InstanceParameters(
        mask_threshold=float(rng.choice([0.45, 0.6])),
        marker_threshold=0.62,
        marker_peak=0.68,
        min_marker=2,
        min_area=6,
        min_unmarked=9,
        max_hole=12,
        contour_weight=float(rng.choice([0, 0.5])),
    )
    expected = whole_image(maps, p)
    assert expected.max() > 0
    np.testing.assert_array_equal(label_instances(maps, p), expected)


def test_what_else_an_image_shows_does_not_move_a_line():
    """On level ground, where only the order of flooding decides."""
    maps = two_discs()
    alone = label_instances(maps, InstanceParameters(**ALL, **LEVEL))
    beside = {name: np.zeros((120, 200), bool) for name in maps}
    rng = np.random.default_rng(0)
    for top, left in [(60, 100), *((20 * k, int(rng.integers(0, 40))) for k in range(4))]:
        for name, values in maps.items():
            beside[name][top : top + 41, left : left + 55] |= values
    found = label_instances(beside, InstanceParameters(**ALL, **LEVEL))[60:101, 100:155]
    np.testing.assert_array_equal(found == found[20, 20], alone == 1)
    np.testing.assert_array_equal(found == found[20, 34], alone == 2)


def test_nuclei_are_numbered_by_their_first_pixel():
    maps = smooth_maps(5, (80, 90))
    found = label_instances(maps, InstanceParameters(marker_threshold=0.6, **ALL))
    values, first = np.unique(found, return_index=True)
    assert found.max() > 5
    np.testing.assert_array_equal(values, np.arange(found.max() + 1))
    assert (np.diff(first[1:]) > 0).all()


def test_a_long_component_is_divided_by_all_of_its_markers():
    # A bar of 300 px with a marker every 20 px.
    maps = {"mask": np.zeros((9, 300), bool), "marker": np.zeros((9, 300), bool)}
    maps["mask"][2:7] = True
    maps["marker"][3:6, 9:300:20] = maps["marker"][3:6, 10:300:20] = True
    found = label_instances(maps, InstanceParameters(**ALL, **LEVEL))
    assert found.max() == 15
    for number in range(1, 16):
        columns = np.flatnonzero((found == number).any(0))
        assert abs(columns[0] - 20 * (number - 1)) <= 1
        assert abs(columns[-1] - (20 * number - 1)) <= 1


@pytest.mark.faults
def test_many_nuclei_stay_many():
    # 35,000 bars of 2 x 7 px, each with a marker at either end.
    maps = {name: np.zeros((700, 1600), bool) for name in ("mask", "marker")}
    for row in (0, 1):
        for column in range(7):
            maps["mask"][row::4, column::8] = True
        maps["marker"][row::4, 0::8] = maps["marker"][row::4, 6::8] = True
    found = label_instances(maps, InstanceParameters(**ALL))
    assert found.dtype == np.int32
    assert found.max() == 70_000
    assert (np.bincount(found.ravel())[1:] >= 6).all()


@pytest.mark.faults
@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (20, 20)])
@pytest.mark.parametrize("dtype", [bool, np.float32, np.float64])
def test_blank_and_full_maps(shape, dtype):
    parameters = InstanceParameters(**ALL)
    blank, full = np.zeros(shape, dtype), np.ones(shape, dtype)
    for marker in (blank, full):
        assert not label_instances({"mask": blank, "marker": marker}, parameters).any()
        found = label_instances({"mask": full, "marker": marker}, parameters)
        assert (found == 1).all()
        assert found.shape == shape
    # Level maps at the thresholds are foreground.
    level = np.full(shape, 0.5, np.float32)
    assert (label_instances({"mask": level, "marker": level}, parameters) == 1).all()
    assert not label_instances({"mask": level - 0.01, "marker": level}, parameters).any()


@pytest.mark.faults
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"mask": np.full((4, 5), np.nan)}, r"'mask' is in \[0, 1\], and holds nan"),
        ({"marker": np.full((4, 5), np.nan)}, "'marker' is in"),
        ({"marker": np.full((4, 5), 1.01)}, "holds 1.01 to 1.01"),
        ({"mask": np.full((4, 5), -0.1)}, "holds -0.1"),
        ({"mask": np.zeros((4, 5), np.uint8)}, "floating point or bool, not uint8"),
        ({"marker": np.zeros((4, 6))}, r"not of shape \(4, 6\)"),
        ({"mask": np.zeros((4, 5, 1))}, r"not of shape \(4, 5, 1\)"),
        ({"contour": np.zeros(5)}, "'contour' is"),
    ],
)
def test_what_is_no_map_is_refused(changed, message):
    maps = {"mask": np.zeros((4, 5)), "marker": np.zeros((4, 5)), **changed}
    with pytest.raises(ValueError, match=message):
        label_instances(maps)


def test_absent_maps_are_refused():
    with pytest.raises(ValueError, match="no map 'marker' among"):
        label_instances({"mask": np.zeros((4, 5))})
    maps = {"mask": np.zeros((4, 5)), "marker": np.zeros((4, 5))}
    with pytest.raises(UserError, match="contour_weight=1 needs a map 'contour'"):
        label_instances(maps, InstanceParameters(contour_weight=1))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("mask_threshold", 1.5, "mask_threshold=1.5 has to be a probability from 0 to 1"),
        ("marker_peak", float("nan"), "marker_peak=nan has to be a probability from 0 to 1"),
        ("min_area", -1, "min_area=-1 has to be an area in px of 0 or more"),
        ("max_hole", "30", "max_hole='30'"),
        ("mask_weight", True, "mask_weight=True"),
        ("mpp", 0, "mpp=0 has to be a number of micrometres per pixel above 0"),
        ("mpp", -0.25, "mpp=-0.25"),
    ],
)
def test_parameters_out_of_range_are_refused(field, value, message):
    with pytest.raises(UserError, match=message):
        InstanceParameters(**{field: value})


def test_a_scale_out_of_range_is_refused():
    with pytest.raises(UserError, match="mpp=-1"):
        InstanceParameters(mpp=0.25).at(-1)
