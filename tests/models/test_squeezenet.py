from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import correlate

from histojax.models.squeezenet import FIRES, TAPS, SqueezeNet

CAFFE_MEAN = {"red": 122.679, "green": 116.669, "blue": 104.006}


def published_arrays(seed: int = 0) -> dict[str, np.ndarray]:
    """Seeded random weights in the Keras layout; conv1 sees grey levels."""
    rng = np.random.default_rng(seed)
    arrays = {}

    def add(name, side, c_in, c_out, gain=1.0):
        scale = gain * np.sqrt(2 / (side * side * c_in))
        kernel = scale * rng.standard_normal((side, side, c_in, c_out))
        arrays[f"{name}/kernel"] = kernel.astype(np.float32)
        arrays[f"{name}/bias"] = rng.normal(0, 0.1, c_out).astype(np.float32)

    add("conv1", 3, 3, 64, 1 / 64)
    c_in = 64
    for name, (squeeze, expand) in FIRES.items():
        add(f"{name}/squeeze1x1", 1, c_in, squeeze)
        add(f"{name}/expand1x1", 1, squeeze, expand)
        add(f"{name}/expand3x3", 3, squeeze, expand)
        c_in = 2 * expand
    return arrays


def nested(arrays):
    tree = {}
    for key, value in arrays.items():
        *modules, name = key.split("/")
        node = tree
        for module in modules:
            node = node.setdefault(module, {})
        node[name] = jnp.asarray(value)
    return {"params": tree}


def _correlate(x, arrays, name):
    """Valid correlation of (H, W, C_in) with the named (kh, kw, C_in, C_out), in float64."""
    kernel, bias = arrays[f"{name}/kernel"].astype(np.float64), arrays[f"{name}/bias"]
    maps = [correlate(x, kernel[..., o], "valid")[..., 0] for o in range(kernel.shape[-1])]
    return np.stack(maps, -1) + bias


def test_the_first_layers_agree_with_scipy():
    arrays = published_arrays()
    x = np.random.default_rng(1).random((17, 15, 3))
    red, green, blue = (255 * x[..., i] for i in range(3))
    bgr = np.stack(
        [
            blue - CAFFE_MEAN["blue"],
            green - CAFFE_MEAN["green"],
            red - CAFFE_MEAN["red"],
        ],
        -1,
    )
    conv1 = np.maximum(_correlate(bgr, arrays, "conv1")[::2, ::2], 0)
    windows = np.lib.stride_tricks.sliding_window_view(conv1, (3, 3), (0, 1))[::2, ::2]
    squeezed = np.maximum(_correlate(windows.max((-2, -1)), arrays, "fire2/squeeze1x1"), 0)
    one = _correlate(squeezed, arrays, "fire2/expand1x1")
    three = _correlate(np.pad(squeezed, ((1, 1), (1, 1), (0, 0))), arrays, "fire2/expand3x3")
    fire2 = np.maximum(np.concatenate([one, three], -1), 0)
    found = jax.jit(SqueezeNet().apply, static_argnums=2)(
        nested(arrays), jnp.asarray(x[None], jnp.float32), ("fire2", "conv1")
    )
    np.testing.assert_allclose(found["conv1"][0], conv1, atol=1e-4)
    np.testing.assert_allclose(found["fire2"][0], fire2, atol=1e-4)


def test_the_whole_network_agrees_with_pytorch():
    torch = pytest.importorskip("torch", reason="PyTorch is wanted only to compare with")
    f = torch.nn.functional
    arrays = published_arrays()
    x = np.random.default_rng(2).random((2, 67, 80, 3)).astype(np.float32)

    def conv(y, name, **options):
        kernel = torch.from_numpy(arrays[f"{name}/kernel"]).permute(3, 2, 0, 1)
        return f.relu(f.conv2d(y, kernel, torch.from_numpy(arrays[f"{name}/bias"]), **options))

    mean = np.float32([CAFFE_MEAN[c] for c in ("blue", "green", "red")])
    y = torch.from_numpy(255 * x[..., ::-1] - mean).permute(0, 3, 1, 2)
    y = conv(y, "conv1", stride=2)
    expected = {"conv1": y}
    for name in FIRES:
        if name in ("fire2", "fire4", "fire6"):
            y = f.max_pool2d(y, 3, 2)
        squeezed = conv(y, f"{name}/squeeze1x1")
        y = torch.cat(
            [
                conv(squeezed, f"{name}/expand1x1"),
                conv(squeezed, f"{name}/expand3x3", padding=1),
            ],
            1,
        )
        expected[name] = y
    found = jax.jit(SqueezeNet().apply, static_argnums=2)(nested(arrays), jnp.asarray(x), TAPS)
    for tap in TAPS:
        reference = expected[tap].permute(0, 2, 3, 1).numpy()
        assert np.abs(reference).max() > 0.1
        np.testing.assert_allclose(found[tap], reference, atol=1e-4)


def test_parameters_are_those_published():
    x = jax.ShapeDtypeStruct((1, 31, 31, 3), jnp.float32)
    shapes = jax.eval_shape(lambda x: SqueezeNet().init(jax.random.key(0), x), x)
    assert sum(a.size for a in jax.tree.leaves(shapes)) == 722_496


def test_the_least_size_is_accepted_and_one_below_is_refused():
    for tap, least in (("conv1", 3), ("fire3", 7), ("fire4", 15), ("fire9", 31)):
        x = jax.ShapeDtypeStruct((1, least, least, 3), jnp.float32)
        found, _ = jax.eval_shape(
            lambda x, tap=tap: SqueezeNet().init_with_output(jax.random.key(0), x, (tap,)), x
        )
        assert found[tap].shape[1:3] == (1, 1)
        with pytest.raises(ValueError, match=f"needs {least} x {least}"):
            SqueezeNet().init(jax.random.key(0), jnp.zeros((1, least - 1, least, 3)), (tap,))
    with pytest.raises(ValueError, match="fire10"):
        SqueezeNet().init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)), ("fire10",))
