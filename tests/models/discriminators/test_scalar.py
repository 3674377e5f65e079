from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from histojax.models.discriminators.scalar import ScalarDiscriminator
from tests.models.synchronised import check_two_devices_are_one

EARLIER = {"halving": "every", "order": "activation_first", "norm": "keras_batch"}
# Sixteen pixels become one, as 256 do through eight convolutions.
SMALL = {"size": 16, "widths": (4, 4, 8, 8), "dense": 8}


def _count(model):
    x = jax.ShapeDtypeStruct((1, model.size, model.size, 3), jnp.float32)
    y, variables = jax.eval_shape(
        lambda x: model.init_with_output(jax.random.key(0), x, train=True), x
    )
    assert y.shape == (1, 1, 1, 1)
    assert y.dtype == jnp.float32
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


WIDTHS = (64, 64, 128, 128, 256, 256, 512, 512)
KERNELS = 9 * sum(a * b for a, b in zip((3, *WIDTHS), WIDTHS, strict=False))


def test_parameters_of_the_discriminator_of_srgan():
    # Four halvings: 96 px become 6. A bias at the first convolution, two numbers a norm elsewhere.
    dense = 6 * 6 * 512 * 1024 + 1024 + 1024 + 1
    norms = 2 * sum(WIDTHS[1:])
    assert _count(ScalarDiscriminator(size=96)) == KERNELS + 64 + norms + dense


def test_parameters_of_the_discriminator_of_2021():
    # Eight halvings: 256 px become 1. Biases everywhere, the norm comes after the activation.
    dense = 512 * 1024 + 1024 + 1024 + 1
    norms = 2 * sum(WIDTHS[1:])
    assert _count(ScalarDiscriminator(**EARLIER)) == KERNELS + sum(WIDTHS) + norms + dense


@pytest.mark.parametrize("order", ["norm_first", "activation_first"])
def test_order_of_norm_and_activation(order):
    model = ScalarDiscriminator(
        size=8, widths=(3, 4), halving="every", order=order, norm="keras_batch", dense=5
    )
    x = jax.random.uniform(jax.random.key(0), (4, 8, 8, 3))
    variables = model.init(jax.random.key(1), x, train=True)
    got, _ = model.apply(variables, x, train=True, mutable=["batch_stats"])

    params = variables["params"]

    def convolve(x, layer):
        # TensorFlow's padding at stride 2: none before, one after.
        padded = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
        y = lax.conv_general_dilated(
            padded, layer["kernel"], (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return y + layer.get("bias", 0.0)

    def leaky(x):
        return jnp.where(x > 0, x, 0.2 * x)

    def normalize(x):
        mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
        return (x - mean) / jnp.sqrt(variance + 1e-3)

    y = convolve(leaky(convolve(2 * x - 1, params["conv_0"])), params["conv_1"])
    y = leaky(normalize(y)) if order == "norm_first" else normalize(leaky(y))
    y = leaky(y.reshape(4, -1) @ params["dense"]["kernel"] + params["dense"]["bias"])
    y = y @ params["logit"]["kernel"] + params["logit"]["bias"]
    np.testing.assert_allclose(got.reshape(4, 1), y, atol=1e-4)


def test_one_logit_sees_the_whole_image():
    model = ScalarDiscriminator(**SMALL, norm="none")
    x = jax.random.uniform(jax.random.key(0), (1, 16, 16, 3))
    variables = model.init(jax.random.key(1), x, train=False)
    gradient = jax.jit(jax.grad(lambda x: model.apply(variables, x, train=False).sum()))(x)
    assert np.all(np.abs(np.asarray(gradient)).sum((0, 3)) > 0)


def test_the_discriminator_of_2021_cannot_learn_from_one_image():
    model = ScalarDiscriminator(**SMALL, **EARLIER)
    x = jax.random.uniform(jax.random.key(0), (2, 16, 16, 3))
    variables = jax.jit(partial(model.init, train=True))(jax.random.key(1), x)

    @jax.jit
    def slope(x):
        def logit(x):
            return model.apply(variables, x, train=True, mutable=["batch_stats"])[0].sum()

        return jnp.abs(jax.grad(logit)(x)).max()

    # One value a channel is its own mean, and what lies behind the norm is a constant.
    assert float(slope(x[:1])) == 0
    assert float(slope(x)) > 1e-6


def test_another_size_is_refused():
    with pytest.raises(ValueError, match=r"128 x 128 pixels does not fit .* size=256, which"):
        ScalarDiscriminator(**EARLIER).init(
            jax.random.key(0), jnp.zeros((1, 128, 128, 3)), train=True
        )


@pytest.mark.parametrize("field", ["halving", "order", "norm"])
def test_a_field_value_that_is_not_offered_is_refused(field):
    model = ScalarDiscriminator(**{**SMALL, field: "spectral"})
    with pytest.raises(ValueError, match=f"{field}='spectral' is not known; choose one of"):
        model.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)), train=True)


def test_synchronised_statistics_make_two_devices_one():
    x = jax.random.uniform(jax.random.key(0), (4, 16, 16, 3))
    check_two_devices_are_one(ScalarDiscriminator(**SMALL, **EARLIER), x, atol=1e-4)


def test_bfloat16_returns_float32():
    model = ScalarDiscriminator(**SMALL, norm="none", dtype=jnp.bfloat16)
    x = jax.random.uniform(jax.random.key(0), (2, 16, 16, 3))
    y, variables = jax.jit(partial(model.init_with_output, train=False))(jax.random.key(1), x)
    assert y.dtype == jnp.float32
    full = model.clone(dtype=jnp.float32).apply(variables, x, train=False)
    np.testing.assert_allclose(y, full, atol=0.05)
