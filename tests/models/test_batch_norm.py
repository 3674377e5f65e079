from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from histojax.models.batch_norm import BatchNorm

OPTIONS = dict(momentum=0.9, epsilon=1e-3)


def _drawn(shape, seed=0, dtype=jnp.float32):
    return (jax.random.normal(jax.random.key(seed), shape) * 2 + 3).astype(dtype)


def _variables(channels):
    rows = _drawn((4, channels), seed=1)
    params = {"scale": rows[0], "bias": rows[1]}
    return {"params": params, "batch_stats": {"mean": rows[2], "var": jnp.abs(rows[3])}}


def _trained(module, variables, x, weights):
    """Result, tracked moments, and gradients to parameters and input of a weighted sum."""

    def loss(params, x):
        own = {"params": params, "batch_stats": variables["batch_stats"]}
        y, updated = module.apply(own, x, mutable=["batch_stats"])
        return (weights * y.astype(jnp.float32)).mean(), (y, updated)

    grads, (y, updated) = jax.grad(loss, argnums=(0, 1), has_aux=True)(variables["params"], x)
    return y, updated, grads


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("bfloat16", 1e-2)])
def test_training_is_linens_with_its_gradients(dtype, tolerance):
    x, weights = _drawn((3, 5, 4, 6), dtype=dtype), _drawn((3, 5, 4, 6), seed=2)
    options = dict(OPTIONS, use_running_average=False, dtype=dtype)
    variables = _variables(6)
    results = [
        jax.jit(partial(_trained, module))(variables, x, weights)
        for module in (BatchNorm(**options), nn.BatchNorm(**options))
    ]
    for own, linens in zip(*map(jax.tree.leaves, results), strict=True):
        assert own.dtype == linens.dtype
        own, linens = (np.asarray(leaf, np.float32) for leaf in (own, linens))
        np.testing.assert_allclose(own, linens, atol=tolerance * np.abs(linens).max())


def test_the_gradient_of_a_gradient_penalty_is_linens():
    x, weights = _drawn((3, 5, 4, 6)), _drawn((3, 5, 4, 6), seed=2)
    options = dict(OPTIONS, use_running_average=False, dtype=jnp.float32)
    variables = _variables(6)

    def penalty(module, x):
        def judged(x):
            y, _ = module.apply(variables, x, mutable=["batch_stats"])
            return (weights * jnp.tanh(y)).sum()

        return jnp.square(jax.grad(judged)(x)).sum()

    modules = (kind(**options) for kind in (BatchNorm, nn.BatchNorm))
    own, linens = (jax.jit(jax.grad(partial(penalty, module)))(x) for module in modules)
    np.testing.assert_allclose(own, linens, atol=1e-4 * np.abs(linens).max())


def test_tracked_moments_and_trees_are_linens():
    x = _drawn((2, 3, 3, 4))
    options = dict(OPTIONS, use_running_average=True)
    variables = _variables(4)
    y, linens = (kind(**options).apply(variables, x) for kind in (BatchNorm, nn.BatchNorm))
    np.testing.assert_allclose(y, linens, rtol=1e-6)
    own, linens = (kind(**options).init(jax.random.key(0), x) for kind in (BatchNorm, nn.BatchNorm))
    jax.tree.map(np.testing.assert_array_equal, own, linens)


def test_two_devices_are_one_in_value_and_gradient():
    x, weights = _drawn((4, 3, 3, 5)), _drawn((4, 3, 3, 5), seed=2)
    variables, options = _variables(5), dict(OPTIONS, use_running_average=False)
    whole = jax.jit(partial(_trained, BatchNorm(**options)))(variables, x, weights)

    def part(variables, x, weights):
        y, updated, (params, dx) = _trained(
            BatchNorm(**options, axis_name="data"), variables, x, weights
        )
        # Each device's loss is a mean over its own half, and so is twice the whole's share.
        return y, updated, (jax.lax.pmean(params, "data"), dx / 2)

    halves, one = PartitionSpec("data"), PartitionSpec()
    mesh = jax.make_mesh((2,), ("data",), (AxisType.Auto,), devices=jax.devices()[:2])
    split = jax.jit(
        jax.shard_map(
            part,
            mesh=mesh,
            in_specs=(one, halves, halves),
            out_specs=(halves, one, (one, halves)),
            check_vma=False,
        )
    )(variables, x, weights)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), split, whole)


def test_the_gradient_keeps_the_input_once_and_in_its_own_dtype():
    x = _drawn((2, 16, 16, 8), dtype=jnp.bfloat16)
    module, variables = (
        BatchNorm(**OPTIONS, use_running_average=False, dtype=x.dtype),
        _variables(8),
    )
    kept = jax.vjp(lambda x: module.apply(variables, x, mutable=["batch_stats"])[0], x)[1]
    large = [leaf for leaf in jax.tree.leaves(kept) if leaf.size >= x.size]
    assert [leaf.dtype for leaf in large] == [jnp.bfloat16]
