from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from histojax.models.segmenters import dense_unet
from histojax.models.segmenters.dense_unet import DenseBlock, DenseUNet

SMALL = {"labels": 2, "features": 4, "growth": 2, "layers": (1,), "bottom": 1}


def test_parameters_are_those_of_the_source():
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
    height, center = 96, 48
    x, below = jnp.full((1, height, 8, 3), 0.5), jnp.zeros((1, height, 8, 2))
    variables = jax.jit(partial(model.init, train=False))(jax.random.key(0), x, below)
    params = jax.tree.map(lambda p: jnp.abs(p) + 0.01, variables["params"])
    apply = jax.jit(lambda x: model.apply({**variables, "params": params}, x, below, train=False))
    before = apply(x)
    radius = 0
    for phase in range(model.stride):
        y = apply(x.at[0, center + phase].set(1e3))
        rows = np.nonzero(np.asarray(y != before).any((0, 2, 3)))[0]
        radius = max(radius, np.abs(rows - center - phase).max())
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


def test_dropout_of_all_layers_comes_of_one_draw():
    shapes = [(2, 64, 64, 8), (2, 32, 32, 3), (1, 1, 1, 1)]
    factors = dense_unet.dropout_factors(jax.random.key(0), shapes, 0.2)
    assert [factor.shape for factor in factors] == shapes
    large, small, _ = factors
    # 2^16 * 0.2 is 13,107.2.
    scale = 65_536 / (65_536 - 13_107)
    np.testing.assert_allclose(np.unique(large), [0, scale], rtol=1e-6)
    # Five deviations of the share of 65,536 independent draws.
    assert np.mean(large == 0) == pytest.approx(0.2, abs=5 * (0.16 / large.size) ** 0.5)
    assert not np.array_equal(large[:, :32, :32, :3] == 0, small == 0)
    (whole,) = dense_unet.dropout_factors(jax.random.key(0), shapes[:1], 0.0)
    assert (np.asarray(whole) == 1).all()


def test_every_layer_has_its_dropout(monkeypatch):
    model = DenseUNet(**SMALL, dropout=0.5)
    x, below = jnp.zeros((1, 16, 16, 3)), jnp.zeros((1, 16, 16, SMALL["labels"]))
    variables = model.init(jax.random.key(0), x, below, train=False)
    drawn = []

    def factors(key, shapes, rate):
        drawn.append(shapes)
        return [jnp.zeros(shape) for shape in shapes]

    monkeypatch.setattr(dense_unet, "dropout_factors", factors)
    rngs = {"dropout": jax.random.key(0)}

    def trained(x):
        return model.apply(variables, x, below, train=True, mutable=["batch_stats"], rngs=rngs)[0]

    x = jax.random.uniform(jax.random.key(1), x.shape)
    moved = np.abs(trained(x.at[0, 8, 8].add(1)) - trained(x)).max((0, 3)) > 0
    layers = sum(SMALL["layers"])
    count = 2 * layers + SMALL["bottom"] + len(SMALL["layers"])
    assert [len(shapes) for shapes in drawn] == [count] * 2
    # Of what is found the stem's 3 x 3 px alone come through, and no layer's normalisation.
    wanted = np.zeros((16, 16), bool)
    wanted[7:10, 7:10] = True
    np.testing.assert_array_equal(moved, wanted)


@pytest.mark.faults
def test_a_size_that_does_not_fit_names_the_stride():
    with pytest.raises(ValueError, match="multiples of 8"):
        DenseUNet(2).init(
            jax.random.key(0), jnp.zeros((1, 12, 16, 3)), jnp.zeros((1, 12, 16, 2)), train=False
        )
