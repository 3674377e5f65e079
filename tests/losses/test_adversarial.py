import jax
import jax.numpy as jnp
import numpy as np
import pytest

from histojax.losses import adversarial

ZERO = jnp.zeros((2, 3, 3, 1))


def test_bce_of_an_undecided_judge_is_two_log_two():
    loss = adversarial.bce_discriminator(real=ZERO, fake=ZERO)
    np.testing.assert_allclose(loss, 2 * np.log(2), rtol=1e-6)
    np.testing.assert_allclose(
        adversarial.bce_generator(real=ZERO, fake=ZERO), np.log(2), rtol=1e-6
    )


def test_bce_survives_extreme_logits():
    loss = adversarial.bce_discriminator(real=ZERO + 1e4, fake=ZERO + 1e4)
    np.testing.assert_allclose(loss, 1e4)


def test_lsgan_is_zero_where_each_judgement_is_at_its_aim():
    loss = adversarial.lsgan_discriminator(real=ZERO + 1, fake=ZERO)
    np.testing.assert_array_equal(loss, np.zeros(loss.shape))
    np.testing.assert_allclose(adversarial.lsgan_generator(real=ZERO, fake=ZERO), 0.5)


def test_brier_is_bounded_and_zero_for_a_sure_right_judge():
    undecided = adversarial.brier_discriminator(real=ZERO, fake=ZERO)
    np.testing.assert_allclose(undecided, 0.5 * (0.25 + 0.25), rtol=1e-6)
    right = adversarial.brier_discriminator(real=ZERO + 50, fake=ZERO - 50)
    np.testing.assert_allclose(right, 0, atol=1e-6)
    wrong = adversarial.brier_discriminator(real=ZERO - 50, fake=ZERO + 50)
    np.testing.assert_allclose(wrong, 1, rtol=1e-6)


def test_hinge_stops_at_the_margin():
    judged = adversarial.hinge_discriminator(real=ZERO + 3, fake=ZERO - 3)
    np.testing.assert_array_equal(judged, np.zeros(judged.shape))
    np.testing.assert_allclose(adversarial.hinge_discriminator(real=ZERO, fake=ZERO), 2.0)
    np.testing.assert_allclose(adversarial.hinge_generator(real=ZERO, fake=ZERO + 2), -2.0)


def test_relativistic_judges_against_the_mean_of_the_other_kind():
    real = jnp.asarray([1.0, 3.0]).reshape(2, 1, 1, 1)
    fake = jnp.asarray([-1.0, 1.0]).reshape(2, 1, 1, 1)
    loss = adversarial.relativistic_discriminator(real=real, fake=fake)
    # real - mean(fake) = 1, 3; fake - mean(real) = -3, -1
    expected = [np.log1p(np.exp(-1)) + np.log1p(np.exp(-3))] * 2
    np.testing.assert_allclose(loss.ravel(), expected, rtol=1e-6)
    swapped = adversarial.KINDS["relativistic"][1](real=fake, fake=real)
    np.testing.assert_allclose(swapped, loss, rtol=1e-6)


def test_the_pairwise_loss_compares_each_patch_with_its_own():
    real = jnp.asarray([1.0, 3.0]).reshape(2, 1, 1, 1)
    fake = jnp.asarray([-1.0, 4.0]).reshape(2, 1, 1, 1)
    loss = adversarial.relativistic_pairwise_discriminator(real=real, fake=fake)
    np.testing.assert_allclose(loss.ravel(), np.log1p(np.exp([-2.0, 1.0])), rtol=1e-6)
    swapped = adversarial.KINDS["relativistic_pairwise"][1](real=fake, fake=real)
    np.testing.assert_allclose(swapped, loss, rtol=1e-6)


@pytest.mark.parametrize("kind", sorted(adversarial.KINDS))
def test_generators_are_pulled_towards_being_called_real(kind):
    _, generator = adversarial.KINDS[kind]
    fake = jnp.full((1, 2, 2, 1), -0.5)
    gradient = jax.grad(lambda f: generator(real=ZERO[:1, :2, :2], fake=f).mean())(fake)
    assert np.all(np.asarray(gradient) < 0)
