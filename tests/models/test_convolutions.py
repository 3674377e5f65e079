from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from histojax.models import convolutions


def _normal(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def _value_and_gradients(f, x, kernel):
    y, pull = jax.vjp(f, x, kernel)
    return (y, *pull(_normal(9, *y.shape)))


@pytest.mark.parametrize("form", ["block_diagonal", "batched"])
@pytest.mark.parametrize(("channels", "groups", "out"), [(128, 32, 128), (64, 4, 32), (12, 3, 6)])
@pytest.mark.parametrize(("side", "width"), [(3, 6), (5, 210)])  # pixels in one block, and in two
def test_grouped_forms_agree_with_xla_in_value_and_gradients(
    form, channels, groups, out, side, width
):
    x = _normal(0, 2, 6, width, channels)
    kernel = _normal(1, side, side, channels // groups, out)
    naive = jax.jit(
        lambda x, k: _value_and_gradients(
            lambda x, k: convolutions.grouped_convolve(x, k, groups, form="grouped"), x, k
        )
    )(x, kernel)
    ours = jax.jit(
        lambda x, k: _value_and_gradients(
            lambda x, k: convolutions.grouped_convolve(x, k, groups, form=form), x, k
        )
    )(x, kernel)
    for a, b in zip(ours, naive, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * float(jnp.abs(b).max()))


def test_a_grouped_kernel_sees_its_own_group_alone():
    # Two groups of two channels; output o takes its group's second channel, one pixel to the right.
    x = jnp.arange(2 * 3 * 4, dtype=jnp.float32).reshape(1, 2, 3, 4)
    kernel = jnp.zeros((3, 3, 2, 2)).at[1, 2, 1, :].set(1.0)
    for form in ("grouped", "batched", "block_diagonal"):
        y = np.asarray(convolutions.grouped_convolve(x, kernel, 2, form=form))
        np.testing.assert_array_equal(y[0, :, :2, 0], x[0, :, 1:, 1])
        np.testing.assert_array_equal(y[0, :, :2, 1], x[0, :, 1:, 3])
        np.testing.assert_array_equal(y[0, :, 2], 0)


def test_the_cpu_never_runs_feature_group_count():
    assert convolutions.grouped_conv_form("cpu") == "batched"
    x, kernel = jnp.zeros((1, 4, 4, 128)), jnp.zeros((3, 3, 4, 128))
    text = jax.jit(lambda x, k: convolutions.grouped_convolve(x, k, 32)).lower(x, kernel).as_text()
    assert text.count("stablehlo.dot_general") == 1
    assert "stablehlo.convolution" not in text


@pytest.mark.parametrize(
    ("side", "c_in", "c_out"),
    [(1, 6, 20), (1, 20, 6), (3, 8, 48), (3, 48, 8), (9, 20, 3), (9, 3, 20), (3, 640, 512)],
)
@pytest.mark.parametrize("width", [6, 96])  # pixels in one block, and in two
@pytest.mark.parametrize("small", [0, convolutions.SMALL])
def test_rearranged_weight_gradient_is_xlas(side, c_in, c_out, width, small, monkeypatch):
    monkeypatch.setattr(convolutions, "SMALL", small)
    # More rows than a strip, and no multiple of one.
    x, kernel = _normal(0, 2, 11, width, c_in), _normal(1, side, side, c_in, c_out)
    results = [
        jax.jit(
            lambda x, k, form=form: _value_and_gradients(
                lambda x, k: convolutions.convolve(x, k, form=form), x, k
            )
        )(x, kernel)
        for form in ("rearranged", "xla")
    ]
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * float(jnp.abs(b).max()))


@pytest.mark.parametrize("check_vma", [True, False])
def test_gradient_of_a_replicated_kernel_under_shard_map(check_vma):
    mesh = jax.make_mesh((2,), ("data",), (AxisType.Auto,), devices=jax.devices()[:2])
    x, kernel = _normal(0, 4, 5, 5, 16), _normal(1, 3, 3, 16, 48)

    def loss(kernel, x):
        return (convolutions.convolve(x, kernel, form="rearranged") ** 2).mean()

    def step(kernel, x):
        if check_vma:
            return jax.grad(lambda k: jax.lax.pmean(loss(k, x), "data"))(kernel)
        return jax.lax.pmean(jax.grad(loss)(kernel, x), "data")

    specs = (PartitionSpec(), PartitionSpec("data"))
    parallel = jax.jit(
        jax.shard_map(
            step, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(), check_vma=check_vma
        )
    )
    whole = jax.jit(jax.grad(loss))(kernel, x)
    np.testing.assert_allclose(parallel(kernel, x), whole, atol=1e-5 * float(jnp.abs(whole).max()))


def test_an_unknown_form_is_refused():
    x, kernel = jnp.zeros((1, 4, 4, 4)), jnp.zeros((3, 3, 2, 4))
    with pytest.raises(ValueError, match="fastest"):
        convolutions.grouped_convolve(x, kernel, 2, form="fastest")
