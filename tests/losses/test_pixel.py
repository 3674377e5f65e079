import jax
import jax.numpy as jnp
import numpy as np

from histojax.losses import perceptual, pixel

A = jnp.asarray([[[[0.0, 0.5, 1.0]]]])
B = jnp.asarray([[[[0.25, 0.5, 0.0]]]])


def test_l1_and_mse_are_the_differences():
    np.testing.assert_allclose(pixel.l1(prediction=A, target=B)[0, 0, 0], [0.25, 0.0, 1.0])
    np.testing.assert_allclose(pixel.mse(prediction=A, target=B)[0, 0, 0], [0.0625, 0.0, 1.0])


def test_charbonnier_is_epsilon_at_zero_and_l1_far_away():
    loss = pixel.charbonnier(prediction=A, target=B, epsilon=1e-3)[0, 0, 0]
    np.testing.assert_allclose(loss, [0.25, 1e-3, 1.0], rtol=1e-4)


def test_charbonnier_has_a_gradient_at_equality():
    gradient = jax.grad(lambda a: pixel.charbonnier(prediction=a, target=A).sum())(A)
    np.testing.assert_array_equal(gradient, np.zeros((1, 1, 1, 3)))


def test_equal_pixels_and_features_have_no_gradient():
    """By symmetry: |x| rises alike on both sides of 0. At 0 JAX gives abs the gradient 1."""
    np.testing.assert_array_equal(pixel.absolute(jnp.asarray([-2.0, 0.0, 3.0])), [2.0, 0.0, 3.0])
    for loss in (
        lambda a: pixel.l1(prediction=a, target=A).sum(),
        lambda a: perceptual.feature_loss(
            prediction={"a": a}, target={"a": A}, weights={"a": 1.0}
        ).sum(),
    ):
        np.testing.assert_array_equal(jax.grad(loss)(A), np.zeros((1, 1, 1, 3)))
    sides = jax.grad(lambda a: pixel.l1(prediction=a, target=B).sum())(A)
    np.testing.assert_array_equal(sides[0, 0, 0], [-1.0, 0.0, 1.0])
