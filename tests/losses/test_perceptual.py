import jax
import jax.numpy as jnp
import numpy as np

from histojax.losses import perceptual


def maps(scale):
    return {"a": jnp.full((2, 4, 4, 3), scale), "b": jnp.full((2, 2, 2, 5), 2 * scale)}


def test_distance_is_relative_to_the_target_and_weighted():
    # |1.5 - 1| / 1 = .5 in each layer, whatever its magnitude
    loss = perceptual.feature_loss(
        prediction=maps(1.5), target=maps(1.0), weights={"a": 1.0, "b": 3.0}
    )
    np.testing.assert_allclose(loss, [2.0, 2.0], rtol=1e-6)


def test_mse_form_divides_by_the_mean_square():
    loss = perceptual.feature_loss(
        prediction=maps(3.0), target=maps(2.0), weights={"a": 1.0}, kind="mse"
    )
    np.testing.assert_allclose(loss, [0.25, 0.25], rtol=1e-6)


def test_raw_mse_is_the_mean_square_itself():
    loss = perceptual.feature_loss(
        prediction=maps(3.0), target=maps(1.0), weights={"a": 1.0, "b": 0.5}, kind="raw_mse"
    )
    # Differences of 2 and of 4.
    np.testing.assert_allclose(loss, [4.0 + 0.5 * 16.0] * 2, rtol=1e-6)


def test_images_are_kept_apart():
    target = maps(1.0)
    prediction = {k: v.at[1].add(1.0) for k, v in target.items()}
    loss = perceptual.feature_loss(prediction=prediction, target=target, weights={"a": 1.0})
    np.testing.assert_allclose(loss, [0.0, 1.0], rtol=1e-6)


def test_no_gradient_reaches_the_target():
    def loss(target):
        return perceptual.feature_loss(
            prediction=maps(2.0), target=target, weights={"a": 1.0}
        ).sum()

    gradient = jax.grad(loss)(maps(1.0))
    assert all(np.all(np.asarray(g) == 0) for g in gradient.values())
