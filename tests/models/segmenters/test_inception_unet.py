from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from histojax.models.segmenters.inception_unet import InceptionBlock, InceptionUNet

SMALL = {"features": 8, "depth": 2}


def _shapes(model, size=32, **options):
    x = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    return jax.eval_shape(
        lambda x: model.init_with_output(jax.random.key(0), x, train=True, **options), x
    )


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {
            "blocks_per_level": 2,
            "five": "3x3x2",
            "residual": True,
            "heads": ("mask", "marker", "contour"),
        },
        {"upsampling": "bilinear", "fuse": True, "norm": "none"},
        {"stem_stride": 2, "norm": "instance", "heads": ("mask", "marker")},
    ],
)
def test_logits_have_the_size_of_the_image(fields):
    model = InceptionUNet(**SMALL, **fields)
    y, variables = _shapes(model)
    assert y.shape == (2, 32, 32, len(model.heads))
    assert y.dtype == jnp.float32
    assert ("batch_stats" in variables) == (model.norm == "batch")


def test_parameters_of_a_block():
    x = jax.ShapeDtypeStruct((1, 8, 8, 24), jnp.float32)
    block = InceptionBlock(features=16, norm="none")
    shapes = jax.eval_shape(lambda x: block.init(jax.random.key(0), x, train=True), x)
    reduce, pooled = 24 * 12 + 12, 24 * 4 + 4
    three, five = 9 * 4 * 4 + 4, 25 * 4 * 4 + 4
    assert sum(a.size for a in jax.tree.leaves(shapes)) == reduce + three + five + pooled


def test_the_default_widths_are_64_to_1024():
    levels, _ = _shapes(InceptionUNet(), method="encode")
    assert {k: v.shape[1:] for k, v in levels.items()} == {
        "level0": (32, 32, 64),
        "level1": (16, 16, 128),
        "level2": (8, 8, 256),
        "level3": (4, 4, 512),
        "level4": (2, 2, 1024),
    }


def test_the_encoder_of_a_trained_network_is_a_feature_network():
    model = InceptionUNet(features=8, depth=1)
    x = jax.random.uniform(jax.random.key(0), (1, 16, 16, 3))
    variables = jax.jit(partial(model.init, train=False))(jax.random.key(1), x)
    levels = jax.jit(partial(model.apply, train=False, method="encode"))(variables, x)
    capture = partial(
        model.apply, train=False, capture_intermediates=lambda m, _: m.name == "encoder_1_0"
    )
    _, captured = jax.jit(capture)(variables, x)
    (deepest,) = captured["intermediates"]["encoder_1_0"]["__call__"]
    np.testing.assert_allclose(levels["level1"], deepest, atol=1e-6)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"upsampling": "bilinear"},
        {"stem_stride": 2, "depth": 1},
        {"blocks_per_level": 2, "depth": 1, "five": "3x3x2"},
    ],
)
def test_halo_bounds_the_receptive_field_within_one_stride(fields):
    model = InceptionUNet(**{**SMALL, "norm": "none", **fields})
    height, center = 72, 36
    x = jax.random.uniform(jax.random.key(2), (1, height, 8, 3))
    variables = jax.jit(partial(model.init, train=False))(jax.random.key(0), x)
    apply = jax.jit(lambda x: model.apply(variables, x, train=False))
    before = apply(x)
    radius = 0
    for phase in range(model.stride):
        # Both signs, and large: a change passes ReLU and maximum in one of them.
        for value in (-1e3, 1e3):
            y = apply(x.at[0, center + phase, 4].set(value))
            rows = np.nonzero(np.asarray(y != before).any((0, 2, 3)))[0]
            radius = max(radius, np.abs(rows - center - phase).max())
    assert model.halo % model.stride == 0
    assert model.halo - model.stride < radius <= model.halo


def test_windows_with_the_halo_agree_with_the_whole():
    model = InceptionUNet(**SMALL)
    x = jax.random.uniform(jax.random.key(0), (1, 96, 96, 3))
    variables = jax.jit(partial(model.init, train=False))(jax.random.key(1), x)
    apply = jax.jit(partial(model.apply, train=False))
    whole = apply(variables, x)
    halo, core = model.halo, 8
    start = 44
    window = x[:, start - halo : start + core + halo, start - halo : start + core + halo]
    assert (start - halo) % model.stride == 0
    part = apply(variables, window)[:, halo:-halo, halo:-halo]
    inside = whole[:, start : start + core, start : start + core]
    np.testing.assert_allclose(part, inside, atol=1e-5)


def test_a_size_that_does_not_fit_names_the_stride():
    model = InceptionUNet(**SMALL, stem_stride=2)
    with pytest.raises(ValueError, match="multiples of 8"):
        model.init(jax.random.key(0), jnp.zeros((1, 24, 20, 3)), train=False)


def test_dropout_acts_in_training_alone():
    model = InceptionUNet(**SMALL, dropout=0.5)
    x = jax.random.uniform(jax.random.key(0), (1, 16, 16, 3))
    variables = jax.jit(partial(model.init, train=False))(jax.random.key(1), x)

    @partial(jax.jit, static_argnums=1)
    def logits(seed, train):
        rngs = {"dropout": jax.random.key(seed)}
        y, _ = model.apply(variables, x, train=train, rngs=rngs, mutable=["batch_stats"])
        return y

    assert float(jnp.abs(logits(0, True) - logits(1, True)).max()) > 1e-3
    np.testing.assert_array_equal(logits(0, False), logits(1, False))


def test_the_fields_are_checked():
    for fields, message in (
        ({"features": 6}, "multiple of 4"),
        ({"five": "7x7"}, "5x5, 3x3x2"),
        ({"stem_stride": 3}, "stem_stride=3"),
        ({"depth": 0}, "1 or more"),
    ):
        with pytest.raises(ValueError, match=message):
            _shapes(InceptionUNet(**fields))
