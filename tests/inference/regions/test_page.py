"""The page about an image: what it is given to show."""

import dataclasses
import re

import numpy as np
import pytest

from histojax.inference.image import predict_image
from histojax.inference.regions import page, view
from histojax.inference.regions.view import Options
from tests.imaging import stub_slide
from tests.inference.regions import dark

# Many nuclei in the upper left, a few in the lower right.
MANY = dark.nuclei(400, 400, step=40)
FEW = [(700.0, 800.0, 8), (760.0, 700.0, 7)]
IMAGE = dark.tissue(900, 1000, MANY + FEW)


@pytest.fixture
def shown(monkeypatch):
    """What pages are given, in place of pages."""
    pages = []
    monkeypatch.setattr(view, "is_slide", lambda *_: True)
    monkeypatch.setattr(
        page.slide_page, "write", lambda path, **content: pages.append({"path": path} | content)
    )
    return pages


def predict(path, output, run="segmentation", trained=None, **options):
    enhances = run != "segmentation"
    network = dark.Network(2 if enhances else 1, enhances=enhances, segments=run != "generator")
    return predict_image(
        dark.run(run, mpp_in=trained, mpp_out=trained),
        dataclasses.replace(network.tiled, largest=512),
        path,
        output,
        options=Options(window=2048, **options),
    )


def green(image):
    """Pixels of outlines."""
    return (image == (0, 255, 0)).all(-1)


def test_a_page_shows_where_many_nuclei_lie_and_where_few(shown, tmp_path):
    path = dark.write(tmp_path / "a b.tif", IMAGE, mpp=0.5)
    made = predict(path, tmp_path / "out")
    (content,) = shown
    assert content["path"] == tmp_path / "out" / "a b.html"
    assert content["name"] == "a b.tif"
    assert content["lead"] == f"{len(MANY + FEW):,} nuclei found by runs/dark."
    assert content["facts"]["size"] == "1,000 x 900 px"
    assert content["facts"]["scale"] == "0.5 µm/px"
    assert content["facts"]["note"] == made.note
    assert content["facts"]["tissue"] == "0.225 mm²"
    assert content["settings"].items() >= {"model": "runs/dark", "step": 3}.items()
    assert {"network", "in all"} <= content["settings"].keys()
    assert content["files"] == ["a b.labels.tif", "a b.csv", "a b.geojson.gz"]
    assert content["summary"]["count"] == len(MANY + FEW)
    # Places of 448 px, fullest first, each once.
    captions = [caption for caption, _ in content["places"]]
    assert captions[0] == f"{len(MANY)} nuclei, 448 x 448 px at x 0, y 0 px of the image."
    assert len(set(captions)) == len(captions) == 2
    assert captions[1].startswith("2 nuclei, 448 x 448 px at x 448, y 448 px")
    for (_, image), count in zip(content["places"], (len(MANY), 2), strict=True):
        assert image.shape == (448, 448, 3)
        assert green(image).sum() > 20 * count
        # The outline is drawn on the nuclei, and not beside them.
        purple = np.abs(image.astype(int) - dark.PURPLE).sum(-1) < 30
        near = np.zeros_like(purple)
        for dy in range(-3, 4):
            for dx in range(-3, 4):
                near |= np.roll(purple, (dy, dx), (0, 1))
        assert near[green(image)].mean() > 0.95
    # The density is highest where they lie.
    caption, shown = content["density"]
    assert re.fullmatch(r"Density of .* bright many, [\d,]+ per mm² and more\.", caption)
    density = shown.astype(int).sum(-1)
    height, width = density.shape
    assert density[: height // 3, : width // 3].mean() > 2 * density[:, -width // 4 :].mean()


def test_places_are_whole_and_measured_in_px_of_the_slide(shown, tmp_path):
    predict(dark.write(tmp_path / "a.tif", IMAGE, mpp=0.25), tmp_path / "out", trained=0.5)
    # The network reads 450 x 500 px, of which one place of 448 px is whole.
    ((caption, image),) = shown[0]["places"]
    assert caption.endswith(" nuclei, 896 x 896 px at x 0, y 0 px of the image.")
    assert image.shape == (448, 448, 3)


@pytest.mark.faults
def test_a_long_object_at_the_border_of_a_place_is_drawn_cut(shown, tmp_path):
    image = IMAGE.copy()
    image[60:70, 330:990] = dark.PURPLE
    made = predict(dark.write(tmp_path / "a.tif", image, mpp=0.5), tmp_path / "out")
    assert made.nuclei > 50
    assert all(green(place).any() for _, place in shown[0]["places"])


@pytest.mark.faults
def test_a_page_of_a_slide_without_tissue_or_scale(shown, tmp_path):
    blank = np.full((300, 400, 3), dark.GLASS, np.uint8)
    predict(dark.write(tmp_path / "a.tif", blank), tmp_path / "out")
    (content,) = shown
    assert content["lead"].startswith("0 nuclei found")
    assert (content["facts"]["scale"], content["facts"]["tissue"]) == ("unknown", "–")
    assert content["places"] == []
    assert not green(content["overview"][1]).any()
    assert "it shows no tissue" in content["facts"]["note"]


def test_an_enhanced_slide_is_shown_beside_its_original(shown, tmp_path):
    path = dark.write(tmp_path / "a.tif", IMAGE, mpp=0.5)
    predict(path, tmp_path / "out", "generator", region=(100, 60, 300, 200))
    (content,) = shown
    assert content["lead"] == "Predicted by runs/dark."
    assert content["files"] == ["a.sr.tif"]
    _, original, enhanced = content["pair"]
    # The middle of the part, 2 x 256 px wide, and all of its 2 x 200 px.
    assert original.shape == enhanced.shape == (400, 512, 3)
    expected = IMAGE[60:260, 122:378].repeat(2, 0).repeat(2, 1)
    np.testing.assert_array_equal(enhanced, expected)
    assert np.abs(original.astype(int) - expected).mean() < 8


@pytest.mark.faults
def test_a_whole_page_is_written_of_a_slide_with_nuclei_and_of_one_without(tmp_path, monkeypatch):
    monkeypatch.setattr(view, "is_slide", lambda *_: True)
    for name, nuclei in (("a", MANY[:30]), ("b", [])):
        image = dark.tissue(400, 400, nuclei)
        predict(dark.write(tmp_path / f"{name}.tif", image, mpp=0.5), tmp_path / "out")
        source = (tmp_path / "out" / f"{name}.html").read_text()
        assert f"{len(nuclei)} nuclei found by runs/dark." in source
        assert len(source) < 6_000_000
        assert "<script" not in source


@pytest.mark.faults
def test_the_page_of_a_slide_counts_from_the_corner_of_its_file(shown, monkeypatch, tmp_path):
    path = tmp_path / "a.mrxs"
    path.write_bytes(b"")
    bounds = {"bounds_x": "448", "bounds_y": "448", "bounds_width": "500", "bounds_height": "400"}
    stub_slide.install(monkeypatch, IMAGE, mpp_x="0.5", mpp_y="0.5", **bounds)
    predict(path, tmp_path / "out")
    assert "at x 0, y 0 px of the image" in shown[0]["places"][0][0]
