from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import correlate

from histojax.components.pretrained import convert_vgg19, fit_tree
from histojax.models.vgg import BLOCKS, IMAGENET_MEAN, IMAGENET_STD, LAYERS, VGG16, VGG19


def published_arrays(layers: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Seeded random weights in the published layout for the first convolutions."""
    rng = np.random.default_rng(seed)
    arrays, c_in, index = {}, 3, 0
    for layer in LAYERS[:layers]:
        block = int(layer[0])
        if layer.endswith("_1") and block > 1:
            index += 1
        c_out = BLOCKS[block - 1][0]
        scale = np.sqrt(2 / (9 * c_in))
        kernel = (scale * rng.standard_normal((c_out, c_in, 3, 3))).astype(np.float32)
        arrays[f"features.{index}.weight"] = kernel
        arrays[f"features.{index}.bias"] = rng.normal(0, 0.1, c_out).astype(np.float32)
        c_in, index = c_out, index + 2
    return arrays


def _params(arrays):
    converted = convert_vgg19(arrays)
    return {"params": fit_tree(converted, _nested(converted), source="test")}


def _nested(flat):
    tree = {}
    for key, value in flat.items():
        module, name = key.split("/")
        tree.setdefault(module, {})[name] = value
    return tree


def _correlate(x, weight, bias):
    """Zero-padded 3x3 correlation of (C_in, H, W) with (C_out, C_in, 3, 3), in float64."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    return np.stack(
        [
            correlate(padded, w.astype(np.float64), "valid")[0] + b
            for w, b in zip(weight, bias, strict=True)
        ]
    )


def test_the_first_block_agrees_with_scipy():
    arrays = published_arrays(3)
    x = np.random.default_rng(1).random((8, 6, 3))
    y = (x - IMAGENET_MEAN) / IMAGENET_STD
    y = y.transpose(2, 0, 1)
    first = _correlate(y, arrays["features.0.weight"], arrays["features.0.bias"])
    second = _correlate(
        np.maximum(first, 0), arrays["features.2.weight"], arrays["features.2.bias"]
    )
    pooled = np.maximum(second, 0).reshape(64, 4, 2, 3, 2).max((2, 4))
    third = _correlate(pooled, arrays["features.5.weight"], arrays["features.5.bias"])
    taps = ("conv2_1", "conv1_1", "relu1_2")
    images = jnp.asarray(x[None], jnp.float32)
    found = jax.jit(VGG19().apply, static_argnums=2)(_params(arrays), images, taps)
    assert set(found) == set(taps)
    for tap, expected in zip(taps, (third, first, np.maximum(second, 0)), strict=True):
        np.testing.assert_allclose(found[tap][0], expected.transpose(1, 2, 0), atol=1e-4)


def test_the_whole_network_agrees_with_pytorch():
    torch = pytest.importorskip("torch", reason="PyTorch is wanted only to compare with")
    arrays = published_arrays(16)
    x = np.random.default_rng(2).random((2, 32, 48, 3)).astype(np.float32)
    y = torch.from_numpy((x - np.float32(IMAGENET_MEAN)) / np.float32(IMAGENET_STD))
    y = y.permute(0, 3, 1, 2)
    index = 0
    for layer in LAYERS:
        if layer.endswith("_1") and index:
            y, index = torch.nn.functional.max_pool2d(y, 2), index + 1
        weight, bias = (
            torch.from_numpy(arrays[f"features.{index}.{kind}"]) for kind in ("weight", "bias")
        )
        y = torch.nn.functional.conv2d(y, weight, bias, padding=1)
        if layer == "5_4":
            before = y
        y, index = torch.relu(y), index + 2
    taps = ("relu5_4", "conv5_4")
    found = jax.jit(VGG19().apply, static_argnums=2)(_params(arrays), jnp.asarray(x), taps)
    for tap, expected in ((taps[0], y), (taps[1], before)):
        expected = expected.permute(0, 2, 3, 1).numpy()
        assert np.abs(expected).max() > 0.1
        np.testing.assert_allclose(found[tap], expected, atol=1e-4)


def test_layers_beyond_the_deepest_tap_are_not_made():
    x = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    shapes = jax.eval_shape(lambda x: VGG19().init(jax.random.key(0), x, ("conv2_1",)), x)
    assert sorted(shapes["params"]) == ["conv1_1", "conv1_2", "conv2_1"]
    whole = jax.eval_shape(lambda x: VGG19().init(jax.random.key(0), x), x)
    assert sum(a.size for a in jax.tree.leaves(whole)) == 20_024_384


def test_vgg16_has_seven_layers_and_sees_grey_levels():
    x = jnp.asarray(np.random.default_rng(1).random((1, 8, 8, 3)), jnp.float32)
    variables = jax.jit(VGG16().init)(jax.random.key(0), x)
    # 3x3 kernels and biases: 3-64-64-128-128-256-256-256.
    assert sum(a.size for a in jax.tree.leaves(variables)) == 1_735_488
    assert list(jax.eval_shape(VGG16().apply, variables, x)) == ["relu3_3"]
    grey = VGG16().apply(variables, x, ("conv1_1",))["conv1_1"]
    # What VGG19 makes of the image that is standardized to the same.
    blue_first = 255 * x[..., ::-1] - jnp.array([104.006, 116.669, 122.679])
    same = blue_first * jnp.array(IMAGENET_STD) + jnp.array(IMAGENET_MEAN)
    expected = VGG19().apply(variables, same, ("conv1_1",))["conv1_1"]
    np.testing.assert_allclose(grey, expected, atol=1e-3)


def test_wrong_taps_and_sizes_are_named():
    with pytest.raises(ValueError, match=r"taps \['relu3_4'\] of VGG16"):
        VGG16().init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), ("relu3_4",))
    with pytest.raises(ValueError, match="relu3_5"):
        VGG19().init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), ("relu3_5",))
    with pytest.raises(ValueError, match="needs 16 x 16"):
        VGG19().init(jax.random.key(0), jnp.zeros((1, 15, 32, 3)), ("relu5_1",))
