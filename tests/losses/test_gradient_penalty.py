import jax
import jax.numpy as jnp
import numpy as np
import pytest

from histojax.losses import gradient_penalty

RNG = np.random.default_rng(4)
REAL, FAKE = (jnp.asarray(RNG.random((3, 4, 4, 3), np.float32)) for _ in range(2))
MIX = jnp.asarray([0.0, 0.3, 1.0]).reshape(3, 1, 1, 1)


def linear(w):
    """One logit an image, whose gradient by the image is w everywhere."""
    return lambda x: jnp.einsum("bhwc,hwc->b", x, w).reshape(-1, 1, 1, 1)


def weights(norm):
    w = RNG.standard_normal((4, 4, 3))
    return jnp.asarray(norm * w / np.linalg.norm(w), jnp.float32)


def penalty(kind, judge):
    return gradient_penalty.KINDS[kind](judge=judge, real=REAL, fake=FAKE, mix=MIX)


@pytest.mark.parametrize(
    ("kind", "norm", "expected"),
    [("r1", 3, 4.5), ("one_centered", 1, 0), ("one_centered", 3, 4), ("zero_centered", 3, 9)],
)
def test_a_linear_judge_has_the_slope_of_its_weights(kind, norm, expected):
    np.testing.assert_allclose(penalty(kind, linear(weights(norm))), [expected] * 3, atol=1e-5)


def test_the_gradient_of_r1_of_a_linear_judge_is_its_weights():
    w = weights(2)
    got = jax.grad(lambda w: penalty("r1", linear(w)).mean())(w)
    np.testing.assert_allclose(got, w, atol=1e-5)


def test_slopes_are_at_real_images_or_between_real_and_fake():
    def square(x):  # gradient 2 x
        return jnp.sum(x**2, (1, 2, 3)).reshape(-1, 1, 1, 1)

    norms = [np.linalg.norm(image) for image in (FAKE[0], 0.3 * REAL[1] + 0.7 * FAKE[1], REAL[2])]
    np.testing.assert_allclose(penalty("zero_centered", square), 4 * np.square(norms), rtol=1e-5)
    ours = [np.sum(np.square(image)) for image in REAL]
    np.testing.assert_allclose(penalty("r1", square), 2 * np.asarray(ours), rtol=1e-5)


def test_patches_without_overlap_count_as_images():
    w = jnp.asarray(RNG.standard_normal((2, 2, 3)), jnp.float32)

    def patches(x):  # the same linear judge on each of four 2 x 2 patches
        return jnp.einsum("byixjc,ijc->byx", x.reshape(-1, 2, 2, 2, 2, 3), w)[..., None]

    assert patches(REAL).shape == (3, 2, 2, 1)
    np.testing.assert_allclose(
        gradient_penalty.slope(patches, REAL), [np.linalg.norm(w)] * 3, rtol=1e-5
    )


@pytest.mark.parametrize("kind", sorted(gradient_penalty.KINDS))
def test_a_judge_without_a_slope_has_a_finite_gradient(kind):
    gradient = jax.grad(lambda w: penalty(kind, linear(w)).mean())(jnp.zeros((4, 4, 3)))
    np.testing.assert_array_equal(gradient, np.zeros((4, 4, 3)))
