"""Tables and outlines of images that fit in memory."""

import json

import numpy as np
import pytest
import tifffile
from PIL import Image

from histojax.exports import geojson
from histojax.imaging.labels import read_labels
from histojax.inference import measured
from histojax.nuclei import measurements, outlines

LABELS = np.zeros((40, 60), np.int32)
LABELS[1:6, 1:6], LABELS[3, 3] = 1, 0
LABELS[0:2, 57:60] = 2
LABELS[20:30, 30:42] = LABELS[22:26, 42:44] = 3
IMAGE = np.full((40, 60, 3), 220, np.uint8)
IMAGE[LABELS > 0] = 90, 55, 130


def write(folder, *, labels=LABELS, names=("table", "geojson"), scale=1, mpp=0.5, fine=None):
    """The files of nuclei that were found in an image, enhanced `scale` times."""
    Image.fromarray(IMAGE).save(folder / "a.png")
    made = {"labels": folder / "a.labels.tif"}
    tifffile.imwrite(made["labels"], labels)
    if fine is not None:
        made |= {"sr": folder / "a.sr.tif", "sr.labels": folder / "a.sr.labels.tif"}
        sr = IMAGE.repeat(scale, 0).repeat(scale, 1)
        tifffile.imwrite(made["sr"], sr, photometric="rgb")
        tifffile.imwrite(made["sr.labels"], fine)
    return measured.write(
        made,
        folder / "a.png",
        folder,
        names,
        mpp=mpp,
        scale=scale,
        probability=np.full((40, 60), 0.75, np.float16),
        cell_expansion=3.0,
        max_pixels=100_000,
    )


def read_table(path):
    lines = path.read_text().splitlines()
    columns = zip(*(line.split(",") for line in lines[1:]), strict=True)
    numbers = (np.array([float(v or "nan") for v in column]) for column in columns)
    return dict(zip(lines[0].split(","), numbers, strict=True))


def test_files_are_those_of_a_run_that_finds_nuclei_and_of_what_is_asked_for():
    assert measured.chosen({"sr", "mask"}, None) == []
    assert measured.chosen({"mask", "labels"}, None) == ["table", "geojson"]
    assert measured.chosen({"mask", "labels"}, ["labels", "geojson"]) == ["geojson"]
    assert measured.chosen({"mask", "labels"}, ["labels"]) == []
    assert measured.chosen({"mask", "labels"}, ["parquet", "table"]) == ["table", "parquet"]


def test_outlines_rasterized_are_the_labels(tmp_path):
    paths = write(tmp_path)
    found = outlines.collect(geojson.read(paths["geojson"]))
    labels = read_labels(tmp_path / "a.labels.tif")
    np.testing.assert_array_equal(outlines.rasterize(found, labels.shape), labels)
    np.testing.assert_array_equal(labels, LABELS)


def test_a_table_is_that_of_its_labels(tmp_path):
    paths = write(tmp_path)
    assert paths == {"table": tmp_path / "a.csv", "geojson": tmp_path / "a.geojson"}
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


def test_nuclei_of_the_enhanced_image_are_measured_there_and_placed_on_the_input(tmp_path):
    fine = LABELS.repeat(4, 0).repeat(4, 1)
    paths = write(tmp_path, scale=4, fine=fine)
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
    fine = LABELS.repeat(4, 0).repeat(4, 1)
    table = read_table(write(tmp_path, scale=4, fine=fine, mpp=None)["table"])
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
    assert list(write(tmp_path, names=["table"])) == ["table"]
    assert not (tmp_path / "a.geojson").exists()


def test_a_table_may_be_parquet(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    paths = write(tmp_path, names=["table", "parquet"])
    found, lines = parquet.read_table(paths["parquet"]), read_table(paths["table"])
    assert found.column_names == list(lines)
    np.testing.assert_allclose(found["area_um2"], lines["area_um2"])


@pytest.mark.faults
def test_outlines_may_count_from_what_was_scanned(tmp_path):
    table = measurements.measure(LABELS, IMAGE, mpp=None)
    found = outlines.trace(LABELS)
    measured.write_outlines(tmp_path / "a.geojson", "a", found, table, 0.5, (-100, 3.25))
    rings = {label: polygons[0][0] for label, polygons in geojson.read(tmp_path / "a.geojson")}
    for label, polygons in found:
        np.testing.assert_allclose(rings[label], polygons[0][0] * 0.5 + (-100, 3.25))


def test_columns_in_px_follow_the_grid_and_others_do_not():
    table = {
        "label": np.array([1, 2]),
        "x_px": np.array([3.5, 19.5]),
        "y_px": np.array([3.5, 3.5]),
        "area_px2": np.array([64.0, 16.0]),
        "major_axis_px": np.array([8.0, 4.0]),
        "eccentricity": np.array([0.5, 0.1]),
    }
    moved = measured.in_px(table, 4.0, None)
    # The middle of the first four px is that of the first px.
    assert moved["x_px"].tolist() == [0.5, 4.5]
    assert moved["area_px2"].tolist() == [4.0, 1.0]
    assert moved["major_axis_px"].tolist() == [2.0, 1.0]
    assert moved["eccentricity"].tolist() == [0.5, 0.1]
    assert moved["nearest_neighbour_px"].tolist() == [4.0, 4.0]


def test_probabilities_are_kept_on_the_grid_of_the_image():
    sink = measured.Probability((4, 6), (8, 12))
    values = np.arange(96, dtype=np.float32).reshape(8, 12, 1) / 96
    for rows in (values[:3], values[3:]):
        sink.add({"mask": rows})
    sink.close()
    assert sink.map.dtype == np.float16
    np.testing.assert_allclose(sink.map, values[1::2, 1::2, 0], atol=1e-3)
