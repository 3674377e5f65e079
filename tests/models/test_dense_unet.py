from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from histojax.models.dense_unet import DenseBlock, DenseUNet

SMALL = {"labels": 2, "features": 4, "growth": 2, "layers": (1,), "bottom": 1}


def test_parameters_are_those_of_the_segmentor_that_the_source_took():
    x, below = jnp.zeros((1, 64, 64, 3)), jnp.zeros((1, 64, 64, 4))

    def block(channels, layers):
        inputs = [channels + 12 * n for n in range(layers)]
        return sum(2 * c + 9 * c * 12 + 12 for c in inputs)

    expected, channels, skips = 9 * 7 * 16 + 16, 16, []
    for layers in (4, 5, 7):
        expected += block(channels, layers)
        channels += 12 * layers
        skips.append(channels)
        expected += 2 * channels + channels * channels + channels
    expected += block(channels, 10)
    coming = 120
    for layers, skip in zip((7, 5, 4), reversed(skips), strict=True):
        expected += 9 * coming * coming + coming + block(coming + skip, layers)
        ends, coming = coming + skip, 12 * layers
    expected += (ends + coming) * 4 + 4
    shapes = jax.eval_shape(lambda: DenseUNet(4).init(jax.random.key(0), x, below, train=False))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == expected
    assert expected == pytest.approx(1.24e6, rel=5e-3)


def test_a_layer_is_fed_with_all_before_it():
    block = DenseBlock(layers=3, growth=2)
    x = jnp.zeros((1, 4, 4, 5))
    params = jax.eval_shape(lambda: block.init(jax.random.key(0), x, train=False))["params"]
    assert [params[f"conv_{n}"]["kernel"].shape[2] for n in range(3)] == [5, 7, 9]
    assert jax.eval_shape(lambda: block.init_with_output(jax.random.key(0), x, train=False))[
        0
    ].shape == (1, 4, 4, 6)


def test_the_map_of_the_scale_below_counts():
    model = DenseUNet(**SMALL)
    x = jax.random.uniform(jax.random.key(0), (2, 8, 8, 3))
    below = jnp.zeros((2, 8, 8, 2))
    variables = model.init(jax.random.key(1), x, below, train=False)
    one = model.apply(variables, x, below, train=False)
    other = model.apply(variables, x, below.at[..., 1].set(1.0), train=False)
    assert (one.shape, one.dtype) == ((2, 8, 8, 2), jnp.float32)
    assert float(jnp.abs(one - other).max()) > 1e-3


@pytest.mark.parametrize("fields", [{}, {"layers": (1, 2)}])
def test_halo_bounds_the_receptive_field_within_one_stride(fields):
    model = DenseUNet(**{**SMALL, **fields})
    height, centre = 96, 48
    x, below = jnp.full((1, height, 8, 3), 0.5), jnp.zeros((1, height, 8, 2))
    variables = jax.jit(partial(model.init, train=False))(jax.random.key(0), x, below)
    params = jax.tree.map(lambda p: jnp.abs(p) + 0.01, variables["params"])
    apply = jax.jit(lambda x: model.apply({**variables, "params": params}, x, below, train=False))
    before = apply(x)
    radius = 0
    for phase in range(model.stride):
        y = apply(x.at[0, centre + phase].set(1e3))
        rows = np.nonzero(np.asarray(y != before).any((0, 2, 3)))[0]
        radius = max(radius, np.abs(rows - centre - phase).max())
    assert model.halo % model.stride == 0
    assert model.halo - model.stride < radius <= model.halo


def test_dropout_acts_in_training_alone():
    model = DenseUNet(**SMALL, dropout=0.5)
    x, below = jnp.ones((1, 8, 8, 3)), jnp.zeros((1, 8, 8, 2))
    variables = model.init(jax.random.key(1), x, below, train=False)

    def trained(seed):
        rngs = {"dropout": jax.random.key(seed)}
        return model.apply(variables, x, below, train=True, mutable=["batch_stats"], rngs=rngs)[0]

    assert float(jnp.abs(trained(0) - trained(1)).max()) > 1e-4
    plain = [model.apply(variables, x, below, train=False) for _ in range(2)]
    np.testing.assert_array_equal(*plain)


@pytest.mark.faults
def test_a_size_that_does_not_fit_names_the_stride():
    with pytest.raises(ValueError, match="multiples of 8"):
        DenseUNet(2).init(
            jax.random.key(0), jnp.zeros((1, 12, 16, 3)), jnp.zeros((1, 12, 16, 2)), train=False
        )
