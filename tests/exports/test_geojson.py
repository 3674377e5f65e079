import gzip
import json
import tracemalloc

import numpy as np
import pytest

from histojax.errors import UserError
from histojax.exports import geojson
from histojax.nuclei.measurements import measure
from histojax.nuclei.outlines import collect, rasterize, trace

LABELS = np.zeros((20, 30), np.int32)
LABELS[1:6, 1:6], LABELS[3, 3] = 3, 0
LABELS[0:2, 28:30] = LABELS[12:14, 0:3] = 7
LABELS[8:10, 10:12] = LABELS[10:12, 12:14] = 900_000
IMAGE = np.full((20, 30, 3), 120, np.uint8)


def write(path, labels=LABELS, table=None, times=1, **options):
    with geojson.writing(path, "a slide.svs", **options) as add:
        for _ in range(times):
            add(trace(labels), table)
    return path


def parsed(path):
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()

    def no_constants(name):
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=no_constants)


@pytest.mark.parametrize("name", ["a.geojson", "a.geojson.gz"])
@pytest.mark.parametrize("options", [{}, {"scale": 0.37, "offset": (1200.25, -3)}, {"scale": 4.0}])
def test_labels_come_back(tmp_path, name, options):
    path = write(tmp_path / name, **options)
    found = collect(geojson.read(path), **options)
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
    with geojson.writing(tmp_path / "c.geojson", "another.svs") as add:
        add(trace(LABELS))
    assert not {f["id"] for f in parsed(tmp_path / "c.geojson")["features"]} & set(ids)


@pytest.mark.faults
@pytest.mark.parametrize("mpp", [0.16, 0.46])
def test_a_disc_in_the_last_tile_lies_where_it_is_on_the_slide(tmp_path, mpp):
    # The network reads 0.25 um per px; the slide has another scale.
    y, x = np.ogrid[:64, :64]
    disc = ((y - 40) ** 2 + (x - 30) ** 2 <= 100).astype(np.int32)
    scale = 0.25 / mpp
    with geojson.writing(tmp_path / "a.geojson", "s", scale=scale) as add:
        add(trace(disc, origin=(960, 1984)))
    ((_, ((ring,),)),) = geojson.read(tmp_path / "a.geojson")
    middle = (ring.min(axis=0) + ring.max(axis=0)) / 2
    # The middle of pixel 40 is at 40.5 from the edge.
    np.testing.assert_allclose(middle, [2014.5 * scale, 1000.5 * scale], atol=1e-3)
    assert np.ptp(ring, axis=0) == pytest.approx([21 * scale, 21 * scale], abs=2e-3)


@pytest.mark.faults
def test_regions_are_one_file_and_equal_one_pass(tmp_path):
    whole = parsed(write(tmp_path / "whole.geojson"))["features"]
    with geojson.writing(tmp_path / "parts.geojson", "a slide.svs") as add:
        for label in (3, 7, 900_000):
            add(trace(LABELS * (label == LABELS)))
    assert parsed(tmp_path / "parts.geojson")["features"] == whole


def test_blocks_of_nuclei_are_one_file(tmp_path, monkeypatch):
    classes = np.array(["", "tumor", "other"])
    options = {"table": measure(LABELS, IMAGE, mpp=0.5) | {"class": classes}}
    whole = write(tmp_path / "whole.geojson", **options)
    monkeypatch.setattr(geojson, "_BLOCK", 2)
    assert write(tmp_path / "blocks.geojson", **options).read_bytes() == whole.read_bytes()


def test_a_table_and_its_outlines_agree(tmp_path):
    table = measure(LABELS, IMAGE, mpp=None)
    path = write(tmp_path / "a.geojson", table=table)
    for row, (label, polygons) in enumerate(geojson.read(path)):
        assert label == table["label"][row]
        points = np.concatenate([ring for rings in polygons for ring in rings])
        # A centroid is of pixel centers, half a px from their edges.
        center = np.array([table["x_px"][row], table["y_px"][row]]) + 0.5
        assert (points.min(axis=0) < center).all()
        assert (center < points.max(axis=0)).all()


@pytest.mark.faults
def test_an_image_without_nuclei_is_an_empty_collection(tmp_path):
    with geojson.writing(tmp_path / "a.geojson.gz", "x"):
        pass
    path = write(tmp_path / "b.geojson", np.zeros((3, 3), np.int32))
    for file in (path, tmp_path / "a.geojson.gz"):
        assert parsed(file)["features"] == []
        assert list(geojson.read(file)) == []


@pytest.mark.faults
def test_what_does_not_fit_is_refused_and_leaves_no_file(tmp_path):
    with pytest.raises(UserError, match=r"does not end in \.geojson or \.geojson\.gz"):
        write(tmp_path / "a.json")
    with pytest.raises(ValueError, match="different labels"):
        write(tmp_path / "a.geojson", table={"label": np.array([1, 2, 3])})
    with pytest.raises(ValueError, match="label 3 was written before"):
        write(tmp_path / "a.geojson", times=2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.faults
@pytest.mark.parametrize("name", ["a.geojson", "a.geojson.gz"])
def test_files_that_are_cut_off_or_of_others_are_refused(tmp_path, name):
    path = write(tmp_path / name)
    data = path.read_bytes()
    for damaged in (data[:-4], data[: len(data) // 2], b"", b"{}"):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="cannot be read as GeoJSON of histojax") as refusal:
            list(geojson.read(path))
        assert "\n" not in str(refusal.value)
    with pytest.raises(UserError, match="cannot be read"):
        list(geojson.read(tmp_path / f"absent.{name}"))


@pytest.mark.faults
def test_memory_does_not_grow_with_the_number_of_nuclei(tmp_path):
    labels = np.zeros((80, 80), np.int32)
    labels[::4, ::4] = labels[1::4, ::4] = labels[::4, 1::4] = np.arange(1, 401).reshape(20, 20)

    def peak(parts):
        tracemalloc.start()
        with geojson.writing(tmp_path / f"{parts}.geojson.gz", "x") as add:
            for part in range(parts):
                add(trace(np.where(labels > 0, labels + 400 * part, 0)))
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    # A label that was written costs some tens of bytes, and its text some hundreds.
    few, many = peak(1), peak(10)
    assert many - few < 9 * 400 * 150
    assert sum(1 for _ in geojson.read(tmp_path / "10.geojson.gz")) == 4000
