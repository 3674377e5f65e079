"""Labels, tables and outlines of nuclei."""

import json
import pathlib

import numpy as np
import pytest

from histojax.errors import UserError
from histojax.imaging.labels import read_labels
from histojax.imaging.tiling import ArrayReader
from histojax.inference.regions import files, region_nuclei, tissue_mask
from histojax.inference.regions.cut import DamagedReader
from histojax.inference.regions.image_nuclei import Found
from histojax.inference.regions.view import View
from histojax.nuclei import measurements, outlines
from tests import geojson
from tests.inference.regions import dark

LABELS = np.zeros((40, 60), np.int32)
LABELS[1:6, 1:6], LABELS[3, 3] = 1, 0
LABELS[0:2, 57:60] = 2
LABELS[20:30, 30:42] = LABELS[22:26, 42:44] = 3
IMAGE = np.full((40, 60, 3), 220, np.uint8)
IMAGE[LABELS > 0] = 90, 55, 130


def found_in(labels=LABELS, *, per_px=1, mpp=0.5, scanned=(0, 0, 40, 60)):
    """The nuclei of an image that was read at `per_px` px per px."""
    image = ArrayReader(IMAGE.repeat(per_px, 0).repeat(per_px, 1))
    labels = labels.repeat(per_px, 0).repeat(per_px, 1)
    table = measurements.measure(
        labels,
        image.image,
        mpp=mpp and mpp / per_px,
        probability=np.full(labels.shape, 0.75, np.float32),
        cell_expansion=3.0,
        with_neighbours=False,
    )
    mask = tissue_mask.whole_mask(image)
    seen = View(
        *(pathlib.Path("a.png"), (40, 60), mpp, DamagedReader(image), per_px, mask),
        *((0, 0, 40, 60), scanned, False),
    )
    nuclei = region_nuclei.Nuclei(table, outlines.trace(labels))
    return Found(nuclei, seen, 1, [], pathlib.Path())


def write(folder, names=("labels", "table", "geojson"), **options):
    """The files of nuclei, by name."""
    made = {name: folder / f"a{files.OUTPUTS[name]}" for name in names}
    files.write(found_in(**options), made, None)
    return made


def read_table(path):
    lines = path.read_text().splitlines()
    columns = zip(*(line.split(",") for line in lines[1:]), strict=True)
    numbers = (np.array([float(v or "nan") for v in column]) for column in columns)
    return dict(zip(lines[0].split(","), numbers, strict=True))


def test_files_are_those_of_a_run_and_of_what_is_asked_for(monkeypatch):
    generator, finder, both = (dark.run(name) for name in ("generator", "segmentation", "joint"))
    of_nuclei = {"page", "labels", "table", "geojson"}
    assert files.chosen(generator, None) == files.chosen(generator, None, slide=True)
    assert files.chosen(generator, None) == {"page", "sr"}
    assert files.chosen(finder, None) == of_nuclei
    assert files.chosen(both, None) == of_nuclei | {"sr", "sr.labels"}
    # A slide has no enhanced image of all of it but by --enhance.
    assert files.chosen(both, None, slide=True) == of_nuclei
    assert files.chosen(both, ["parquet", "sr"], slide=True) == {"parquet", "sr"}
    for name, slide in (("classes", False), ("sr.labels", True)):
        with pytest.raises(
            UserError, match=rf"--outputs={name} is not made .*choose among page, sr"
        ):
            files.chosen(both, [name], slide=slide)
    monkeypatch.setattr("histojax.exports.tables.importlib.util.find_spec", lambda _: None)
    with pytest.raises(UserError, match="Parquet needs pyarrow, which is not installed"):
        files.chosen(finder, ["parquet"])
    with pytest.raises(UserError, match="--outputs='csv' is not known; choose one of page"):
        files.chosen(both, ["csv"])


def test_outlines_rasterized_are_the_labels(tmp_path):
    paths = write(tmp_path)
    found = outlines.collect(geojson.read(paths["geojson"]))
    labels = read_labels(tmp_path / "a.labels.tif")
    np.testing.assert_array_equal(outlines.rasterize(found, labels.shape), labels)
    np.testing.assert_array_equal(labels, LABELS)


def test_a_table_is_that_of_its_labels(tmp_path):
    paths = write(tmp_path)
    table = read_table(paths["table"])
    expected = measurements.measure(
        LABELS,
        IMAGE,
        mpp=0.5,
        probability=np.full((40, 60), 0.75, np.float32),
        cell_expansion=3.0,
    )
    assert list(table) == list(expected)
    for name, values in table.items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-6, err_msg=name)
    assert table["area_um2"].tolist() == [6.0, 1.5, 32.0]
    assert table["touches_edge"].tolist() == [0, 1, 0]
    # Three centroids: 27 um is the nearest of the second, to the third.
    assert table["nearest_neighbour_um"].min() > 0


def test_features_are_what_qupath_reads(tmp_path):
    paths = write(tmp_path)
    found = json.loads(paths["geojson"].read_text())
    table = read_table(paths["table"])
    assert found["type"] == "FeatureCollection"
    assert found["properties"]["image"] == "a.png"
    assert len(found["features"]) == 3
    for row, feature in enumerate(found["features"]):
        assert feature.keys() == {"type", "id", "geometry", "properties"}
        assert feature["type"] == "Feature"
        assert feature["geometry"].keys() == {"type", "coordinates"}
        about = feature["properties"]
        assert about["objectType"] == "detection"
        assert about["metadata"] == {"label": row + 1}
        numbers = about["measurements"]
        assert numbers["area_um2"] == table["area_um2"][row]
        assert all(isinstance(value, int | float) for value in numbers.values())
        ring = np.array(feature["geometry"]["coordinates"][0])
        assert (ring[0] == ring[-1]).all()
        # The middle of pixel k is k in the table, and k + 1/2 in outlines.
        place = np.array([table["x_px"][row], table["y_px"][row]]) + 0.5
        assert (ring.min(axis=0) < place).all()
        assert (place < ring.max(axis=0)).all()
    hole = found["features"][0]["geometry"]["coordinates"][1]
    assert sorted(hole[:-1]) == [[3, 3], [3, 4], [4, 3], [4, 4]]


def test_nuclei_of_a_finer_grid_are_measured_there_and_placed_on_the_input(tmp_path):
    paths = write(tmp_path, per_px=4)
    table, plain = read_table(paths["table"]), measurements.measure(LABELS, IMAGE, mpp=0.5)
    for name in ("x_px", "y_px", "area_um2", "major_axis_um", "haematoxylin_mean"):
        # An ellipse of equal moments is a little larger on coarse px.
        tolerance = {"rtol": 0.06} if "axis" in name else {"rtol": 1e-6}
        np.testing.assert_allclose(table[name], plain[name], **tolerance)
    np.testing.assert_allclose(table["probability"], 0.75)
    found = dict(geojson.read(paths["geojson"]))
    for label, polygons in outlines.trace(LABELS):
        np.testing.assert_array_equal(found[label][0][0], polygons[0][0])


@pytest.mark.faults
def test_without_a_scale_everything_is_in_px_of_the_input(tmp_path):
    table = read_table(write(tmp_path, per_px=4, mpp=None)["table"])
    assert not [name for name in table if "um" in name]
    assert table["area_px2"].tolist() == [24, 6, 128]
    assert table["x_px"].tolist()[:2] == [3, 58]
    middle = (120 * 35.5 + 8 * 42.5) / 128
    assert table["x_px"][2] == pytest.approx(middle)
    # To the third from the second: (58, 0.5) to (35.94, 24.4).
    y = (120 * 24.5 + 8 * 23.5) / 128
    assert table["nearest_neighbour_px"][1] == pytest.approx(np.hypot(58 - middle, 0.5 - y))


@pytest.mark.faults
def test_an_image_without_nuclei_has_a_table_without_rows(tmp_path):
    paths = write(tmp_path, labels=np.zeros_like(LABELS))
    (heading,) = paths["table"].read_text().splitlines()
    assert heading.startswith("label,x_px,y_px,area_um2,")
    assert list(geojson.read(paths["geojson"])) == []


def test_one_file_is_written_alone(tmp_path):
    write(tmp_path, names=["table"])
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_a_table_may_be_parquet(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    paths = write(tmp_path, names=["table", "parquet"])
    found, lines = parquet.read_table(paths["parquet"]), read_table(paths["table"])
    assert found.column_names == list(lines)
    np.testing.assert_allclose(found["area_um2"], lines["area_um2"])


@pytest.mark.faults
def test_outlines_may_count_from_what_was_scanned(tmp_path):
    write(tmp_path, ["geojson"], per_px=2, scanned=(10, 20, 30, 40))
    whole, scan = (dict(geojson.read(tmp_path / f"a{end}.geojson")) for end in ("", ".scan"))
    assert len(whole) == 3
    for label, polygons in whole.items():
        np.testing.assert_allclose(scan[label][0][0], polygons[0][0] - (20, 10))


def test_columns_in_px_follow_the_grid_and_others_do_not():
    table = {
        "label": np.array([1, 2]),
        "x_px": np.array([3.5, 19.5]),
        "y_px": np.array([3.5, 3.5]),
        "area_px2": np.array([64.0, 16.0]),
        "major_axis_px": np.array([8.0, 4.0]),
        "eccentricity": np.array([0.5, 0.1]),
    }
    moved = files.in_px(table, (4.0, 4.0), None)
    # The middle of the first four px is that of the first px.
    assert moved["x_px"].tolist() == [0.5, 4.5]
    assert moved["area_px2"].tolist() == [4.0, 1.0]
    assert moved["major_axis_px"].tolist() == [2.0, 1.0]
    assert moved["eccentricity"].tolist() == [0.5, 0.1]
    assert moved["nearest_neighbour_px"].tolist() == [4.0, 4.0]
