import dataclasses
import gzip

import numpy as np
import PIL.Image
import pytest
import tifffile

from histojax.errors import UserError
from histojax.imaging.labels import read_labels
from histojax.imaging.reader import read_image
from histojax.imaging.tiling import ArrayReader
from histojax.inference import prediction, tiled
from histojax.inference.image import predict_image
from histojax.inference.regions import cut, enhancement, tissue_mask, view
from histojax.inference.regions.view import Options
from tests import geojson
from tests.inference.regions import dark

IMAGE = dark.tissue(200, 320, dark.nuclei(200, 320))
WHOLE = (0, 0, 200, 320)
MASK = tissue_mask.whole_mask(ArrayReader(IMAGE))


def write(path, box=WHOLE, *, scale=2, wanted=lambda *_: True, network=None, **options):
    network = network or dark.Network(scale, enhances=True, segments=False)
    seen = view.View(
        path, WHOLE[2:], 0.5, cut.DamagedReader(ArrayReader(IMAGE)), 1.0, MASK, box, WHOLE, True
    )
    path.with_suffix(".parts").mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(view.View, "wanted", lambda _, *place: wanted(*place))
        patch.setattr(tiled.TiledNetwork, "core", lambda *_: 64)
        enhancement.write(
            path,
            dataclasses.replace(network.tiled, largest=64),
            seen,
            Options(**options),
            path.with_suffix(".parts"),
        )
    return read_image(path)


def enlarged(image, scale=2):
    """What the network makes of an image: each px several times."""
    return image.repeat(scale, 0).repeat(scale, 1)


def bicubic(image, scale=2):
    size = (image.shape[1] * scale, image.shape[0] * scale)
    return np.asarray(PIL.Image.fromarray(image).resize(size, PIL.Image.Resampling.BICUBIC))


def test_an_enhanced_slide_is_what_the_network_makes_of_it(tmp_path):
    np.testing.assert_array_equal(write(tmp_path / "a.tif"), enlarged(IMAGE))
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.is_ome
        assert 'PhysicalSizeX="0.25"' in file.ome_metadata
        assert "not for diagnosis" in file.ome_metadata


def test_strips_leave_no_seam(tmp_path, monkeypatch):
    # Strips of one row of tiles.
    monkeypatch.setattr(enhancement, "_LARGEST_STRIP", 1)
    np.testing.assert_array_equal(write(tmp_path / "a.tif"), enlarged(IMAGE))


def test_a_part_holds_the_pixels_of_its_place(tmp_path):
    got = write(tmp_path / "a.tif", (30, 50, 100, 130))
    np.testing.assert_array_equal(got, enlarged(IMAGE[30:130, 50:180]))


def test_glass_is_bicubic(tmp_path):
    got = write(tmp_path / "a.tif", wanted=lambda y, x, *_: x < 128)
    np.testing.assert_array_equal(got[:, :256], enlarged(IMAGE)[:, :256])
    np.testing.assert_array_equal(got[:, 256:], bicubic(IMAGE)[:, 256:])
    none = write(tmp_path / "b.tif", wanted=lambda *_: False)
    np.testing.assert_array_equal(none, bicubic(IMAGE))


@pytest.mark.faults
def test_what_is_too_large_is_refused_with_its_size(tmp_path):
    # 640 x 400 px of three bytes.
    enhancement.check_size(WHOLE, 2, 256_000)
    words = r"would have 640 x 400 px, 0 GB .* at most --max_output_pixels=255,999 px .* --region="
    with pytest.raises(UserError, match=words):
        enhancement.check_size(WHOLE, 2, 255_999)
    path = dark.write(tmp_path / "a.tif", IMAGE, mpp=1.0)
    with pytest.raises(UserError, match="at most --max_output_pixels=1,000 px"):
        predict(path, tmp_path / "out", "generator", max_output_pixels=1_000)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.faults
def test_after_a_stop_strips_that_are_done_are_not_done_again(tmp_path, monkeypatch):
    # Four strips of five tiles each.
    monkeypatch.setattr(enhancement, "_LARGEST_STRIP", 1)
    stopped = dark.Network(2, enhances=True, segments=False, stop_after=12)
    with pytest.raises(dark.Stop):
        write(tmp_path / "a.tif", network=stopped)
    done = sorted(path.name for path in (tmp_path / "a.parts").glob("*.npy"))
    assert done[0] == "sr-y000000.npy"
    assert 1 <= len(done) <= 2
    assert not (tmp_path / "a.tif").exists()
    network = dark.Network(2, enhances=True, segments=False)
    np.testing.assert_array_equal(write(tmp_path / "a.tif", network=network), enlarged(IMAGE))
    assert network.windows == 20 - 5 * len(done)


def predict(path, output, run="joint", scale=4, **options):
    segments = run == "joint"
    network = dark.Network(scale, enhances=True, segments=segments).tiled
    return predict_image(
        dark.run(run),
        dataclasses.replace(network, largest=512 // scale),
        path,
        output,
        options=Options(window=2048, **options),
    )


@pytest.fixture
def no_page(monkeypatch):
    monkeypatch.setattr(view, "is_slide", lambda *_: True)
    monkeypatch.setattr("histojax.inference.regions.page.write", lambda *_, **__: None)


def test_a_slide_is_enhanced_at_a_quarter_of_its_um_per_px(no_page, tmp_path):
    path = dark.write(tmp_path / "a.tif", IMAGE, mpp=1.0)
    made = predict(path, tmp_path / "out", "generator", region=(40, 20, 200, 100))
    assert (made.scale, made.nuclei, list(made.files)) == (4, None, ["page", "sr"])
    got = read_image(made.files["sr"])
    np.testing.assert_array_equal(got, enlarged(IMAGE[20:120, 40:240], 4))
    with tifffile.TiffFile(made.files["sr"]) as file:
        assert 'PhysicalSizeX="0.25"' in file.ome_metadata
    # The preview shows the middle of the part, on both grids.
    sheet = prediction.preview(path, made)[6:390]
    middle = enlarged(IMAGE[22:118, 92:188], 4)
    np.testing.assert_array_equal(sheet[:, 6:390], middle)
    np.testing.assert_array_equal(sheet[:, -390:-6], middle)
    # Neither parts nor other files are left.
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a.sr.tif"]


def test_nuclei_of_an_enhanced_slide_lie_on_both_grids(no_page, tmp_path):
    places = [(60.0, 60.0, 9), (100.0, 200.0, 7)]
    path = dark.write(tmp_path / "a.tif", dark.tissue(200, 320, places), mpp=1.0)
    made = predict(path, tmp_path / "out", enhance=True)
    assert (made.nuclei, made.scale) == (2, 4)
    assert set(made.files) == {"page", "sr", "labels", "table", "geojson", "sr.geojson"}
    plain = dict(geojson.read(made.files["geojson"]))
    fine = dict(geojson.read(tmp_path / "out" / "a.sr.geojson.gz"))
    for label, ((ring,),) in plain.items():
        np.testing.assert_allclose(fine[label][0][0], ring * 4, atol=2e-3)
        middle = (ring.min(axis=0) + ring.max(axis=0)) / 2 - 0.5
        assert np.abs(middle - [place[1::-1] for place in places]).sum(axis=1).min() < 1


def test_outlines_of_an_enhanced_part_lie_on_it(no_page, tmp_path):
    places = [(60.0, 60.0, 9), (100.0, 200.0, 7)]
    path = dark.write(tmp_path / "a.tif", dark.tissue(200, 320, places), mpp=1.0)
    made = predict(path, tmp_path / "out", enhance=True, region=(150, 60, 120, 90))
    (((ring,),),) = dict(geojson.read(tmp_path / "out" / "a.sr.geojson.gz")).values()
    middle = (ring.min(axis=0) + ring.max(axis=0)) / 2
    np.testing.assert_allclose(middle, [4 * (200.5 - 150), 4 * (100.5 - 60)], atol=3)
    sr = read_image(made.files["sr"])
    x, y = middle.astype(int)
    np.testing.assert_array_equal(sr[y, x], dark.PURPLE)
    assert b"px of the enhanced image" in gzip.decompress(
        (tmp_path / "out" / "a.sr.geojson.gz").read_bytes()
    )


def test_without_enhance_a_run_that_also_finds_nuclei_writes_these_alone(no_page, tmp_path):
    path = dark.write(tmp_path / "a.tif", dark.tissue(200, 320, [(60.0, 60.0, 9)]), mpp=1.0)
    made = predict(path, tmp_path / "out")
    assert (made.nuclei, made.scale) == (1, 1)
    assert set(made.files) == {"page", "labels", "table", "geojson"}
    labels = read_labels(made.files["labels"])
    assert labels.shape == (200, 320)
    assert np.argwhere(labels).mean(axis=0) == pytest.approx([60, 60], abs=0.5)
