"""Fields: whole images, without a tissue mask."""

import dataclasses
import os
import re

import numpy as np
import pytest
import tifffile
from PIL import Image

from histojax.errors import UserError
from histojax.imaging import reader
from histojax.imaging.labels import read_labels
from histojax.inference import prediction, tiled
from histojax.inference.image import predict_image
from histojax.inference.scale import Estimate
from histojax.report import pages
from histojax.runs import workdirs
from histojax.stages import build_stage
from tests import tiny
from tests.geojson import read as read_geojson
from tests.inference.regions import dark

pytestmark = pytest.mark.usefixtures("blank_pages")


@pytest.fixture(scope="module")
def joint(trained_chain):
    return hardly_trained(trained_chain / "joint")


@pytest.fixture(scope="module")
def segmenting(trained_chain):
    return hardly_trained(trained_chain / "segmentation")


def hardly_trained(folder):
    """A run that finds the whole image as one nucleus, however large it is."""
    run = workdirs.load(folder)
    return dataclasses.replace(run, meta={**run.meta, "nucleus_largest": None})


@pytest.mark.parametrize("scale", [2, 3, 8])
def test_size_and_micrometres_follow_the_scale_factor(scale, tmp_path):
    tiny.write_tiff(tmp_path / "a.tif", tiny.tissue(5, 64)[0][:40, :56], mpp=1.0)
    run = tiny.run("generator", scale)
    made = predict_image(run, tiled.predictor(run), tmp_path / "a.tif", tmp_path / "out")
    assert made.size == (40, 56)
    assert made.scale == scale
    assert made.mpp == pytest.approx(1, rel=1e-3)
    with reader.open_image(made.files["sr"]) as image:
        assert (image.height, image.width) == (40 * scale, 56 * scale)
        assert image.mpp == pytest.approx(1 / scale, rel=1e-3)
    sheet = prediction.preview(tmp_path / "a.tif", made)
    assert sheet.shape[1] > 2 * 40 * scale  # input and enhanced, as large


def test_nuclei_are_joined_across_tiles(joint, tmp_path):
    y, x = np.mgrid[:96, :96]
    first = (y - 32) ** 2 + (x - 32) ** 2 <= 15**2  # lies on the corner of four tiles
    second = (y - 64) ** 2 + (x - 80) ** 2 <= 9**2  # lies on the border of two
    image = np.full((96, 96, 3), 255, np.uint8)
    image[first | second] = 0
    Image.fromarray(image).save(tmp_path / "discs.png")

    def windows(images):
        return {"sr": images, "mask": (images[..., :1] < 128).astype(np.float32)}

    network = in_parts(windows, halo=0)
    made = predict_image(joint, network, tmp_path / "discs.png", tmp_path)
    assert made.nuclei == 2
    labels = tifffile.imread(made.files["labels"])
    assert (labels[first] == 1).all()
    assert (labels[second] == 2).all()
    assert np.count_nonzero(labels) == np.count_nonzero(first | second)
    np.testing.assert_array_equal(reader.read_image(made.files["sr"]), image)


def by_darkness(windows):
    """A hand-made run: the image as it is, and a probability that is low on white."""
    gray = windows.astype(np.float32).mean(-1, keepdims=True)
    return {"sr": windows, "mask": 1 / (1 + np.exp((gray - 128) / 16))}


def in_parts(windows, *, halo, largest=32):
    """A hand-made network of scale 1, whose enhancer and segmenter are parts of it."""
    geometry = {"halo": halo, "stride": 1, "scale": 1, "largest": largest}
    enhancer = tiled.TiledNetwork(lambda images: {"sr": windows(images)["sr"]}, **geometry)
    segmenter = tiled.TiledNetwork(lambda images: {"mask": windows(images)["mask"]}, **geometry)
    return tiled.TiledNetwork(windows, **geometry, parts=(enhancer, segmenter))


DARK = in_parts(by_darkness, halo=2)


def index_of(path, made):
    """The text of the index of one prediction."""
    rows = [(made, prediction.preview(path, made))]
    pages.prediction_index(path.with_name("index.html"), workdir="run", rows=rows)
    return path.with_name("index.html").read_text()


def predicted(joint, path, output, network=DARK, **options):
    return predict_image(joint, network, path, output, **options)


@pytest.mark.faults
@pytest.mark.parametrize(
    ("color", "noise", "found"),
    [((255, 255, 255), 0, 0), ((242, 240, 243), 3, 0), ((200, 200, 200), 0, 0), ((0, 0, 0), 0, 1)],
)
def test_blank_glass_has_no_nuclei(joint, tmp_path, color, noise, found):
    image = np.random.default_rng(0).normal(color, noise, (70, 50, 3)).clip(0, 255).round()
    Image.fromarray(image.astype(np.uint8)).save(tmp_path / "blank.png")
    made = predicted(joint, tmp_path / "blank.png", tmp_path / "out")
    assert made.nuclei == found
    labels = read_labels(made.files["labels"])
    assert labels.shape == (70, 50)
    assert (labels == found).all()
    assert f"{found} nuc" in index_of(tmp_path / "blank.png", made)


@pytest.mark.faults
def test_a_photograph_is_predicted_as_it_is_shown(joint, tmp_path):
    stored = tiny.tissue(5, 64)[0][:40, :56]
    exif = Image.Exif()
    exif[274] = 8  # shown turned to the left by a quarter
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    made = predicted(joint, tmp_path / "a.png", tmp_path / "out")
    assert made.size == (56, 40)
    np.testing.assert_array_equal(reader.read_image(made.files["sr"]), np.rot90(stored))


@pytest.mark.faults
def test_a_name_that_cannot_be_written_costs_only_its_image(joint, tmp_path):
    image = Image.fromarray(tiny.tissue(5, 64)[0])
    fits, long = "ü" * 120, "ü" * 120 + "x"  # of two bytes each; .predicted.json is 15 more
    for name in (fits, long):
        image.save(tmp_path / f"{name}.png")
    assert predicted(joint, tmp_path / f"{fits}.png", tmp_path / "out").nuclei is not None
    with pytest.raises(UserError, match=r"a name has at most 255 bytes: shorten the name"):
        predicted(joint, tmp_path / f"{long}.png", tmp_path / "out")
    bad = os.fsencode(tmp_path) + b"/caf\xe9.png"
    os.rename(tmp_path / f"{long}.png", bad)
    with pytest.raises(UserError, match=r"caf\\xe9\.png.* is not text in utf-8: rename the file"):
        predicted(joint, tmp_path / os.fsdecode(b"caf\xe9.png"), tmp_path / "out")
    ends = (".csv", ".geojson", ".html", ".labels.tif", ".sr.geojson", ".sr.labels.tif", ".sr.tif")
    assert sorted(os.listdir(tmp_path / "out")) == [f"{fits}{end}" for end in ends]


@pytest.mark.faults
def test_max_pixels_refuses_a_plain_image_and_not_a_tiled_one(joint, tmp_path):
    image = tiny.tissue(5, 64)[0]
    Image.fromarray(image).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "b.tif", image, photometric="rgb", tile=(16, 16))
    with pytest.raises(UserError, match=r"a\.png needs 4096 pixels .* limit is 4095"):
        predicted(joint, tmp_path / "a.png", tmp_path / "out", max_pixels=4095)
    assert not (tmp_path / "out").exists()
    assert predicted(joint, tmp_path / "b.tif", tmp_path / "out", max_pixels=256).size == (64, 64)


@pytest.mark.faults
def test_damage_to_an_image_that_is_decoded_whole_is_named_as_it_is(segmenting, tmp_path):
    image = np.full((40, 50, 3), 4_000, np.uint16)  # of 12 bits
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb")
    with pytest.raises(UserError, match=r"a\.tif .*full"):
        predicted(segmenting, tmp_path / "a.tif", tmp_path / "out")


@pytest.mark.faults
def test_damage_to_a_tile_of_a_field_costs_the_tile(segmenting, tmp_path, monkeypatch):
    monkeypatch.setattr("histojax.inference.regions.cut._MOST_DAMAGED", 0.5)
    places = [(40.0, 40.0, 8), (340.0, 350.0, 8)]
    path = dark.write(tmp_path / "a.tif", dark.tissue(512, 512, places), mpp=1.0)
    dark.damage(path, 10)  # of 4 x 4 tiles, and of the last of 4 blocks
    made = predicted(with_meta(segmenting, **AT_1), path, tmp_path / "out")
    assert made.nuclei == 1
    assert "1 damaged part (" in made.note


@pytest.mark.faults
def test_seventy_thousand_nuclei_are_counted_across_tiles(joint, tmp_path):
    image = np.full((400, 800, 3), 255, np.uint8)
    image[::2, ::2] = 0  # dots, none of which touches another
    image[350:] = 255
    Image.fromarray(image).save(tmp_path / "dots.png")
    one = dataclasses.replace(joint, config=joint.config.copy_and_resolve_references())
    one.config.nuclei.update(min_area=1, max_hole=0)
    network = in_parts(by_darkness, halo=2, largest=128)
    made = predicted(one, tmp_path / "dots.png", tmp_path / "out", network, outputs=["labels"])
    assert made.nuclei == 175 * 400 == 70_000
    with tifffile.TiffFile(made.files["labels"]) as tiff:
        assert tiff.pages[0].dtype == np.uint32
    labels = read_labels(made.files["labels"])
    # Numbered in raster order, each dot once.
    np.testing.assert_array_equal(labels[:350:2, ::2].ravel(), np.arange(1, 70_001))
    assert np.count_nonzero(labels) == 70_000


@pytest.mark.parametrize("tile", [16, 1024])
def test_classes_are_written_beside_the_nuclei(tmp_path, tile):
    config = tiny.config("pyramid")
    config.pyramid.update(labels="classes", classes=3)
    meta = {"thresholds": {"mask": 0.5}, "mpp_in": None, "mpp_out": None}
    meta["classes"] = ["background", "tumour", "stroma"]
    run = workdirs.Run(None, config, build_stage(config, {}), None, 0, meta)
    index = np.zeros((40, 56), np.uint8)
    index[4:30, 6:20], index[10:38, 20:50] = 1, 2
    name = "n" * 240  # .predicted.json is 15 more
    Image.fromarray(np.stack([index * 100] * 3, -1)).save(tmp_path / f"{name}.png")

    def windows(image):
        number = image[..., :1] // 100
        maps = {f"class_{k}": (number == k).astype(np.float32) for k in (1, 2)}
        return {**maps, "mask": (number > 0).astype(np.float32)}

    network = tiled.TiledNetwork(windows, halo=2, stride=1, scale=1, largest=tile)
    made = predicted(run, tmp_path / f"{name}.png", tmp_path / "out", network)
    assert set(made.files) == {"labels", "classes", "table", "geojson", "page"}
    assert made.nuclei == 1  # the two touch
    with tifffile.TiffFile(made.files["classes"]) as tiff:
        assert tiff.pages[0].dtype == np.uint8
    np.testing.assert_array_equal(read_labels(made.files["classes"]), index)
    assert (read_labels(made.files["labels"]) == (index > 0)).all()
    assert "0 background, 1 tumour, 2 stroma" in index_of(tmp_path / f"{name}.png", made)
    preview = prediction.preview(tmp_path / f"{name}.png", made)
    assert {0, 127, 254} <= set(preview[:, -40:].ravel())
    with pytest.raises(UserError, match=r"a name has at most 255 bytes"):
        predicted(run, tmp_path / f"{name}n.png", tmp_path / "out", network)


def test_only_the_outputs_asked_for_are_written(joint, tmp_path):
    Image.fromarray(tiny.tissue(5, 64)[0]).save(tmp_path / "a.png")
    made = predicted(joint, tmp_path / "a.png", tmp_path / "out", outputs=["labels"])
    assert os.listdir(tmp_path / "out") == ["a.labels.tif"]
    assert set(made.files) == {"labels"}
    assert made.nuclei is not None


@pytest.mark.faults
def test_outputs_that_a_run_does_not_make_are_refused(joint, tmp_path):
    Image.fromarray(tiny.tissue(5, 64)[0]).save(tmp_path / "a.png")
    with pytest.raises(
        UserError, match=r"=classes is not made .* among page, sr, labels, sr.labels, table"
    ):
        predicted(joint, tmp_path / "a.png", tmp_path / "out", outputs=["classes"])
    assert not (tmp_path / "out").exists()


def with_meta(run, **meta):
    return dataclasses.replace(run, meta={**run.meta, **meta})


AT_1 = {"mpp_in": 1.0, "mpp_out": 1.0}


def discs(folder, *, scale, mpp):
    """A file of three dark discs on white, of a radius of 4, 6 and 8 px times the scale."""
    y, x = (np.mgrid[: 40 * scale, : 80 * scale] + 0.5) / scale
    places = ((12, 14, 4), (20, 40, 6), (28, 66, 8))
    inside = np.array([np.hypot(y - a, x - b) <= radius for a, b, radius in places])
    image = np.where(inside.any(0)[..., None], 0, 255).repeat(3, -1).astype(np.uint8)
    tiny.write_tiff(folder / "a.tif", image, mpp=mpp)
    return folder / "a.tif", (inside * np.array([1, 2, 3])[:, None, None]).sum(0)


def mpp_of(path):
    with tifffile.TiffFile(path) as tiff:
        return 1e4 / tiff.pages[0].resolution[0]  # of px per cm


def agree(labels, truth):
    """Whether two label images show the same objects with the same numbers, but for outlines."""
    ids = np.unique(labels)
    assert ids.tolist() == np.unique(truth).tolist()
    each = [
        (np.sum((labels == i) & (truth == i)), np.sum((labels == i) | (truth == i))) for i in ids
    ]
    return all(both > 0.85 * either for both, either in each)


@pytest.mark.parametrize(("scale", "mpp"), [(1, 3.0), (1, 1.0), (5, 0.2), (3, 1 / 3)])
def test_labels_of_a_resampled_image_are_on_its_own_grid(segmenting, tmp_path, scale, mpp):
    path, truth = discs(tmp_path, scale=scale, mpp=mpp)
    run = with_meta(segmenting, **AT_1)
    made = predicted(run, path, tmp_path / "out")
    assert made.size == truth.shape
    assert made.nuclei == 3
    assert agree(read_labels(made.files["labels"]), truth)
    assert mpp_of(made.files["labels"]) == pytest.approx(mpp, rel=1e-3)
    sheet = prediction.preview(path, made)
    assert (sheet == (0, 255, 0)).all(-1).any()


def doubled(image):
    return {"sr": image.repeat(2, 1).repeat(2, 2)}


def both():
    """A network that doubles images, and finds what is dark in them."""
    parts = tiled.TiledNetwork(doubled, 2, 1, 2, 16), DARK
    return tiled.TiledNetwork(None, 2, 1, 2, 16, parts=parts)


@pytest.mark.parametrize("mpp", [1.0, 3.0, 0.4])
def test_an_enhanced_image_is_never_resampled_and_its_labels_come_on_both_grids(
    joint, tmp_path, mpp
):
    path, truth = discs(tmp_path, scale=2, mpp=mpp)
    run = with_meta(joint, mpp_in=1.0, mpp_out=0.5)
    made = predicted(run, path, tmp_path / "out", both())
    image = reader.read_image(path)
    np.testing.assert_array_equal(
        reader.read_image(made.files["sr"]), doubled(image[None])["sr"][0]
    )
    assert (made.size, made.scale, made.nuclei) == (truth.shape, 2, 3)
    assert agree(read_labels(made.files["labels"]), truth)
    fine = read_labels(made.files["sr.labels"])
    assert agree(fine, truth.repeat(2, 0).repeat(2, 1))
    if mpp == 1.0:  # pixel i of the input has its centre in pixel 2 i + 1
        np.testing.assert_array_equal(read_labels(made.files["labels"]), fine[1::2, 1::2])
    for kind, own in (("sr", mpp / 2), ("sr.labels", mpp / 2), ("labels", mpp)):
        assert mpp_of(made.files[kind]) == pytest.approx(own, rel=1e-3)
    assert (prediction.preview(path, made) == (0, 255, 0)).all(-1).any()


@pytest.mark.parametrize("outputs", [["labels"], ["sr"], ["sr.labels"]])
def test_what_was_asked_for_is_left_alone(joint, tmp_path, outputs):
    path, _ = discs(tmp_path, scale=2, mpp=3.0)
    run = with_meta(joint, mpp_in=1.0, mpp_out=0.5)
    made = predicted(run, path, tmp_path / "out", both(), outputs=outputs)
    assert list(made.files) == outputs
    assert os.listdir(tmp_path / "out") == [f"a.{outputs[0]}.tif"]
    assert made.nuclei == (None if outputs == ["sr"] else 3)


@pytest.mark.faults
def test_an_mpp_that_contradicts_the_file_is_a_warning(segmenting, tmp_path, caplog):
    path, _ = discs(tmp_path, scale=1, mpp=0.5)
    run = with_meta(segmenting, **AT_1)
    assert "states" not in predicted(run, path, tmp_path / "out", mpp=0.51).note
    assert not caplog.records
    made = predicted(run, path, tmp_path / "out", mpp=1.0)
    assert made.note == "at 1 um/px, as in the training; the file states 0.5 um/px"
    assert "a.tif states 0.5 um/px, and --mpp=1 is taken" in caplog.text
    assert made.mpp == 1.0


def dropped(made):
    """Px of what is too large, by the note."""
    found = re.search(r"; ([\d,]+) px of objects too large for nuclei dropped", made.note)
    return int(found[1].replace(",", ""))


def test_what_is_left_out_is_counted(segmenting, tmp_path):
    path, truth = discs(tmp_path, scale=1, mpp=1.0)
    run = with_meta(segmenting, **AT_1, nucleus_largest=150)
    made = predicted(run, path, tmp_path / "out")
    # Of the discs of 49, 113 and 197 px the last is too large.
    assert made.nuclei == 2
    assert dropped(made) == pytest.approx(197, abs=30)
    assert not read_labels(made.files["labels"])[truth == 3].any()
    # Twice as large a side, an area of the input has four times the pixels.
    path, truth = discs(tmp_path, scale=2, mpp=0.5)
    made = predicted(run, path, tmp_path / "out")
    assert made.nuclei == 2
    assert dropped(made) == pytest.approx(4 * 197, rel=0.15)
    # Where the size of nuclei decides, a wrong scale of the file changes nothing.
    path, truth = discs(tmp_path, scale=2, mpp=4.0)
    run = with_meta(run, nucleus_diameter=12)
    given = Estimate(24, 24, 24, 0, True, "--nucleus_diameter")
    made = predicted(run, path, tmp_path / "out", estimate=given)
    assert made.nuclei == 2
    assert dropped(made) == pytest.approx(4 * 197, rel=0.15)


def test_tiles_do_not_change_a_field(segmenting, tmp_path):
    path, truth = discs(tmp_path, scale=4, mpp=0.25)
    run = with_meta(segmenting, **AT_1)
    found = [
        read_labels(
            predicted(
                run, path, tmp_path / str(tile), in_parts(by_darkness, halo=2, largest=tile)
            ).files["labels"]
        )
        for tile in (1024, 16)
    ]
    assert agree(found[0], truth)
    np.testing.assert_array_equal(*found)


def test_a_page_alone_is_about_the_nuclei_too(joint, segmenting, tmp_path):
    path, _ = discs(tmp_path, scale=2, mpp=1.0)
    for run, network in ((with_meta(joint, mpp_in=1.0, mpp_out=0.5), both()), (segmenting, DARK)):
        made = predicted(run, path, tmp_path / "out", network, outputs=["page"])
        assert (list(made.files), made.nuclei) == (["page"], 3)


@pytest.mark.faults
def test_damage_before_a_stop_is_known_after_it(joint, tmp_path):
    """The second network reads the enhanced image, which is whole."""
    path = dark.write(tmp_path / "a.tif", dark.tissue(512, 512, [(40.0, 40.0, 8)]), mpp=1.0)
    dark.damage(path, 10)
    run, options = with_meta(joint, mpp_in=1.0, mpp_out=0.5), {"made_of": {"flags": 1}}

    def stops(images):
        raise dark.Stop

    network = both()
    halted = dataclasses.replace(DARK, windows=stops)
    halted = dataclasses.replace(network, parts=(network.parts[0], halted))
    with pytest.raises(dark.Stop):
        predicted(run, path, tmp_path / "out", halted, **options)
    # An enhanced image that may be damaged has no final name yet.
    assert os.listdir(tmp_path / "out") == ["a.parts"]
    with pytest.raises(UserError, match=r"a\.tif is damaged in 2\d\.\d% of what was read"):
        predicted(run, path, tmp_path / "out", network, **options)
    assert os.listdir(tmp_path / "out") == ["a.parts"]


@pytest.mark.parametrize("mpp", [0.43, 1.3])
def test_outlines_lie_on_the_labels_to_the_far_corner_of_an_odd_size(segmenting, tmp_path, mpp):
    """Sides of what is read are rounded, so px are not quite as many times as large."""
    image = dark.tissue(402, 301, [(386.0, 285.0, 12), (14.0, 16.0, 12)])
    path = dark.write(tmp_path / "a.tif", image, mpp=mpp)
    made = predicted(with_meta(segmenting, **AT_1), path, tmp_path / "out")
    labels, found = read_labels(made.files["labels"]), dict(read_geojson(made.files["geojson"]))
    assert set(found) == {1, 2}
    for label, ((ring,),) in found.items():
        y, x = np.nonzero(labels == label)
        corners = [x.min(), y.min(), x.max() + 1, y.max() + 1]
        # As far as a px of what is read.
        np.testing.assert_allclose(
            [*ring.min(0), *ring.max(0)], corners, atol=0.51 * max(1, 1 / mpp)
        )
