import math

import numpy as np
import pytest
import scipy.ndimage
import skimage.measure
import skimage.segmentation

from histojax.errors import UserError
from histojax.nuclei import measurements
from histojax.nuclei.measurements import measure, neighbours, summary
from histojax.stain.hed import RGB_FROM_HED, optical_density

SAME = {
    "label": "label",
    "y_px": "centroid-0",
    "x_px": "centroid-1",
    "area_px2": "area",
    "perimeter_px": "perimeter_crofton",
    "major_axis_px": "axis_major_length",
    "minor_axis_px": "axis_minor_length",
    "eccentricity": "eccentricity",
    "solidity": "solidity",
    "haematoxylin_mean": "intensity_mean",
    "haematoxylin_sd": "intensity_std",
}


def disc(radius, shape=(60, 60), center=(30, 30)):
    y, x = np.ogrid[: shape[0], : shape[1]]
    return ((y - center[0]) ** 2 + (x - center[1]) ** 2 <= radius**2).astype(np.int32)


def grey(labels, value=200):
    return np.full((*labels.shape, 3), value, np.uint8)


def noise(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def blobs(seed, side=120):
    """Labels of any form that touch each other, with gaps in their numbers, holes and islands."""
    rng = np.random.default_rng(seed)
    field = scipy.ndimage.gaussian_filter(rng.random((side, side)), 2)
    cells = np.argmin(
        [
            np.hypot(*(np.mgrid[:side, :side] - c[:, None, None]))
            for c in rng.random((30, 2)) * side
        ],
        axis=0,
    )
    return np.where(field > np.median(field), 3 * cells + 2, 0).astype(np.int32)


def of(table, name):
    (value,) = table[name]
    return value


@pytest.mark.parametrize("seed", range(3))
def test_shapes_and_intensities_equal_those_of_scikit_image(seed):
    labels, image = blobs(seed), noise((120, 120), seed)
    haematoxylin = optical_density(image) @ np.linalg.inv(RGB_FROM_HED)[:, 0]
    expected = skimage.measure.regionprops_table(
        labels, haematoxylin, properties=[name.partition("-")[0] for name in SAME.values()]
    )
    table = measure(labels, image, mpp=None)
    for ours, theirs in SAME.items():
        # float32 densities bound the intensities; the rest is exact to rounding.
        atol = 2e-6 if "haematoxylin" in ours else 1e-9
        np.testing.assert_allclose(
            table[ours], expected[theirs], rtol=1e-9, atol=atol, err_msg=ours
        )
    angles = [region.orientation for region in skimage.measure.regionprops(labels)]
    np.testing.assert_allclose(np.radians(table["orientation_deg"]), angles, atol=1e-9)
    probability = image[..., 0] / np.float32(255)
    found = measure(labels, image, mpp=None, probability=probability)["probability"]
    means = scipy.ndimage.mean(probability.astype(float), labels, table["label"])
    np.testing.assert_allclose(found, means, rtol=1e-9)


@pytest.mark.parametrize("mpp", [0.25, 0.3254])
def test_a_square_has_the_measures_of_geometry(mpp):
    labels = np.zeros((40, 40), np.int32)
    labels[5:15, 20:30] = 7
    table = measure(labels, grey(labels), mpp=mpp, cell_expansion=0)
    assert of(table, "label") == 7
    assert (of(table, "x_px"), of(table, "y_px")) == (24.5, 9.5)
    assert of(table, "area_um2") == pytest.approx(100 * mpp**2)
    # The variance of 0..9 is 99/12 along both axes.
    assert of(table, "major_axis_um") == pytest.approx(4 * math.sqrt(99 / 12) * mpp)
    assert of(table, "minor_axis_um") == pytest.approx(4 * math.sqrt(99 / 12) * mpp)
    assert of(table, "eccentricity") == 0
    assert math.isnan(of(table, "orientation_deg"))
    assert of(table, "solidity") == 1
    assert not any(name.startswith("cell") for name in table)


@pytest.mark.parametrize(("angle", "semi"), [(0, (16, 8)), (35, (20, 7)), (-60, (12, 6))])
def test_an_ellipse_has_the_measures_of_geometry(angle, semi):
    y, x = np.mgrid[:80, :80] - 39.5
    # Counterclockwise as seen from the vertical, y downward: the axis is (-sin, -cos) in x, y.
    along = -x * np.sin(np.radians(angle)) - y * np.cos(np.radians(angle))
    across = x * np.cos(np.radians(angle)) - y * np.sin(np.radians(angle))
    labels = ((along / semi[0]) ** 2 + (across / semi[1]) ** 2 <= 1).astype(np.int32)
    table = measure(labels, grey(labels), mpp=0.5)
    assert of(table, "area_um2") == pytest.approx(math.pi * semi[0] * semi[1] / 4, rel=0.02)
    assert of(table, "major_axis_um") == pytest.approx(semi[0], rel=0.02)
    assert of(table, "minor_axis_um") == pytest.approx(semi[1], rel=0.02)
    assert of(table, "eccentricity") == pytest.approx(
        math.sqrt(1 - (semi[1] / semi[0]) ** 2), abs=0.01
    )
    assert of(table, "orientation_deg") == pytest.approx(angle, abs=1)
    assert of(table, "solidity") >= 0.95


def test_the_perimeter_of_discs_is_within_its_bound():
    rng = np.random.default_rng(0)
    for radius in range(3, 21):
        for center in rng.uniform(29, 31, (10, 2)):
            labels = disc(radius, center=center)
            table = measure(labels, grey(labels), mpp=None)
            bound = 0.08 if radius == 3 else 0.025
            assert of(table, "perimeter_px") == pytest.approx(2 * math.pi * radius, rel=bound)
            # The area of a disc on pixels is off by up to 8 % at 3 px too, but not by twice that.
            assert of(table, "circularity") == pytest.approx(1, abs=0.16 if radius == 3 else 0.06)


def test_twice_the_scale_doubles_lengths_and_quadruples_areas():
    labels = blobs(1)
    image = noise(labels.shape)
    # The cell reaches as many px at both scales.
    small = measure(labels, image, mpp=0.25, cell_expansion=1)
    large = measure(labels, image, mpp=0.5, cell_expansion=2)
    pixels = measure(labels, image, mpp=None)
    assert list(small) == list(large)
    for name in small:
        factor = 4 if name.endswith("_um2") else 2 if name.endswith("_um") else 1
        if name != "local_density_per_mm2":
            np.testing.assert_allclose(large[name], factor * small[name], err_msg=name)
    assert small["area_um2"][0] == pixels["area_px2"][0] / 16
    assert small["perimeter_um"][0] == pixels["perimeter_px"][0] / 4
    assert not any("_um" in name or "mm2" in name or "cell" in name for name in pixels)


def test_a_stain_is_measured_in_its_own_units():
    labels = disc(6)
    density = np.zeros((60, 60, 3)) + 0.8 * RGB_FROM_HED[0]
    density[labels == 0] = 0.3 * RGB_FROM_HED[1]
    image = np.rint(255 * np.exp(-density)).astype(np.uint8)
    table = measure(labels, image, mpp=0.5)
    assert of(table, "haematoxylin_mean") == pytest.approx(0.8, abs=0.01)
    assert of(table, "haematoxylin_sd") == pytest.approx(0, abs=1e-6)
    assert of(table, "cytoplasm_eosin_mean") == pytest.approx(0.3, abs=0.01)
    # Two halves of concentrations 0.6 and 1 have a deviation of 0.2.
    halves = np.zeros((1, 2), np.int32) + 1
    image = np.exp(-np.array([[0.6], [1.0]]) * RGB_FROM_HED[0])[None]
    table = measure(halves, np.rint(255 * image).astype(np.uint8), mpp=None)
    assert of(table, "haematoxylin_sd") == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize("distance", [1, 2.5, 7])
def test_cells_grow_as_in_scikit_image_and_never_into_a_neighbour(distance):
    labels, mpp = blobs(2), 0.5
    # Far apart enough for free cells too.
    labels[:, 40:70] = 0
    cells = skimage.segmentation.expand_labels(labels, distance)
    table = measure(labels, noise(labels.shape), mpp=mpp, cell_expansion=distance * mpp)
    area = np.bincount(cells.ravel())[table["label"]] * mpp**2
    np.testing.assert_allclose(table["cell_area_um2"], area)
    np.testing.assert_allclose(table["nucleus_cell_ratio"], table["area_um2"] / area)


def test_a_nucleus_without_cytoplasm_has_no_eosin():
    labels = np.ones((5, 5), np.int32)
    table = measure(labels, grey(labels), mpp=0.25)
    assert of(table, "nucleus_cell_ratio") == 1
    assert math.isnan(of(table, "cytoplasm_eosin_mean"))


@pytest.mark.faults
def test_ids_with_gaps_and_islands_are_kept_one_row_each():
    labels = np.zeros((12, 12), np.int32)
    labels[1:3, 1:3], labels[5:7, 1:3] = 7, 1
    labels[9:11, 9:11] = 7
    labels[1:3, 9:11] = 2**31 - 1
    table = measure(labels, grey(labels), mpp=1.0)
    assert table["label"].tolist() == [1, 7, 2**31 - 1]
    assert table["area_um2"].tolist() == [4, 8, 4]
    # The centroid of the islands lies between them.
    assert (table["x_px"][1], table["y_px"][1]) == (5.5, 5.5)


@pytest.mark.faults
def test_more_nuclei_than_16_bits_hold():
    labels = np.zeros((780, 780), np.int32)
    labels[1::3, 1::3] = np.arange(1, 260**2 + 1).reshape(260, 260)
    table = measure(labels, grey(labels), mpp=None, with_neighbours=False)
    np.testing.assert_array_equal(table["label"], np.arange(1, 260**2 + 1))
    assert (table["area_px2"] == 1).all()


@pytest.mark.faults
def test_an_image_without_nuclei_has_an_empty_table_with_all_columns():
    empty, full = np.zeros((9, 9), np.int32), disc(3, (9, 9), (4, 4))
    table = measure(empty, grey(empty), mpp=0.5, probability=np.zeros((9, 9)))
    assert list(table) == list(measure(full, grey(full), mpp=0.5, probability=np.zeros((9, 9))))
    assert all(values.shape == (0,) for values in table.values())
    found = summary(table, 2.0)
    assert (found["count"], found["density_per_mm2"]) == (0, 0)
    assert found["columns"]["area_um2"]["mean"] is None


def test_a_region_gives_the_rows_of_the_whole_image():
    labels, image = np.zeros((90, 100), np.int32), noise((90, 100))
    for number, center in enumerate([(20, 4), (40, 50), (60, 60), (84, 95)], 1):
        labels[disc(5, labels.shape, center) > 0] = number
    whole = measure(labels, image, mpp=0.5, with_neighbours=False)
    assert whole["touches_edge"].tolist() == [True, False, False, True]
    cut = np.s_[25:80, 35:80]
    part = measure(
        labels[cut],
        image[cut],
        mpp=0.5,
        origin=(25, 35),
        frame=(0, 0, 90, 100),
        with_neighbours=False,
    )
    for name, values in part.items():
        np.testing.assert_array_equal(values, whole[name][1:3], err_msg=name)
    # Seen as an image of its own, it is the region's edge that cuts.
    alone = measure(labels[20:50, 45:80], image[20:50, 45:80], mpp=0.5)
    assert alone["touches_edge"].tolist() == [True]


def test_neighbours_of_a_grid():
    # 20 um apart: within 50 um of the middle one lie the 20 others with dx^2 + dy^2 <= 2.5^2.
    y, x = np.mgrid[:7, :7].reshape(2, -1) * 40.0
    found = neighbours(x, y, mpp=0.5)
    np.testing.assert_allclose(found["nearest_neighbour_um"], 20)
    assert found["local_density_per_mm2"][24] == pytest.approx(20 / (math.pi * 0.05**2))
    assert neighbours(x, y, mpp=0.5, radius=20)["local_density_per_mm2"][0] == pytest.approx(
        2 / (math.pi * 0.02**2)
    )
    assert list(neighbours(x, y, mpp=None)) == ["nearest_neighbour_px"]
    assert np.isnan(neighbours(x[:1], y[:1], mpp=None)["nearest_neighbour_px"]).all()
    # Nuclei with one centroid, such as a ring and what it holds, are 0 apart.
    assert neighbours(x[[3, 3]], y[[3, 3]], mpp=1.0)["nearest_neighbour_um"].tolist() == [0, 0]


def test_a_summary_leaves_out_what_the_edge_cuts():
    table = {
        "label": np.array([1, 2, 3, 9]),
        "touches_edge": np.array([False, False, True, False]),
        "area_um2": np.array([10.0, 20.0, 1000.0, 60.0]),
        "cytoplasm_eosin_mean": np.array([0.5, np.nan, 0.7, np.nan]),
        "orientation_deg": np.zeros(4),
    }
    found = summary(table, 0.5)
    assert (found["count"], found["at_edge"], found["density_per_mm2"]) == (4, 1, 8)
    assert found["columns"].keys() == {"area_um2", "cytoplasm_eosin_mean"}
    area = found["columns"]["area_um2"]
    # Of 10, 20, 60: the 5th percentile is a tenth of the way from 10 to 20.
    assert area["n"] == 3
    assert area["mean"] == 30
    assert area["sd"] == pytest.approx(math.sqrt((400 + 100 + 900) / 2))
    assert [area[f"p{p}"] for p in (5, 25, 50, 75, 95)] == pytest.approx([11, 15, 20, 40, 56])
    eosin = found["columns"]["cytoplasm_eosin_mean"]
    assert (eosin["n"], eosin["mean"], eosin["sd"]) == (1, 0.5, None)
    assert summary(table, None)["density_per_mm2"] is None


def test_every_column_is_in_the_registry_and_in_its_order():
    labels = disc(5)
    maps = {"probability": np.ones((60, 60)), "classes": np.ones((60, 60), np.uint8)}
    table = measure(labels, grey(labels), mpp=0.5, **maps, class_names=("background", "a"))
    assert list(table) == [measurements.heading(name, 0.5) for name in measurements.COLUMNS]


def test_a_nucleus_has_the_class_of_most_of_its_pixels():
    labels = np.zeros((8, 20), np.int32)
    labels[1:4, 1:6], labels[1:4, 8:13], labels[5, 5] = 3, 5, 6
    classes = np.zeros((8, 20), np.uint8)
    classes[:, 3:6], classes[:, 8:11], classes[:, 11:13] = 1, 1, 2
    names = ("background", "epithelial", "inflammatory")
    options = {"mpp": None, "classes": classes, "class_names": names}
    table = measure(labels, grey(labels), **options)
    assert table["class"].tolist() == ["epithelial", "epithelial", "epithelial"]
    classes[:, 8:10], classes[5, 5] = 2, 0
    table = measure(labels, grey(labels), **options)
    assert table["class"].tolist() == ["epithelial", "inflammatory", "background"]
    assert measure(labels * 0, grey(labels), **options)["class"].tolist() == []


@pytest.mark.faults
def test_what_cannot_be_measured_is_refused():
    labels = disc(5)
    with pytest.raises(UserError, match="mpp=0 has to be a number of um per px above 0"):
        measure(labels, grey(labels), mpp=0)
    with pytest.raises(UserError, match="cell_expansion=-1 has to be"):
        measure(labels, grey(labels), mpp=0.5, cell_expansion=-1)
    with pytest.raises(ValueError, match="does not fit labels"):
        measure(labels, grey(labels)[1:], mpp=0.5)
    with pytest.raises(ValueError, match="negative"):
        measure(labels - 1, grey(labels), mpp=0.5)
