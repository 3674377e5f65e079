import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from histojax.imaging import resampling
from histojax.inference import tiled
from histojax.runs import workdirs
from tests import tiny


@pytest.fixture(scope="module")
def joint(trained_chain):
    return workdirs.load(trained_chain / "joint")


def lr_image(height, width):
    return tiny.tissue(3, 128)[0][:height, :width]


@pytest.mark.parametrize(("height", "width"), [(17, 40), (61, 96)])
def test_tiles_agree_with_the_whole(joint, height, width):
    network = tiled.predictor(joint)
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


@pytest.mark.parametrize(("name", "scale"), [("generator", 2), ("joint", 3), ("joint", 8)])
def test_tiles_agree_with_the_whole_at_every_scale(name, scale):
    run = tiny.run(name, scale)
    network = tiled.predictor(run)
    assert network.scale == scale
    image = lr_image(19, 26)
    whole = network(image, core=32)
    tiles = network(image, core=8)
    assert set(whole) == ({"sr"} if name == "generator" else {"sr", "mask"})
    assert whole["sr"].shape == (19 * scale, 26 * scale, 3)
    # The network has something to say beyond its bicubic skip.
    skip = np.asarray(resampling.upsample(image, scale)).astype(int)
    assert np.abs(whole["sr"] - skip).mean() > 1
    assert np.abs(whole["sr"].astype(int) - tiles["sr"]).max() <= 1
    if name == "joint":
        assert whole["mask"].shape == (19 * scale, 26 * scale, 1)
        assert network.stride * scale % run.stage.segmenter.stride == 0
        assert np.abs(whole["mask"] - tiles["mask"]).max() < 1e-2


def test_tiles_of_an_anchored_generator_agree_with_the_whole():
    free = tiny.run("generator")

    def changed(**fields):
        generator = free.stage.generator.clone(**fields)
        return dataclasses.replace(free, stage=dataclasses.replace(free.stage, generator=generator))

    run, free = changed(anchor=1.0, phases="alike"), changed(anchor=0.0, phases="free")
    network, image = tiled.enhancer(run), lr_image(19, 26)
    assert network.halo == tiled.enhancer(free).halo + 2 * 3 + 2
    whole = network(image, core=32)["sr"].astype(int)
    assert np.abs(whole - network(image, core=8)["sr"]).max() <= 1
    assert np.abs(whole - tiled.enhancer(free)(image, core=32)["sr"]).max() > 2


def test_segmenter_tiles_agree_with_the_whole(joint):
    network = tiled.segmenter(joint)
    image = lr_image(75, 96)
    whole = network(image)["mask"]
    assert whole.shape == (75, 96, 1)
    tiles = network(image, core=network.stride * 8)["mask"]
    np.testing.assert_allclose(tiles, whole, atol=1e-5)


# Of 20 tiles: in parts of equal size, the last filled up, and all at once, on each device.
@pytest.mark.parametrize("together", [1, 2, 3, 8])
def test_tiles_in_batches_agree_with_the_whole(joint, monkeypatch, together):
    monkeypatch.setattr(tiled.TiledNetwork, "together", lambda *_: together)
    network, shapes = tiled.segmenter(joint), set()

    def windows(images):
        shapes.add(images.shape)
        return network.windows(images)

    image = lr_image(60, 80)
    whole = network(image)["mask"]
    counted = dataclasses.replace(network, windows=windows, devices=1)
    tiles = counted(image, core=16)["mask"]
    np.testing.assert_allclose(tiles, whole, atol=1e-5)
    assert [shape[0] for shape in shapes] == [{1: 1, 2: 2, 3: 3, 8: 7}[together]]


def test_windows_of_an_accelerator_are_bounded(joint, monkeypatch):
    network = tiled.predictor(joint)
    assert network.scale == 4
    assert network.together(16) == 1
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    # Output px: 64^2, 1,024^2 and 1,448^2 (half of 2^22, less a little), and one too many.
    assert [network.together(side) for side in (16, 256, 362, 363, 1000)] == [8, 4, 2, 1, 1]


def test_a_batch_is_spread_over_devices(joint):
    network = tiled.predictor(joint)
    assert network.devices == jax.local_device_count() > 1
    images = np.stack([lr_image(32, 32), lr_image(32, 32)[::-1]])
    together = network.windows(images)
    for name, values in together.items():
        assert len(values.sharding.device_set) == 2
        for image, value in zip(images, values, strict=True):
            alone = network.windows(image[None])[name]
            assert len(alone.sharding.device_set) == 1
            np.testing.assert_allclose(value, alone[0], atol=1e-5)
    # Three in equal parts take three devices, or one.
    odd = network.windows(np.concatenate([images, images[:1]]))["mask"]
    assert len(odd.sharding.device_set) == (3 if network.devices > 2 else 1)


def test_what_a_run_makes_follows_its_networks(trained_chain, joint):
    image = lr_image(24, 24)
    generator = tiled.predictor(workdirs.load(trained_chain / "generator"))(image)
    assert {name: value.shape for name, value in generator.items()} == {"sr": (96, 96, 3)}
    segmentation = tiled.predictor(workdirs.load(trained_chain / "segmentation"))(image)
    assert {name: value.shape for name, value in segmentation.items()} == {"mask": (24, 24, 1)}
    sr = tiled.enhancer(joint)(image)["sr"]
    np.testing.assert_array_equal(sr, tiled.predictor(joint)(image)["sr"])


def test_the_largest_tile_bounds_the_window(joint):
    network = tiled.predictor(joint, largest=64)
    assert network.core([(500, 700)]) <= 16
    assert network.core([(500, 700)]) * network.scale <= 64


def test_the_receptive_fields_of_both_networks_add_up(joint):
    both = tiled.predictor(joint)
    reach = joint.stage.generator.halo + joint.stage.segmenter.halo / 4
    assert both.halo >= reach
    assert both.stride * 4 % joint.stage.segmenter.stride == 0


def test_the_symmetric_mean_is_symmetric():
    weights = jnp.arange(35.0).reshape(1, 5, 7, 1) / 35

    def network(x):  # sees where a pixel lies, as no convolution does
        place = weights if x.shape[1] == 5 else weights.swapaxes(1, 2)
        return x.sum(-1, keepdims=True) * place

    image = jax.random.uniform(jax.random.key(0), (1, 5, 7, 3))
    mean = tiled.symmetric_mean(network)
    found = mean(image)
    assert found.shape == (1, 5, 7, 1)
    # Over the eight symmetries a pixel's weight is the mean over its four mirror images.
    places = (weights + weights[:, ::-1]) / 2
    places = (places + places[:, :, ::-1]) / 2
    np.testing.assert_allclose(found, image.sum(-1, keepdims=True) * places, rtol=1e-5)
    for turn in (lambda x: x[:, ::-1], lambda x: x[:, :, ::-1], lambda x: x.swapaxes(1, 2)):
        np.testing.assert_allclose(mean(turn(image)), turn(found), rtol=1e-5)


def test_means_of_uint8_are_rounded():
    def network(x):  # 200, and 201 in the upper row
        return jnp.full(x.shape, 200, jnp.uint8).at[:, 0].add(1)

    mean = tiled.symmetric_mean(network)(jnp.zeros((1, 4, 4, 1), jnp.uint8))
    assert mean.dtype == jnp.uint8
    # A corner is in the upper row in four of eight views, the edge's middle in two, the rest never.
    np.testing.assert_array_equal(mean[0, 0, :, 0], [201, 200, 200, 201])
    np.testing.assert_array_equal(mean[0, 1:3, 1:3, 0], 200)


def test_an_ensemble_over_tiles_agrees_with_the_whole(joint):
    image = lr_image(20, 28)
    together = tiled.predictor(joint, ensemble=True)
    whole = together(image)
    tiles = together(image, core=2 * together.stride * 4)
    assert np.abs(whole["sr"].astype(int) - tiles["sr"]).max() <= 1
    sr = tiled.enhancer(joint, ensemble=True)(image)["sr"]
    np.testing.assert_array_equal(sr, whole["sr"])
    assert (sr != tiled.predictor(joint)(image)["sr"]).any()
    mask = tiled.segmenter(joint, ensemble=True)(sr)["mask"]
    # Beyond the image the one reads the enhanced margin and the other the mirrored image.
    inside = (slice(32, -32), slice(32, -32))
    np.testing.assert_allclose(mask[inside], whole["mask"][inside], atol=1e-4)
