import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import histojax
from histojax.imaging import reader
from histojax.imaging.labels import read_labels
from histojax.inference import tiled
from histojax.inference.image import predict_image
from histojax.nuclei import outlines
from histojax.runs import workdirs
from histojax.zoo import registry
from tests import tiny

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "slides.md"


def image_of(place):
    return reader.read_image(place)


@pytest.mark.parametrize(("name", "mpp"), [("nuclei-40x", 0.4), ("nuclei-joint-x4", 1.3)])
def test_arrays_are_what_the_files_hold(name, mpp, tmp_path):
    path = registry.SAMPLES / "breast_10x.tif"
    run = workdirs.load(registry.path_of(name))
    made = predict_image(run, tiled.predictor(run), path, tmp_path, mpp=mpp)
    image = image_of(path)
    found = histojax.predict_array(image, run, mpp=mpp)
    np.testing.assert_array_equal(found.labels, read_labels(made.files["labels"]))
    if "sr" in made.files:
        np.testing.assert_array_equal(found.enhanced, image_of(made.files["sr"]))
    assert len(found.table["label"]) == made.nuclei > 10
    lines = [line.split(",") for line in made.files["table"].read_text().splitlines()]
    for column, heading in enumerate(lines[0]):
        values = [float(line[column] or "nan") for line in lines[1:]]
        np.testing.assert_allclose(found.table[heading], values, rtol=1e-6, err_msg=heading)


def test_outlines_drawn_are_the_labels():
    image = image_of(registry.SAMPLES / "breast_40x.tif")
    found = histojax.predict_array(image, "nuclei-40x", mpp=0.25)
    np.testing.assert_array_equal(outlines.rasterize(found.outlines, (512, 512)), found.labels)


def test_an_image_on_a_finer_grid_has_the_same_nuclei():
    small = image_of(registry.SAMPLES / "breast_40x.tif")[:96, :96]
    large = np.asarray(Image.fromarray(small).resize((192, 192), Image.Resampling.BICUBIC))
    found = histojax.predict_array(large, "nuclei-40x", mpp=0.125)
    assert found.labels.shape == (192, 192)
    assert "read 0.5 times as large" in found.note
    # Places are px of the image, areas um2: a px of 0.25 um is four of 0.125 um.
    areas = np.bincount(found.labels.ravel())[found.table["label"]]
    np.testing.assert_allclose(found.table["area_um2"], areas * 0.125**2)
    assert 96 < found.table["x_px"].max() < 192


def test_a_model_that_enhances_gives_the_image():
    run = tiny.run("generator")
    image = tiny.tissue(0)[0][:32, :32]
    found = histojax.predict_array(image, run)
    assert found.enhanced.shape == (128, 128, 3)
    assert (found.labels, found.outlines, found.table) == (None, None, {})


def test_the_guide_runs(capsys):
    code = re.search(r"## In Python\n\n```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)[1]
    exec(compile(code, str(GUIDE), "exec"), {})
    assert re.search(r"\d+ nuclei, \d+\.\d+ um2 in the mean", capsys.readouterr().out)


@pytest.mark.faults
@pytest.mark.parametrize(
    "image", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3)), np.zeros((0, 8, 3), np.uint8)]
)
def test_other_arrays_are_refused(image):
    with pytest.raises(ValueError, match="an image is uint8"):
        histojax.predict_array(image, "nuclei-40x")
