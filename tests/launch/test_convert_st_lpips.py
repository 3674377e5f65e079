import numpy as np

from histojax.models.st_lpips import LAYERS
from tests.launch.commands import load

convert = load("launch.convert_st_lpips").convert


def test_names_and_axes_become_ours():
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
    found = convert(published)
    assert len(found) == 3 * len(LAYERS)
    assert found["params/conv3/kernel"].shape == (5, 4, 4, 5)
    assert found["params/conv3/kernel"][1, 2, 3, 4] == published["net.slice3.9.weight"][4, 3, 1, 2]
    assert found["params/conv5/bias"].tolist() == published["net.slice5.13.bias"].tolist()
    assert found["heads/conv2"].tolist() == published["lin1.model.1.weight"].ravel().tolist()
    assert all(array.flags["C_CONTIGUOUS"] for array in found.values())
