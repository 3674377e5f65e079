import numpy as np
import pytest

from histojax import inference, runs
from tests import tiny


@pytest.fixture(scope="module")
def joint(trained_chain):
    return runs.load(trained_chain / "joint")


def lr_image(height, width):
    return tiny.tissue(3, 128)[0][:height, :width]


@pytest.mark.parametrize(("height", "width"), [(17, 40), (61, 96)])
def test_tiles_agree_with_the_whole(joint, height, width):
    network = inference.predictor(joint)
    image = lr_image(height, width)
    whole = network(image)
    assert whole["sr"].shape == (4 * height, 4 * width, 3)
    assert whole["sr"].dtype == np.uint8
    assert whole["mask"].shape == (4 * height, 4 * width, 1)
    tiles = network(image, core=2 * network.stride * 8)
    assert np.abs(whole["sr"].astype(int) - tiles["sr"]).max() <= 1
    # One grey level of sr, where rounding fell otherwise, moves a probability by little.
    assert np.abs(whole["mask"] - tiles["mask"]).max() < 1e-2
    assert np.median(np.abs(whole["mask"] - tiles["mask"])) < 1e-5


def test_segmenter_tiles_agree_with_the_whole(joint):
    network = inference.segmenter(joint)
    image = lr_image(75, 96)
    whole = network(image)["mask"]
    assert whole.shape == (75, 96, 1)
    tiles = network(image, core=network.stride * 8)["mask"]
    np.testing.assert_allclose(tiles, whole, atol=1e-5)


def test_what_a_run_makes_follows_its_networks(trained_chain, joint):
    image = lr_image(24, 24)
    generator = inference.predictor(runs.load(trained_chain / "generator"))(image)
    assert {name: value.shape for name, value in generator.items()} == {"sr": (96, 96, 3)}
    segmentation = inference.predictor(runs.load(trained_chain / "segmentation"))(image)
    assert {name: value.shape for name, value in segmentation.items()} == {"mask": (24, 24, 1)}
    sr = inference.enhancer(joint)(image)["sr"]
    np.testing.assert_array_equal(sr, inference.predictor(joint)(image)["sr"])


def test_the_largest_tile_bounds_the_window(joint):
    network = inference.predictor(joint, largest=64)
    assert network.core([(500, 700)]) <= 16
    for tile in network.tiles(lr_image(40, 40)):
        assert max(tile.outputs["sr"].shape[:2]) <= 64


def test_the_receptive_fields_of_both_networks_add_up(joint):
    both = inference.predictor(joint)
    reach = joint.stage.generator.halo + joint.stage.segmenter.halo / 4
    assert both.halo >= reach
    assert both.stride * 4 % joint.stage.segmenter.stride == 0
