import gzip
import json
import tracemalloc

import numpy as np
import pytest

from histojax.exports import geojson
from histojax.nuclei.measurements import measure
from histojax.nuclei.outlines import collect, rasterize, trace
from tests.geojson import read

LABELS = np.zeros((20, 30), np.int32)
LABELS[1:6, 1:6], LABELS[3, 3] = 3, 0
LABELS[0:2, 28:30] = LABELS[12:14, 0:3] = 7
LABELS[8:10, 10:12] = LABELS[10:12, 12:14] = 900_000
IMAGE = np.full((20, 30, 3), 120, np.uint8)


def write(path, labels=LABELS, table=None, **options):
    table = {"label": np.unique(labels[labels > 0])} if table is None else table
    geojson.write(path, "a slide.svs", trace(labels), table, **options)
    return path


def parsed(path):
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()

    def no_constants(name):
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=no_constants)


@pytest.mark.parametrize("name", ["a.geojson", "a.geojson.gz"])
@pytest.mark.parametrize(
    "options", [{}, {"scale": (0.37, 0.4), "offset": (1200.25, -3)}, {"scale": (4, 4)}]
)
def test_labels_come_back(tmp_path, name, options):
    path = write(tmp_path / name, **options)
    found = collect(read(path), **options)
    np.testing.assert_array_equal(rasterize(found, LABELS.shape), LABELS)


def test_a_file_is_what_qupath_and_others_read(tmp_path):
    table = measure(LABELS, IMAGE, mpp=0.5)
    table["class"] = np.array(["", "tumor", 'a "b"'])
    found = parsed(write(tmp_path / "a.geojson", table=table))
    assert found["type"] == "FeatureCollection"
    assert found["properties"]["coordinates"].startswith("px of the input image, origin top left")
    assert [f["type"] for f in found["features"]] == ["Feature"] * 3
    assert [f["geometry"]["type"] for f in found["features"]] == [
        "Polygon",
        "MultiPolygon",
        "MultiPolygon",
    ]
    first, second, third = (f["properties"] for f in found["features"])
    assert first["objectType"] == "detection"
    assert first["metadata"] == {"label": 3}
    assert "classification" not in first
    assert second["classification"] == {"name": "tumor"}
    assert third["classification"] == {"name": 'a "b"'}
    assert first["measurements"]["area_um2"] == 24 * 0.25
    assert first["measurements"]["touches_edge"] == 0
    assert second["measurements"]["touches_edge"] == 1
    assert not {"label", "x_px", "y_px"} & first["measurements"].keys()
    ring, hole = found["features"][0]["geometry"]["coordinates"]
    assert ring == [[1, 1], [6, 1], [6, 6], [1, 6], [1, 1]]
    assert hole[0] == hole[-1]
    assert len(hole) == 5


@pytest.mark.faults
def test_missing_measurements_are_left_out(tmp_path):
    table = {"label": np.array([3, 7, 900_000]), "a": np.array([1 / 3, np.nan, np.inf])}
    features = parsed(write(tmp_path / "a.geojson", table=table))["features"]
    numbers = [f["properties"]["measurements"] for f in features]
    assert numbers[0]["a"] == pytest.approx(1 / 3, rel=1e-6)
    assert numbers[1:] == [{}, {}]


@pytest.mark.faults
def test_two_exports_have_the_same_ids_and_bytes(tmp_path):
    first, second = write(tmp_path / "a.geojson.gz"), write(tmp_path / "b.geojson.gz")
    assert first.read_bytes() == second.read_bytes()
    ids = [f["id"] for f in parsed(first)["features"]]
    assert len(set(ids)) == 3
    table = {"label": np.array([3, 7, 900_000])}
    geojson.write(tmp_path / "c.geojson", "another.svs", trace(LABELS), table)
    assert not {f["id"] for f in parsed(tmp_path / "c.geojson")["features"]} & set(ids)


@pytest.mark.faults
@pytest.mark.parametrize("mpp", [0.16, 0.46])
def test_a_disc_in_the_last_tile_lies_where_it_is_on_the_slide(tmp_path, mpp):
    # The network reads 0.25 um per px; the slide has another scale.
    y, x = np.ogrid[:64, :64]
    disc = ((y - 40) ** 2 + (x - 30) ** 2 <= 100).astype(np.int32)
    scale = 0.25 / mpp
    outlines = trace(disc, origin=(960, 1984))
    geojson.write(tmp_path / "a.geojson", "s", outlines, {"label": np.array([1])}, (scale, scale))
    ((_, ((ring,),)),) = read(tmp_path / "a.geojson")
    middle = (ring.min(axis=0) + ring.max(axis=0)) / 2
    # The middle of pixel 40 is at 40.5 from the edge.
    np.testing.assert_allclose(middle, [2014.5 * scale, 1000.5 * scale], atol=1e-3)
    assert np.ptp(ring, axis=0) == pytest.approx([21 * scale, 21 * scale], abs=2e-3)


def test_blocks_of_nuclei_are_one_file(tmp_path, monkeypatch):
    classes = np.array(["", "tumor", "other"])
    table = measure(LABELS, IMAGE, mpp=0.5) | {"class": classes}
    whole = write(tmp_path / "whole.geojson", table=table)
    monkeypatch.setattr(geojson, "_BLOCK", 2)
    assert write(tmp_path / "blocks.geojson", table=table).read_bytes() == whole.read_bytes()


def test_a_table_and_its_outlines_agree(tmp_path):
    table = measure(LABELS, IMAGE, mpp=None)
    path = write(tmp_path / "a.geojson", table=table)
    for row, (label, polygons) in enumerate(read(path)):
        assert label == table["label"][row]
        points = np.concatenate([ring for rings in polygons for ring in rings])
        # A centroid is of pixel centers, half a px from their edges.
        center = np.array([table["x_px"][row], table["y_px"][row]]) + 0.5
        assert (points.min(axis=0) < center).all()
        assert (center < points.max(axis=0)).all()


@pytest.mark.faults
def test_an_image_without_nuclei_is_an_empty_collection(tmp_path):
    path = write(tmp_path / "b.geojson", np.zeros((3, 3), np.int32))
    assert parsed(path)["features"] == []


@pytest.mark.faults
def test_a_table_of_other_labels_is_refused_and_leaves_no_file(tmp_path):
    with pytest.raises(ValueError, match="different labels"):
        write(tmp_path / "a.geojson", table={"label": np.array([1, 2, 3])})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.faults
def test_memory_does_not_grow_with_the_number_of_nuclei(tmp_path, monkeypatch):
    monkeypatch.setattr(geojson, "_BLOCK", 400)

    def peak(side):
        labels = np.zeros((side, side), np.int32)
        numbers = np.arange(1, (side // 4) ** 2 + 1).reshape(side // 4, -1)
        labels[::4, ::4] = labels[1::4, ::4] = labels[::4, 1::4] = numbers
        outlines, table = trace(labels), {"label": numbers.ravel()}
        tracemalloc.start()
        geojson.write(tmp_path / f"{side}.geojson.gz", "x", outlines, table)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    # A label costs some tens of bytes, and its text some hundreds.
    few, many = peak(80), peak(240)
    assert many - few < 8 * 400 * 100
    assert sum(1 for _ in read(tmp_path / "240.geojson.gz")) == 3600
