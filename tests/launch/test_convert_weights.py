import sys
import zipfile

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from histojax.components import pretrained
from histojax.errors import UserError
from tests.launch.commands import load
from tests.models.published_efficientnet import published_arrays

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
