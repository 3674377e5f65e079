"""Slides: nuclei do not depend on how one is cut, and nothing is done twice."""

import dataclasses
import gzip
import json
import re

import numpy as np
import pytest
import tifffile

from histojax.errors import UserError
from histojax.imaging.labels import read_labels
from histojax.inference import image as image_module
from histojax.inference.regions import cut, view
from histojax.inference.regions.view import Options, View
from histojax.inference.scale import Estimate
from histojax.nuclei import outlines
from tests import geojson
from tests.imaging import stub_slide
from tests.inference.regions import dark

HEIGHT, WIDTH = 600, 800
# On borders and corners of regions of 256 px.
ON_BORDERS = [
    (255.5, 255.5, 10),
    (511.5, 255.5, 8.5),
    (255.5, 511.5, 9),
    (256, 400, 7),
    (380, 512, 8),
]
# Away from these and from each other.
SCATTERED = [
    (y, x, radius)
    for y, x, radius in dark.nuclei(HEIGHT, 640)
    if min(np.hypot(y - top, x - left) for top, left, _ in ON_BORDERS) > 25
]
NUCLEI = SCATTERED + ON_BORDERS
IMAGE = dark.tissue(HEIGHT, WIDTH, NUCLEI, glass=660)


def as_slides(monkeypatch):
    """Takes every image for a slide, without pages, which take longer than all the rest."""
    monkeypatch.setattr(view, "is_slide", lambda *_: True)
    monkeypatch.setattr(image_module.page, "write", lambda *_, **__: None)


@pytest.fixture(autouse=True)
def slides(monkeypatch):
    as_slides(monkeypatch)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return dark.write(tmp_path_factory.mktemp("slide") / "a.tif", IMAGE, mpp=0.5)


def predict(path, output, network=None, run=None, *, window=3072, tile=256, made_of=None, **more):
    keys = {"outputs", "mpp", "estimate"} & more.keys()
    given = {name: more.pop(name) for name in keys}
    return image_module.predict_image(
        run or dark.run(),
        dataclasses.replace((network or dark.Network()).tiled, largest=tile),
        path,
        output,
        options=Options(window=window, **more),
        made_of=made_of or {"flags": 1},
        **given,
    )


def rows(made):
    """The table by columns, ordered by place."""
    lines = made.files["table"].read_text().splitlines()
    columns = np.array([[float(v or "nan") for v in line.split(",")] for line in lines[1:]])
    table = dict(zip(lines[0].split(","), columns.T, strict=True))
    order = np.lexsort((table["x_px"], np.round(table["y_px"], 4)))
    return {name: values[order] for name, values in table.items() if name != "label"}


def same_nuclei(first, second):
    assert first.nuclei == second.nuclei
    one, other = rows(first), rows(second)
    assert one.keys() == other.keys()
    for name in one:
        tolerance = {"atol": 1e-6, "rtol": 1e-7} if name in ("x_px", "y_px") else {"rtol": 1e-4}
        np.testing.assert_allclose(one[name], other[name], err_msg=name, **tolerance)


@pytest.fixture(scope="module")
def at_once(path, tmp_path_factory):
    """All of it in one window."""
    with pytest.MonkeyPatch.context() as patch:
        as_slides(patch)
        return predict(path, tmp_path_factory.mktemp("out"))


def test_every_nucleus_is_found_where_it_lies(at_once):
    assert at_once.nuclei == len(NUCLEI)
    table = rows(at_once)
    places = np.array(NUCLEI)
    away = np.hypot(table["y_px"][:, None] - places[:, 0], table["x_px"][:, None] - places[:, 1])
    assert (away.min(axis=1) < 0.5).all()
    assert len(set(away.argmin(axis=1))) == len(NUCLEI)
    assert at_once.note.startswith("at 0.5 um/px")


@pytest.mark.faults
@pytest.mark.parametrize(("window", "tile"), [(512, 256), (512, 64), (700, 128), (1024, 256)])
def test_neither_windows_nor_tiles_change_nuclei(path, at_once, tmp_path, window, tile):
    same_nuclei(predict(path, tmp_path, window=window, tile=tile, batch=2), at_once)


@pytest.mark.faults
def test_nuclei_of_80_px_on_borders_of_regions_are_whole(tmp_path):
    image = dark.tissue(520, 520, [(256, 256, 40), (256, 130.5, 40), (130, 256, 40)])
    made = predict(dark.write(tmp_path / "a.tif", image, mpp=0.5), tmp_path, window=512, tile=64)
    assert rows(made)["area_um2"] == pytest.approx([np.pi * 1600 * 0.25] * 3, rel=0.03)


@pytest.mark.faults
def test_what_is_larger_than_a_nucleus_is_dropped_and_said(tmp_path):
    """A blot on the border of two regions counts once."""
    image = dark.tissue(520, 520, [(100, 60, 9), (400, 300, 9)])
    image[80:120, 200:300] = dark.PURPLE
    path, run = dark.write(tmp_path / "a.tif", image, mpp=0.5), dark.run(nucleus_largest=1000)
    made = predict(path, tmp_path, run=run, window=512, tile=64)
    assert made.nuclei == 2
    pixels = re.search(r"; ([\d,]+) px of objects too large for nuclei dropped", made.note)[1]
    assert int(pixels.replace(",", "")) == pytest.approx(4_000, rel=0.01)
    assert "dropped" not in predict(path, tmp_path / "out", window=512, tile=64).note


def test_glass_that_is_not_looked_at_holds_nothing(path, at_once, tmp_path, monkeypatch):
    monkeypatch.setattr(View, "wanted", lambda *_: True)
    network = dark.Network()
    same_nuclei(predict(path, tmp_path, network, window=512, tile=64), at_once)
    everything = network.windows
    monkeypatch.undo()
    as_slides(monkeypatch)
    network = dark.Network()
    predict(path, tmp_path / "tissue", network, window=512, tile=64)
    # Tissue and its margin reach to column 740 of 800; tiles begin at 704 and at 768.
    assert network.windows < everything


def test_labels_outlines_and_table_are_of_the_same_nuclei(at_once):
    labels = read_labels(at_once.files["labels"])
    assert labels.shape == (HEIGHT, WIDTH)
    assert set(np.unique(labels)) == set(range(at_once.nuclei + 1))
    found = outlines.collect(geojson.read(at_once.files["geojson"]))
    np.testing.assert_array_equal(outlines.rasterize(found, labels.shape), labels)
    lines = at_once.files["table"].read_text().splitlines()
    table = [line.split(",") for line in lines]
    assert [int(line[0]) for line in table[1:]] == list(range(1, at_once.nuclei + 1))
    boxes = {label: polygons[0][0] for label, polygons in geojson.read(at_once.files["geojson"])}
    x, y = table[0].index("x_px"), table[0].index("y_px")
    for line in table[1:]:
        ring = boxes[int(line[0])]
        # The middle of pixel k is k in the table, and k + 1/2 in outlines.
        place = np.array([float(line[x]), float(line[y])]) + 0.5
        assert (ring.min(axis=0) <= place).all()
        assert (place <= ring.max(axis=0)).all()
    with tifffile.TiffFile(at_once.files["labels"]) as file:
        assert file.is_ome


def test_one_kind_of_file_is_made_alone(path, tmp_path):
    made = predict(path, tmp_path, outputs=["table"])
    assert list(made.files) == ["table"]
    assert [p.name for p in tmp_path.iterdir()] == ["a.csv"]


@pytest.mark.faults
def test_what_the_run_does_not_make_is_refused(path, tmp_path):
    with pytest.raises(UserError, match=r"--outputs=sr is not made of a slide by runs/dark: choo"):
        predict(path, tmp_path, outputs=["sr"])
    with pytest.raises(UserError, match=r"--enhance needs a run that enhances, and runs/dark does"):
        predict(path, tmp_path, enhance=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.faults
def test_after_a_stop_regions_that_are_done_are_not_done_again(
    path, at_once, tmp_path, monkeypatch
):
    whole, tiles, run_network = dark.Network(), {}, cut.run_network

    def counted(*args, **options):
        for seen in run_network(*args, **options):
            tiles[seen.region.name] = seen.tiles
            yield seen

    monkeypatch.setattr(cut, "run_network", counted)
    predict(path, tmp_path / "whole", whole, window=512, tile=64)
    stopped = dark.Network(stop_after=whole.windows // 2)
    with pytest.raises(dark.Stop):
        predict(path, tmp_path, stopped, window=512, tile=64)
    parts = sorted(p.stem for p in (tmp_path / "a.parts").glob("*.npz"))
    assert 2 <= len(parts) < len(tiles)
    assert not (tmp_path / "a.csv").exists()
    network = dark.Network()
    made = predict(path, tmp_path, network, window=512, tile=64)
    assert whole.windows == sum(tiles.values())
    assert network.windows == whole.windows - sum(tiles[name] for name in parts)
    for name in ("a.csv", "a.geojson.gz"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    labels = [read_labels(folder / "a.labels.tif") for folder in (tmp_path, tmp_path / "whole")]
    np.testing.assert_array_equal(*labels)
    same_nuclei(made, at_once)
    assert not (tmp_path / "a.parts").exists()


@pytest.mark.faults
def test_parts_that_were_made_otherwise_are_made_again(path, tmp_path):
    stopped = dark.Network(stop_after=120)
    with pytest.raises(dark.Stop):
        predict(path, tmp_path, stopped, window=512, tile=64, made_of={"model": "a"})
    record = tmp_path / "a.parts" / "made_of.json"
    assert json.loads(record.read_text()) == {"model": "a", "factor": 1.0, "mpp": 0.5}
    (tmp_path / "a.parts" / "y009999-x009999.npz").write_bytes(b"of another window")
    network, whole = dark.Network(), dark.Network()
    predict(path, tmp_path, network, window=512, tile=64, made_of={"model": "b"})
    predict(path, tmp_path / "whole", whole, window=512, tile=64)
    assert network.windows == whole.windows
    assert not (tmp_path / "a.parts").exists()


@pytest.mark.faults
def test_a_stopped_slide_goes_on_at_one_scale(tmp_path):
    """The estimate of a slide without a scale follows from the other images of a call too."""
    path = dark.write(tmp_path / "a.tif", IMAGE)
    run = dark.run(nucleus_diameter=12.0, mpp_in=0.5, mpp_out=0.5)
    first, then = (Estimate(size, size, size, 50, True, "") for size in (12.0, 24.0))
    stopped = dark.Network(stop_after=120)
    with pytest.raises(dark.Stop):
        predict(path, tmp_path, stopped, run, window=512, tile=64, estimate=first)
    assert list((tmp_path / "a.parts").glob("*.npz"))
    made = predict(path, tmp_path, run=run, window=512, tile=64, estimate=then)
    fresh = predict(path, tmp_path / "fresh", run=run, window=512, tile=64, estimate=then)
    same_nuclei(made, fresh)


@pytest.mark.faults
def test_a_fibre_over_three_regions_is_no_nucleus_and_said(tmp_path):
    nuclei = [(100.0, 100.0, 8), (300.0, 700.0, 8)]
    image = dark.tissue(600, 800, nuclei)
    image[200:208, 50:750] = dark.PURPLE
    made = predict(dark.write(tmp_path / "a.tif", image, mpp=0.5), tmp_path, window=512, tile=64)
    assert made.nuclei == 2
    assert np.unique(read_labels(made.files["labels"])).tolist() == [0, 1, 2]
    assert "px of objects too large for nuclei dropped" in made.note


@pytest.mark.faults
def test_a_slide_without_tissue_has_empty_files_and_that_is_said(tmp_path):
    blank = np.full((300, 400, 3), dark.GLASS, np.uint8)
    network = dark.Network()
    made = predict(dark.write(tmp_path / "a.tif", blank, mpp=0.5), tmp_path / "out", network)
    assert (made.nuclei, network.windows) == (0, 0)
    assert made.note.endswith("; it shows no tissue (--noskip_glass predicts all of it)")
    heading, *lines = made.files["table"].read_text().splitlines()
    assert lines == []
    assert heading.startswith("label,x_px,y_px,area_um2,")
    assert not read_labels(made.files["labels"]).any()
    assert list(geojson.read(made.files["geojson"])) == []
    # All of it is predicted where that is asked for.
    made = predict(tmp_path / "a.tif", tmp_path / "all", network, skip_glass=False)
    assert made.nuclei == 0
    assert network.windows > 0
    assert "tissue" not in made.note
    assert made.area_mm2 == pytest.approx(300 * 400 * 0.25 / 1e6)


@pytest.mark.faults
def test_tissue_without_nuclei_has_empty_files_with_the_same_columns(path, at_once, tmp_path):
    image = dark.tissue(300, 400, [])
    made = predict(dark.write(tmp_path / "a.tif", image, mpp=0.5), tmp_path / "out")
    assert made.nuclei == 0
    assert "no tissue" not in made.note
    heading = at_once.files["table"].read_text().splitlines()[0]
    assert made.files["table"].read_text() == heading + "\n"


@pytest.mark.faults
@pytest.mark.parametrize("mpp", [0.16, 0.46])
def test_places_are_px_of_the_slide_whatever_the_scale_that_is_read(tmp_path, mpp):
    place = (431.0, 512.0, 16 / mpp * 0.25)
    image = dark.tissue(600, 700, [place])
    run = dark.run(mpp_in=0.25, mpp_out=0.25)
    made = predict(dark.write(tmp_path / "a.tif", image, mpp=mpp), tmp_path / "out", run=run)
    assert made.nuclei == 1
    table = rows(made)
    assert table["y_px"] == pytest.approx(place[0], abs=0.5)
    assert table["x_px"] == pytest.approx(place[1], abs=0.5)
    # 4 um of radius.
    assert table["area_um2"] == pytest.approx(np.pi * 16, rel=0.03)
    ((_, ((ring,),)),) = geojson.read(made.files["geojson"])
    middle = (ring.min(axis=0) + ring.max(axis=0)) / 2 - 0.5
    np.testing.assert_allclose(middle, place[1::-1], atol=1.2)
    labels = read_labels(made.files["labels"])
    assert labels.shape == (600, 700)
    area = labels.sum() * mpp**2
    assert area == pytest.approx(table["area_um2"][0], rel=0.02)
    y, x = np.argwhere(labels).mean(axis=0)
    assert (y, x) == (pytest.approx(place[0], abs=0.7), pytest.approx(place[1], abs=0.7))
    with tifffile.TiffFile(made.files["labels"]) as file:
        assert f'PhysicalSizeX="{made.mpp}"' in file.ome_metadata
    assert made.mpp == pytest.approx(mpp, rel=1e-6)


@pytest.mark.faults
def test_a_scan_away_from_the_corner_has_outlines_of_its_own_too(monkeypatch, tmp_path):
    path = tmp_path / "a.mrxs"
    path.write_bytes(b"")
    # The scan's edge cuts the last one.
    nuclei = [(300.0, 260.0, 9), (200.0, 310.0, 7), (95.0, 400.0, 9)]
    bounds = {"bounds_x": "150", "bounds_y": "90", "bounds_width": "400", "bounds_height": "400"}
    stub_slide.install(
        monkeypatch, dark.tissue(600, 700, nuclei), mpp_x="0.5", mpp_y="0.5", **bounds
    )
    made = predict(path, tmp_path / "out")
    assert made.nuclei == 3
    assert rows(made)["touches_edge"].tolist() == [1, 0, 0]
    whole, scan = (
        dict(geojson.read(tmp_path / "out" / name))
        for name in ("a.geojson.gz", "a.scan.geojson.gz")
    )
    for label, ((ring,),) in whole.items():
        np.testing.assert_array_equal(scan[label][0][0], ring - (150, 90))
    # A file says which it is.
    head = gzip.decompress((tmp_path / "out" / "a.scan.geojson.gz").read_bytes()).split(b"\n")[0]
    assert b'"offset":[-150.0,-90.0]' in head


def test_a_region_holds_the_nuclei_whose_centroids_lie_in_it(path, at_once, tmp_path):
    x, y, width, height = 130, 170, 300, 260
    made = predict(path, tmp_path, region=(x, y, width, height), window=512, tile=64)
    table = rows(at_once)
    across, down = table["x_px"] + 0.5, table["y_px"] + 0.5
    inside = (x <= across) & (across < x + width) & (y <= down) & (down < y + height)
    assert made.nuclei == inside.sum() > 10
    for name in ("x_px", "y_px", "area_um2"):
        np.testing.assert_allclose(rows(made)[name], table[name][inside])


@pytest.mark.faults
def test_a_damaged_tile_is_white_named_and_costs_the_slide_nothing_else(
    at_once, tmp_path, monkeypatch
):
    path = dark.write(tmp_path / "a.tif", IMAGE, mpp=0.5)
    # Of 7 tiles of 128 px in a row: y 256 to 384, x 128 to 256.
    dark.damage(path, 2 * 7 + 1)
    monkeypatch.setattr(cut, "_MOST_DAMAGED", 0.5)
    made = predict(path, tmp_path / "out", window=512, tile=64)
    assert "damaged part" in made.note
    assert "taken as white" in made.note
    # What is left lies where it did, and none is found in the block that could not be read.
    found, before = rows(made), rows(at_once)
    near = (before["y_px"] > 230) & (before["x_px"] < 290)
    assert (~near).sum() <= made.nuclei < at_once.nuclei
    kept = set(zip(found["y_px"].round(3), found["x_px"].round(3), strict=True))
    expected = zip(before["y_px"][~near].round(3), before["x_px"][~near].round(3), strict=True)
    assert set(expected) <= kept


@pytest.mark.faults
def test_a_slide_that_is_damaged_in_more_than_1_percent_is_refused(tmp_path):
    path = dark.write(tmp_path / "a.tif", IMAGE, mpp=0.5)
    dark.damage(path, 15)
    with pytest.raises(UserError, match=r"a\.tif is damaged in \d+\.\d% of what was read, above 1"):
        predict(path, tmp_path / "out", window=512)
