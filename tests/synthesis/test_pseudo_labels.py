import dataclasses
import json

import numpy as np
import pytest
import tifffile

from histojax.data.sources import specs
from histojax.data.sources.base import Source
from histojax.errors import UserError
from histojax.inference import labeling, tiled
from histojax.synthesis import pseudo_labels
from tests import tiny


class Images(Source):
    """Images without labels; the value of a pixel is the foreground's probability, of 255."""

    def __init__(self, *images, mpp=None):
        self.images, self.mpp = images, mpp
        self.names = [f"i{index}" for index in range(len(images))]
        self.groups = self.names

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return {"name": self.names[index], "hr": self.images[index]}

    def digests(self, index):
        return f"pixels of {index}", ""


def picture(unsure):
    """A sure nucleus in each 32 x 32 square, the left half of the image less sure."""
    image = np.zeros((64, 96, 3), np.uint8)
    for y in (0, 32):
        for x in (0, 32, 64):
            image[y + 8 : y + 20, x + 8 : x + 20] = 255
    image[:, :48][image[:, :48] == 0] = unsure
    return image


@pytest.fixture
def run(monkeypatch):
    made = dataclasses.replace(tiny.run("segmentation"), workdir="runs/s")

    def segmenter(run):
        return lambda image: {"mask": image[..., :1] / np.float32(255)}

    monkeypatch.setattr(tiled, "segmenter", segmenter)
    monkeypatch.setattr(labeling, "parameters_of", lambda run, fitted: None)
    return made


def test_confidence_is_distance_from_a_half():
    assert pseudo_labels.confidence(np.array([[0.0, 1.0]])) == 1
    assert pseudo_labels.confidence(np.array([[0.5, 0.5]])) == 0
    assert pseudo_labels.confidence(np.array([[0.25, 1.0]])) == pytest.approx(0.75)


def test_masks_are_of_confident_squares_with_nuclei(run, tmp_path):
    images = Images(picture(100), picture(100), np.zeros((64, 64, 3), np.uint8))
    folder = tmp_path / "masks"
    count = pseudo_labels.write_masks(run, images, folder, count=10, size=32, least=0.9, seed=0)
    masks = [tifffile.imread(path) for path in sorted(folder.glob("*.tif"))]
    # Two sure squares in each of two images; the third image has no nuclei.
    assert count == len(masks) == 4
    for mask in masks:
        assert mask.dtype == np.uint32
        expected = np.zeros((32, 32), np.uint32)
        expected[8:20, 8:20] = 1
        np.testing.assert_array_equal(mask, expected)
    told = json.loads((folder / "predicted.json").read_text())
    # The right thirds are all black beside the nucleus.
    places = [(told["squares"][f"mask{n:05d}"]["x"]) for n in range(4)]
    assert places == [64] * 4
    assert {square["image"] for square in told["squares"].values()} == {"i0", "i1"}
    assert told["run"] == "runs/s"
    seen = json.loads((folder / "seen.json").read_text())["images"]
    assert [entry["image"] for entry in seen] == [f"pixels of {index}" for index in range(3)]
    some = tmp_path / "some"
    assert pseudo_labels.write_masks(run, images, some, count=2, size=32, least=0, seed=0) == 2


@pytest.mark.parametrize("mpp", [None, 0.25])
def test_masks_beside_their_images_are_a_data_set(run, tmp_path, mpp):
    image = picture(100)
    image[:, 64:, 1] = np.arange(64)[:, None]
    folder = tmp_path / "pairs"
    config = {"count": 9, "size": 32, "least": 0.9, "seed": 0}
    assert (
        pseudo_labels.write_masks(run, Images(image, mpp=mpp), folder, **config, images=True) == 2
    )
    source = specs.open_source(f"folder:{folder}", split="all", require_labels=True)
    assert source.mpp == mpp
    squares = json.loads((folder / "predicted.json").read_text())["squares"]
    for record in (source[0], source[1]):
        y, x = squares[record["name"]]["y"], squares[record["name"]]["x"]
        np.testing.assert_array_equal(record["hr"], image[y : y + 32, x : x + 32])
        expected = np.zeros((32, 32), np.int32)
        expected[8:20, 8:20] = 1
        np.testing.assert_array_equal(record["instances"], expected)


@pytest.mark.faults
def test_what_gives_no_masks_is_said(run, tmp_path):
    def write(images, **changes):
        config = {"count": 2, "size": 32, "least": 0.9, "seed": 0, **changes}
        pseudo_labels.write_masks(run, images, tmp_path / "masks", **config)

    vague = Images(np.full((32, 32, 3), 153, np.uint8))
    with pytest.raises(UserError, match=r"reaches the confidence 0\.9, 0\.200 being the highest"):
        write(vague)
    with pytest.raises(UserError, match=r"no image has 128 x 128 px"):
        write(vague, size=128)
    generator = dataclasses.replace(tiny.run("generator"), workdir="runs/g")
    with pytest.raises(UserError, match=r"runs/g is a run of stage generator, which finds no"):
        pseudo_labels.write_masks(
            generator, vague, tmp_path / "m", count=1, size=32, least=0, seed=0
        )
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "a").touch()
    with pytest.raises(UserError, match="masks"):
        write(vague)
