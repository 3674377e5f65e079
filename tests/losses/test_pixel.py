import jax
import jax.numpy as jnp
import numpy as np

from histojax.losses import pixel

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
