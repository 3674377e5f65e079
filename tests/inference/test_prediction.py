import dataclasses
import os
import unicodedata

import numpy as np
import pytest
import tifffile
from PIL import Image

from histojax.errors import UserError
from histojax.imaging import reader
from histojax.imaging.labels import read_labels
from histojax.inference import prediction, tiled
from histojax.runs import workdirs
from histojax.stages import build_stage
from tests import tiny


@pytest.fixture(scope="module")
def joint(trained_chain):
    return workdirs.load(trained_chain / "joint")


def write_inputs(folder):
    """One image of 40 x 56 px as PNG, JPEG and TIFF (which tells its scale)."""
    folder.mkdir()
    image = tiny.tissue(5, 64)[0][:40, :56]
    Image.fromarray(image).save(folder / "a.png")
    Image.fromarray(image).save(folder / "b.jpg", quality=95)
    tiny.write_tiff(folder / "c.tif", image, mpp=1.0)
    return image


def test_png_jpeg_and_tiff_are_predicted_four_times_as_large(trained_chain, tmp_path):
    write_inputs(tmp_path / "in")
    made = prediction.predict_files(trained_chain, [tmp_path / "in"], tmp_path / "out")
    assert [p.name for p in made] == ["a", "b", "c"]
    assert {p.size for p in made} == {(160, 224)}
    for one in made:
        sr = reader.read_image(one.files["sr"])
        labels = read_labels(one.files["labels"])
        assert sr.shape == (160, 224, 3)
        assert labels.shape == (160, 224)
        assert set(np.unique(labels)) - {0} == set(range(1, one.nuclei + 1))
    np.testing.assert_array_equal(
        reader.read_image(made[0].files["sr"]), reader.read_image(made[2].files["sr"])
    )
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(
        [f"{n}.{kind}.tif" for n in "abc" for kind in ("sr", "labels")] + ["index.html"]
    )
    assert (made[0].mpp, made[1].mpp) == (None, None)
    assert "scale unknown" in made[0].note
    with reader.open_image(made[2].files["sr"]) as image:
        assert image.mpp == pytest.approx(0.25, rel=1e-3)
    index = (tmp_path / "out" / "index.html").read_text()
    assert all(f"{name}.sr.tif" in index for name in "abc")


@pytest.mark.parametrize("scale", [2, 3, 8])
def test_size_and_micrometres_follow_the_scale_factor(scale, tmp_path):
    write_inputs(tmp_path / "in")
    run = tiny.run("generator", scale)
    made = prediction.predict_file(run, tiled.predictor(run), tmp_path / "in" / "c.tif", tmp_path)
    assert made.size == (40 * scale, 56 * scale)
    assert made.mpp == pytest.approx(1 / scale, rel=1e-3)
    with reader.open_image(made.files["sr"]) as image:
        assert (image.height, image.width) == made.size
        assert image.mpp == pytest.approx(1 / scale, rel=1e-3)
    assert prediction.preview(tmp_path / "in" / "c.tif", made).ndim == 3


def test_tiles_agree_with_the_whole(trained_chain, tmp_path):
    write_inputs(tmp_path / "in")
    made = [
        prediction.predict_files(
            trained_chain / "generator", [tmp_path / "in" / "a.png"], tmp_path / str(t), tile=t
        )[0]
        for t in (64, 1024)
    ]
    assert set(made[0].files) == {"sr"}
    tiles, whole = (reader.read_image(one.files["sr"]).astype(int) for one in made)
    assert np.abs(tiles - whole).max() <= 1


def test_nuclei_are_joined_across_tiles(joint, tmp_path):
    y, x = np.mgrid[:96, :96]
    first = (y - 32) ** 2 + (x - 32) ** 2 <= 15**2  # lies on the corner of four tiles
    second = (y - 64) ** 2 + (x - 80) ** 2 <= 9**2  # lies on the border of two
    image = np.full((96, 96, 3), 255, np.uint8)
    image[first | second] = 0
    Image.fromarray(image).save(tmp_path / "discs.png")
    network = tiled.TiledNetwork(
        windows=lambda windows: {
            "sr": windows,
            "mask": (windows[..., :1] < 128).astype(np.float32),
        },
        halo=0,
        stride=1,
        scale=1,
        largest=32,
    )
    made = prediction.predict_file(joint, network, tmp_path / "discs.png", tmp_path)
    assert made.nuclei == 2
    labels = tifffile.imread(made.files["labels"])
    assert (labels[first] == 1).all()
    assert (labels[second] == 2).all()
    assert np.count_nonzero(labels) == np.count_nonzero(first | second)
    np.testing.assert_array_equal(reader.read_image(made.files["sr"]), image)


@pytest.mark.faults
def test_a_truncated_image_costs_only_itself(trained_chain, tmp_path):
    write_inputs(tmp_path / "in")
    broken = tmp_path / "in" / "b.jpg"
    broken.write_bytes(broken.read_bytes()[:600])
    with pytest.raises(UserError, match=r"b\.jpg"):
        prediction.predict_files(trained_chain / "generator", [tmp_path / "in"], tmp_path / "out")
    made = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert made == ["a.sr.tif", "c.sr.tif", "index.html"]
    index = (tmp_path / "out" / "index.html").read_text()
    assert "a.sr.tif" in index
    assert "c.sr.tif" in index
    assert "b.sr.tif" not in index


@pytest.mark.faults
def test_all_failures_are_counted(trained_chain, tmp_path):
    write_inputs(tmp_path / "in")
    for name in ("a.png", "b.jpg"):
        file = tmp_path / "in" / name
        file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(UserError, match="2 of 3 images could not be predicted") as failure:
        prediction.predict_files(trained_chain / "generator", [tmp_path / "in"], tmp_path / "out")
    assert "a.png" in str(failure.value)
    assert "b.jpg" in str(failure.value)


@pytest.mark.faults
def test_inputs_that_are_not_there_are_named(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        prediction.image_files([tmp_path / "none.png"])
    with pytest.raises(UserError, match=r"is a folder without images; images end in \.png"):
        prediction.image_files([tmp_path])
    for name in ("x.png", "x.tif"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError, match=r"would both be written as x\.sr\.tif"):
        prediction.image_files([tmp_path])
    (tmp_path / "X2.PNG").write_bytes(b"")
    (tmp_path / "notes.txt").write_bytes(b"")
    (tmp_path / "x.tif").unlink()
    assert [p.name for p in prediction.image_files([tmp_path])] == ["X2.PNG", "x.png"]


@pytest.mark.parametrize(
    ("mpp", "mpp_in", "factor"),
    [
        (None, 1.0, 1.0),
        (0.5, None, 1.0),
        (1.0, 1.0, 1.0),
        (1.04, 1.0, 1.0),
        (0.5, 1.0, 0.5),
        (2.0, 1.0, 2.0),
        (1.5, 1.0, 1.5),
    ],
)
def test_an_image_is_brought_to_the_scale_of_the_run(tmp_path, mpp, mpp_in, factor):
    found, note = prediction.scale_factor(mpp, mpp_in, tmp_path, resample=False)
    assert found == pytest.approx(factor)
    assert note


@pytest.mark.parametrize("mpp", [0.4, 2.5])
def test_a_scale_beyond_a_factor_of_two_needs_resample(tmp_path, mpp):
    with pytest.raises(UserError, match=r"more than a factor of 2 apart: .*--resample"):
        prediction.scale_factor(mpp, 1.0, tmp_path, resample=False)
    assert prediction.scale_factor(mpp, 1.0, tmp_path, resample=True)[0] == pytest.approx(mpp)


@pytest.mark.parametrize("mpp", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_that_is_no_scale_is_refused(tmp_path, mpp):
    with pytest.raises(
        UserError, match=r"--mpp=\S+ has to be a number of micrometres per pixel above 0"
    ):
        prediction.scale_factor(mpp, 1.0, tmp_path, resample=True)


def test_a_resampled_image_has_the_run_s_scale(trained_chain, tmp_path):
    write_inputs(tmp_path / "in")
    run = workdirs.load(trained_chain / "generator")
    run = dataclasses.replace(run, meta={**run.meta, "mpp_in": 2.0})
    made = prediction.predict_file(run, tiled.predictor(run), tmp_path / "in" / "c.tif", tmp_path)
    assert made.size == (4 * 20, 4 * 28)
    assert made.mpp == pytest.approx(0.5, rel=1e-3)
    assert made.note == "resampled from 1 to 2 um/px; outputs have 80 x 112 px"
    assert prediction.preview(tmp_path / "in" / "c.tif", made).ndim == 3


def by_darkness(windows):
    """A hand-made run: the image as it is, and a probability that is low on white."""
    gray = windows.astype(np.float32).mean(-1, keepdims=True)
    return {"sr": windows, "mask": 1 / (1 + np.exp((gray - 128) / 16))}


DARK = tiled.TiledNetwork(by_darkness, halo=2, stride=1, scale=1, largest=32)


def test_nuclei_are_shown_on_a_resampled_image(joint, tmp_path):
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    run = dataclasses.replace(joint, meta={**joint.meta, "mpp_in": 1.0})
    options = {"mpp": 2.0, "outputs": ["labels"]}
    made = predicted(run, tmp_path / "a.png", tmp_path / "out", **options)
    assert made.size == (80, 80)
    sheet = prediction.preview(tmp_path / "a.png", made)
    assert sheet.shape[1] > 2 * 80  # input and nuclei
    assert (sheet == (0, 255, 0)).all(-1).any()


@pytest.mark.faults
@pytest.mark.parametrize("mpp", [0.05, 17.0])
def test_a_scale_that_resampling_would_not_mend_is_refused(tmp_path, mpp):
    with pytest.raises(UserError, match=r"more than a factor of 16 apart: .* correct --mpp$"):
        prediction.scale_factor(mpp, 1.0, tmp_path, resample=True)


def index_of(path, made):
    """The text of the index of one prediction."""
    rows = [(made, prediction.preview(path, made))]
    prediction.pages.prediction_index(path.with_name("index.html"), workdir="run", rows=rows)
    return path.with_name("index.html").read_text()


def predicted(joint, path, output, network=DARK, **options):
    return prediction.predict_file(joint, network, path, output, **options)


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
@pytest.mark.parametrize("size", [(1, 1), (3, 2)])
def test_an_image_of_a_pixel_is_predicted(trained_chain, tmp_path, size):
    Image.new("RGB", size[::-1], (250, 249, 251)).save(tmp_path / "a.png")
    made = prediction.predict_files(trained_chain, [tmp_path / "a.png"], tmp_path / "out")[0]
    assert made.size == (4 * size[0], 4 * size[1])
    assert reader.read_image(made.files["sr"]).shape == (*made.size, 3)
    assert read_labels(made.files["labels"]).shape == made.size


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
    fits, long = "ü" * 122, "ü" * 122 + "x"  # of two bytes each; .labels.tif is 11 more
    for name in (fits, long):
        image.save(tmp_path / f"{name}.png")
    assert predicted(joint, tmp_path / f"{fits}.png", tmp_path / "out").nuclei is not None
    with pytest.raises(UserError, match=r"a name has at most 255 bytes: shorten the name"):
        predicted(joint, tmp_path / f"{long}.png", tmp_path / "out")
    bad = os.fsencode(tmp_path) + b"/caf\xe9.png"
    os.rename(tmp_path / f"{long}.png", bad)
    with pytest.raises(UserError, match=r"caf\\xe9\.png.* is not text in utf-8: rename the file"):
        predicted(joint, tmp_path / os.fsdecode(b"caf\xe9.png"), tmp_path / "out")
    assert sorted(os.listdir(tmp_path / "out")) == [f"{fits}.labels.tif", f"{fits}.sr.tif"]


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
def test_seventy_thousand_nuclei_are_counted_across_tiles(joint, tmp_path):
    image = np.full((400, 800, 3), 255, np.uint8)
    image[::2, ::2] = 0  # dots, none of which touches another
    image[350:] = 255
    Image.fromarray(image).save(tmp_path / "dots.png")
    one = dataclasses.replace(joint, config=joint.config.copy_and_resolve_references())
    one.config.nuclei.update(min_area=1, max_hole=0)
    network = dataclasses.replace(DARK, largest=128)
    made = predicted(one, tmp_path / "dots.png", tmp_path / "out", network)
    assert made.nuclei == 175 * 400 == 70_000
    with tifffile.TiffFile(made.files["labels"]) as tiff:
        assert tiff.pages[0].dtype == np.uint32
    labels = read_labels(made.files["labels"])
    # Numbered in raster order, each dot once.
    np.testing.assert_array_equal(labels[:350:2, ::2].ravel(), np.arange(1, 70_001))
    assert np.count_nonzero(labels) == 70_000


@pytest.mark.faults
def test_hidden_files_and_folders_are_no_images(tmp_path):
    (tmp_path / "._a.png").write_bytes(b"what macOS leaves on other disks")
    (tmp_path / "folder.png").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    assert prediction.image_files([tmp_path]) == [tmp_path / "a.png"]


@pytest.mark.faults
def test_names_differ_by_how_accents_are_stored(joint, tmp_path):
    names = [unicodedata.normalize(kind, "é") for kind in ("NFC", "NFD")]
    for shade, name in zip((0, 255), names, strict=True):
        Image.new("RGB", (8, 8), (shade,) * 3).save(tmp_path / f"{name}.png")
    if len(os.listdir(tmp_path)) == 1:
        pytest.skip("this file system takes both forms for one name")
    made = prediction.image_files([tmp_path])
    assert {path.stem for path in made} == set(names)


@pytest.mark.parametrize("tile", [16, 1024])
def test_classes_are_written_beside_the_nuclei(tmp_path, tile):
    config = tiny.config("pyramid")
    config.pyramid.update(labels="classes", classes=3)
    meta = {"thresholds": {"mask": 0.5}, "mpp_in": None, "mpp_out": None}
    meta["classes"] = ["background", "tumour", "stroma"]
    run = workdirs.Run(None, config, build_stage(config, {}), None, 0, meta)
    index = np.zeros((40, 56), np.uint8)
    index[4:30, 6:20], index[10:38, 20:50] = 1, 2
    name = "n" * 243  # .classes.tif is 12 more
    Image.fromarray(np.stack([index * 100] * 3, -1)).save(tmp_path / f"{name}.png")

    def windows(image):
        number = image[..., :1] // 100
        maps = {f"class_{k}": (number == k).astype(np.float32) for k in (1, 2)}
        return {**maps, "mask": (number > 0).astype(np.float32)}

    network = tiled.TiledNetwork(windows, halo=2, stride=1, scale=1, largest=tile)
    made = predicted(run, tmp_path / f"{name}.png", tmp_path / "out", network)
    assert set(made.files) == {"labels", "classes"}
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
def test_outputs_that_no_run_makes_are_refused(trained_chain, joint, tmp_path):
    Image.fromarray(tiny.tissue(5, 64)[0]).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"--outputs=classes is not made .* among sr, labels"):
        predicted(joint, tmp_path / "a.png", tmp_path / "out", outputs=["classes"])
    with pytest.raises(UserError, match=r"'geojson' is not known; choose one of sr, labels"):
        prediction.predict_files(trained_chain, [tmp_path], tmp_path / "out", outputs=["geojson"])
    assert not (tmp_path / "out").exists()
