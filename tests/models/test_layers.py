from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from histojax.models import layers


def _normal(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def test_conv_trees_are_interchangeable_with_linens():
    x = _normal(0, 2, 6, 5, 8)
    pairs = [
        (layers.Conv(16, 5), nn.Conv(16, (5, 5))),
        (
            layers.Conv(16, groups=4),
            nn.Conv(16, (3, 3), feature_group_count=4),
        ),
    ]
    for ours, theirs in pairs:
        variables = jax.jit(theirs.init)(jax.random.key(0), x)
        assert jax.tree.map(jnp.shape, jax.jit(ours.init)(jax.random.key(0), x)) == jax.tree.map(
            jnp.shape, variables
        )
        np.testing.assert_allclose(ours.apply(variables, x), theirs.apply(variables, x), atol=1e-5)


def test_channels_that_are_alike_differ_in_detail_alone():
    conv = layers.Conv(6, alike=3)
    x = jax.random.normal(jax.random.key(0), (1, 5, 5, 4))
    params = conv.init(jax.random.key(1), x)
    params["params"]["bias"] = jnp.arange(6.0)
    y = conv.apply(params, jnp.ones_like(x))[0, 2, 2].reshape(2, 3)
    np.testing.assert_allclose(y, jnp.broadcast_to(y.mean(1, keepdims=True), (2, 3)), atol=1e-5)
    # The mean of the three is that of free channels, whatever the input.
    means = [c.apply(params, x).reshape(5, 5, 2, 3).mean(-1) for c in (conv, layers.Conv(6))]
    np.testing.assert_allclose(*means, atol=1e-5)
    assert float(conv.apply(params, x).reshape(5, 5, 2, 3).std(-1).mean()) > 0.1


def test_a_width_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="multiples of the cardinality"):
        layers.Conv(16, groups=3).init(jax.random.key(0), jnp.zeros((1, 4, 4, 16)))


def test_prelu_starts_at_a_quarter_in_every_channel():
    x = jnp.array([[-4.0, 2.0, -1.0]])
    y, variables = layers.PReLU().init_with_output(jax.random.key(0), x)
    np.testing.assert_array_equal(y, [[-1.0, 2.0, -0.25]])
    assert variables["params"]["negative_slope"].shape == (3,)


def test_batch_norm_keeps_nine_tenths_of_its_running_mean():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            return layers.norm_layer("batch", train=train, name="norm")(x)

    x = jnp.full((2, 3, 3, 1), 5.0)
    variables = Net().init(jax.random.key(0), x, train=False)
    y, updated = Net().apply(variables, x, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(y, 0, atol=1e-6)
    np.testing.assert_allclose(updated["batch_stats"]["norm"]["mean"], [0.5], rtol=1e-6)
    np.testing.assert_allclose(
        Net().apply(variables, x, train=False), 5 / np.sqrt(1 + 1e-5), rtol=1e-6
    )


def test_batch_statistics_after_keras_move_by_a_fifth():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            return layers.norm_layer("keras_batch", train=train, name="norm")(x)

    # Mean 3, variance 4.
    x = jnp.asarray([1.0, 5.0]).reshape(2, 1, 1, 1)
    variables = Net().init(jax.random.key(0), x, train=False)
    y, updated = Net().apply(variables, x, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(y.ravel(), [-2 / np.sqrt(4.001), 2 / np.sqrt(4.001)], rtol=1e-6)
    np.testing.assert_allclose(updated["batch_stats"]["norm"]["mean"], [0.6], rtol=1e-6)
    np.testing.assert_allclose(updated["batch_stats"]["norm"]["var"], [1.6], rtol=1e-6)


def test_unknown_names_are_refused_with_the_choices():
    with pytest.raises(ValueError, match="batch, keras_batch, tf_batch, instance, none"):
        layers.norm_layer("layer", train=True)
    with pytest.raises(ValueError, match="relu, prelu"):
        layers.activate("swish", jnp.zeros(1))


@pytest.mark.parametrize(("window", "stride", "padding"), [(2, 2, 0), (3, 1, 1), (3, 2, 0)])
def test_max_pool_is_linens_and_so_is_its_gradient(window, stride, padding):
    x = jax.random.normal(jax.random.key(0), (2, 9, 11, 3))

    def linen(x):
        sides = [(padding, padding)] * 2
        return nn.max_pool(x, (window, window), (stride, stride), sides)

    def ours(x):
        return layers.max_pool(x, window, stride, padding=padding)

    np.testing.assert_array_equal(ours(x), linen(x))
    ours_gradient, gradient = (jax.grad(lambda x, f=f: (f(x) ** 2).sum())(x) for f in (ours, linen))
    np.testing.assert_allclose(ours_gradient, gradient, rtol=1e-6, atol=1e-6)


def test_max_pool_shares_the_gradient_among_equals():
    gradient = jax.grad(lambda x: layers.max_pool(x, 2, 2).sum())(jnp.ones((1, 2, 2, 1)))
    np.testing.assert_allclose(gradient.ravel(), 0.25)
