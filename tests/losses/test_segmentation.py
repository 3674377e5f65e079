import jax.numpy as jnp
import numpy as np

from histojax.losses import segmentation


def test_squared_error_of_the_probability():
    logits = jnp.asarray([0.0, 0.0, 80.0, 80.0]).reshape(1, 2, 2, 1)
    mask = jnp.asarray([0.0, 1.0, 1.0, 0.0]).reshape(1, 2, 2, 1)
    loss = segmentation.squared_error(logits=logits, mask=mask)
    np.testing.assert_allclose(loss.ravel(), [0.25, 0.25, 0.0, 1.0], atol=1e-6)


def test_dice_of_half_overlapping_squares():
    # 4x8 mask columns 0-3, prediction columns 2-5: overlap 8, sizes 16 and 16.
    mask = jnp.zeros((1, 4, 8, 1)).at[:, :, :4].set(1.0)
    logits = jnp.full((1, 4, 8, 1), -50.0).at[:, :, 2:6].set(50.0)
    loss = segmentation.soft_dice(logits=logits, mask=mask, smooth=0.0)
    np.testing.assert_allclose(loss, [[0.5]], rtol=1e-6)


def test_squared_dice_of_a_uniform_half():
    # p = 1/2 everywhere, m = 1 everywhere, n = 16: linear 16/24, squared 16/20.
    mask = jnp.ones((1, 4, 4, 1))
    logits = jnp.zeros((1, 4, 4, 1))
    linear = segmentation.soft_dice(logits=logits, mask=mask, smooth=0.0)
    squared = segmentation.soft_dice(logits=logits, mask=mask, smooth=0.0, squared=True)
    np.testing.assert_allclose(linear, [[1 - 16 / 24]], rtol=1e-6)
    np.testing.assert_allclose(squared, [[1 - 16 / 20]], rtol=1e-6)


def test_empty_met_by_empty_costs_nothing():
    loss = segmentation.soft_dice(
        logits=jnp.full((1, 4, 4, 1), -60.0), mask=jnp.zeros((1, 4, 4, 1))
    )
    np.testing.assert_allclose(loss, [[0.0]], atol=1e-6)


def test_images_are_kept_apart():
    mask = jnp.zeros((2, 4, 4, 1)).at[0].set(1.0)
    loss = segmentation.soft_dice(logits=jnp.full((2, 4, 4, 1), 60.0), mask=mask)
    np.testing.assert_allclose(loss.ravel(), [0.0, 1 - 1 / 17], atol=1e-6)
