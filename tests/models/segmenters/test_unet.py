from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from histojax.models.segmenters.unet import UNet
from tests.models.synchronised import check_two_devices_are_one

SMALL = {"features": 4, "depth": 2}


def _shapes(model, size=32, **options):
    x = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    return jax.eval_shape(
        lambda x: model.init_with_output(jax.random.key(0), x, train=True, **options), x
    )


def _convolution(side, c_in, c_out):
    return side * side * c_in * c_out + c_out


def test_parameters_of_the_network_of_2021():
    widths = (64, 128, 256, 512, 1024)
    levels = list(zip((3, *widths), widths, strict=False))
    expected = sum(_convolution(3, c, w) + _convolution(3, w, w) for c, w in levels)
    for w in widths[:-1]:
        # Up by 2x2 to w channels, as many again from the encoder, then two 3x3.
        expected += _convolution(2, 2 * w, w) + _convolution(3, 2 * w, w) + _convolution(3, w, w)
    expected += _convolution(3, 64, 2) + _convolution(1, 2, 1)
    _, variables = _shapes(UNet())
    assert list(variables) == ["params"]
    count = sum(leaf.size for leaf in jax.tree.leaves(variables))
    assert count == expected == 31_032_837


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"norm": "batch", "head_features": 0, "heads": ("mask", "marker", "contour")},
        {"stem_stride": 2, "heads": ("mask", "marker")},
    ],
)
def test_logits_have_the_size_of_the_image(fields):
    model = UNet(**SMALL, **fields)
    y, variables = _shapes(model)
    assert y.shape == (2, 32, 32, len(model.heads))
    assert y.dtype == jnp.float32
    assert ("batch_stats" in variables) == (model.norm == "batch")


def test_the_default_widths_are_64_to_1024():
    levels, _ = _shapes(UNet(), method="encode")
    assert {k: v.shape[1:] for k, v in levels.items()} == {
        "level0": (32, 32, 64),
        "level1": (16, 16, 128),
        "level2": (8, 8, 256),
        "level3": (4, 4, 512),
        "level4": (2, 2, 1024),
    }


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"head_features": 0},
        {"stem_stride": 2, "depth": 1},
        {"stem_stride": 2, "depth": 1, "head_features": 0},
    ],
)
def test_halo_bounds_the_receptive_field_within_one_stride(fields):
    model = UNet(**{**SMALL, **fields})
    height, center = 96, 48
    x = jnp.full((1, height, 8, 3), 0.5)
    variables = jax.jit(partial(model.init, train=False))(jax.random.key(0), x)
    # Weights above zero keep every ReLU open, so that each input below changes what it reaches.
    params = jax.tree.map(lambda p: jnp.abs(p) + 0.01, variables["params"])
    apply = jax.jit(lambda x: model.apply({"params": params}, x, train=False))
    before = apply(x)
    radius = 0
    for phase in range(model.stride):
        y = apply(x.at[0, center + phase].set(1e3))
        rows = np.nonzero(np.asarray(y != before).any((0, 2, 3)))[0]
        radius = max(radius, np.abs(rows - center - phase).max())
    assert model.halo % model.stride == 0
    assert model.halo - model.stride < radius <= model.halo


@pytest.mark.parametrize("fields", [{}, {"stem_stride": 2, "depth": 1, "norm": "batch"}])
def test_windows_with_the_halo_agree_with_the_whole(fields):
    model = UNet(**{**SMALL, "head_features": 0, **fields})
    x = jax.random.uniform(jax.random.key(0), (1, 96, 96, 3))
    variables = jax.jit(partial(model.init, train=False))(jax.random.key(1), x)
    apply = jax.jit(partial(model.apply, train=False))
    whole = apply(variables, x)
    halo, core, start = model.halo, 8, 40
    assert start >= halo
    assert (start - halo) % model.stride == 0
    window = x[:, start - halo : start + core + halo, start - halo : start + core + halo]
    part = apply(variables, window)[:, halo:-halo, halo:-halo]
    inside = whole[:, start : start + core, start : start + core]
    assert float(jnp.ptp(inside)) > 1e-3
    np.testing.assert_allclose(part, inside, atol=1e-5)


def test_up_convolution_reads_pixels_to_the_right_and_below():
    # All else passes red on: the 2x2 kernel picks its lower right corner, so every pixel gets the
    # pooled and repeated value of the pixel one further down and right.
    model = UNet(features=1, depth=1, head_features=0)
    x = jax.random.uniform(jax.random.key(0), (1, 8, 8, 3), minval=0.6)
    params = jax.tree.map(jnp.zeros_like, model.init(jax.random.key(1), x, train=False)["params"])
    for name, inputs in (("encoder_0", 0), ("encoder_1", 0), ("decoder_0", 1)):
        for i in range(2):
            kernel = params[name][f"conv_{i}"]["kernel"]
            params[name][f"conv_{i}"]["kernel"] = kernel.at[1, 1, inputs if i == 0 else 0, 0].set(1)
    params["up_0"]["kernel"] = params["up_0"]["kernel"].at[1, 1, 0, 0].set(1)
    params["head"]["kernel"] = params["head"]["kernel"].at[0, 0, 0, 0].set(1)
    y = model.apply({"params": params}, x, train=False)[0, :, :, 0]
    red = 2 * np.asarray(x)[0, :, :, 0] - 1
    pooled = red.reshape(4, 2, 4, 2).max((1, 3)).repeat(2, 0).repeat(2, 1)
    # Beyond the last row and column lies zero padding.
    np.testing.assert_allclose(y, np.pad(pooled[1:, 1:], ((0, 1), (0, 1))), atol=1e-6)


def test_a_size_that_does_not_fit_names_the_stride():
    with pytest.raises(ValueError, match="multiples of 8"):
        UNet(**SMALL, stem_stride=2).init(jax.random.key(0), jnp.zeros((1, 24, 20, 3)), train=False)


def test_dropout_acts_on_the_two_deepest_levels_in_training():
    model = UNet(**SMALL)
    x = jax.random.uniform(jax.random.key(0), (1, 16, 16, 3))
    variables = jax.jit(partial(model.init, train=False))(jax.random.key(1), x)

    @partial(jax.jit, static_argnums=1)
    def levels(seed, train):
        rngs = {"dropout": jax.random.key(seed)}
        return model.apply(variables, x, train=train, rngs=rngs, method="encode")

    one, other = levels(0, True), levels(1, True)
    np.testing.assert_array_equal(one["level0"], other["level0"])
    for name in ("level1", "level2"):
        assert float(jnp.abs(one[name] - other[name]).max()) > 1e-3
        np.testing.assert_array_equal(levels(0, False)[name], levels(1, False)[name])


def test_synchronised_statistics_make_two_devices_one():
    x = jax.random.uniform(jax.random.key(0), (4, 8, 8, 3))
    check_two_devices_are_one(UNet(**SMALL, norm="batch", dropout=0.0), x, atol=1e-4)


def test_bfloat16_computes_near_float32_and_returns_it():
    x = jax.random.uniform(jax.random.key(0), (1, 16, 16, 3))
    model = UNet(**SMALL, head_features=0)
    variables = jax.jit(partial(model.init, train=False))(jax.random.key(1), x)
    y = jax.jit(partial(model.clone(dtype=jnp.bfloat16).apply, train=False))(variables, x)
    assert y.dtype == jnp.float32
    full = jax.jit(partial(model.apply, train=False))(variables, x)
    np.testing.assert_allclose(y, full, atol=0.1)
    assert float(jnp.abs(full).max()) > 0.2


def test_the_fields_are_checked():
    for fields, message in (
        ({"norm": "instance"}, "norm='instance' is not known; choose one of none, batch"),
        ({"stem_stride": 3}, "stem_stride=3"),
        ({"depth": 0}, "depth=0 has to be a whole number of 1 or more"),
        ({"head_features": -1}, "head_features=-1 has to be a whole number of 0 or more"),
    ):
        with pytest.raises(ValueError, match=message):
            _shapes(UNet(**fields))
