import jax
import jax.numpy as jnp
import numpy as np
import pytest

from histojax.errors import UserError
from histojax.losses import adversarial
from histojax.stages import critic
from tests import tiny


@pytest.fixture(scope="module")
def pair():
    """(a state with a discriminator, real, fake)."""
    _, state, _ = tiny.built("srgan")
    rng = np.random.default_rng(1)
    real, fake = (jnp.asarray(rng.random((2, 16, 16, 3), np.float32)) for _ in range(2))
    return state, real, fake


def judge(form="bce", weight=0.5):
    settings = tiny.config("srgan")
    settings.loss.adversarial.update(form=form, weight=weight)
    return critic.build_critic(settings, dtype=jnp.float32)


@pytest.mark.parametrize("form", sorted(adversarial.FORMS))
def test_a_step_against_the_gradient_tells_real_from_fake_better(form, pair):
    state, real, fake = pair
    made, key = judge(form), jax.random.key(0)

    @jax.jit
    def gradients(params):
        moved = state.replace(params={**state.params, "discriminator": params})
        return made.gradients(moved, real, fake, key=key, axis_name=None)

    start = state.params["discriminator"]
    grads, stats, before = gradients(start)
    _, _, after = gradients(jax.tree.map(lambda p, g: p - 0.02 * g, start, grads))
    assert after["loss_discriminator"] < before["loss_discriminator"]
    assert 0 <= before["real_above_fake"] <= 1
    assert jax.tree.structure(stats) == jax.tree.structure(state.statistics["discriminator"])


@pytest.mark.parametrize("form", sorted(adversarial.FORMS))
def test_the_generator_s_loss_is_weighted_and_reaches_the_image(form, pair):
    state, real, fake = pair

    def loss(image, weight):
        made = judge(form, weight)
        return made.loss(state, real, image, key=jax.random.key(0), axis_name=None)

    value, gradient = jax.jit(jax.value_and_grad(loss), static_argnums=1)(fake, 0.5)
    twice = jax.jit(loss, static_argnums=1)(fake, 1.0)
    assert float(twice) == pytest.approx(2 * float(value), rel=1e-5)
    assert float(jnp.abs(gradient).max()) > 0


def test_no_weight_is_no_critic_and_an_unknown_form_is_named():
    assert judge(weight=0.0) is None
    with pytest.raises(UserError, match=r"loss\.adversarial\.form='minimax' is not known"):
        judge("minimax")
