"""Bytes that follow from shapes."""

import jax
import jax.numpy as jnp
import pytest

from configs import joint
from histojax.config import to_values
from launch.benchmark import residuals


def kept(size, **changes):
    config = joint.get_config(size)
    config.update(changes)
    rows = residuals.measure_residuals(to_values(config), name="joint")
    assert [row["name"] for row in rows] == [
        f"joint: {of}" for of in ("enhance", *2 * ["objective"])
    ]
    assert {row["batch_size"] for row in rows} == {config.data.batch_size}
    return sum(row["kept_bytes"] for row in rows)


def test_what_the_gradient_reads_is_counted():
    w, x = jnp.ones((8, 4)), jnp.ones((16, 8))

    def objective(w):
        return jnp.sum(jnp.sin(x @ w)), {"other": w}

    with residuals.counted() as found:
        grads, aux = jax.grad(objective, has_aux=True)(w)
    assert grads.shape == aux["other"].shape == (8, 4)
    # The cosine of the product, and x, which no gradient is taken by; w itself is not read.
    assert found == [("objective", 4 * (16 * 4 + 16 * 8))]


def test_networks_computed_twice_keep_less():
    assert kept("smoke", remat=True) < 0.7 * kept("smoke")


@pytest.mark.slow
def test_joint_training_fits_an_accelerator():
    assert kept("gpu", precision="bfloat16") < 60 * 2**30
