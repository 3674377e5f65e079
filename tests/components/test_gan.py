import jax
import jax.numpy as jnp
import numpy as np
import pytest

from histojax.components import gan
from histojax.errors import UserError
from histojax.losses import adversarial
from tests import tiny


@pytest.fixture(scope="module")
def pair():
    """(a state with a discriminator, real, fake)."""
    _, state, _ = tiny.built("srgan")
    rng = np.random.default_rng(1)
    real, fake = (jnp.asarray(rng.random((2, 16, 16, 3), np.float32)) for _ in range(2))
    return state, real, fake


def judge(kind="bce", weight=0.5, **changes):
    config = tiny.config("srgan")
    config.loss.adversarial.update(kind=kind, weight=weight)
    config.loss.adversarial.update_from_flattened_dict(changes)
    return gan.build_critic(config)


def penalised(every, **changes):
    """(gradients, metrics) by (state, real, fake), with R1 of weight 3 at every so many steps."""
    changes = {"penalty.kind": "r1", "penalty.weight": 3.0, "penalty.every": every, **changes}
    made = judge(**changes)

    def gradients(state, real, fake):
        found = made.gradients(state, real, fake, axis_name=None)
        return found[0], found[2]

    return jax.jit(gradients)


@pytest.mark.parametrize("kind", sorted(adversarial.KINDS))
def test_a_step_down_tells_real_from_fake_better(kind, pair):
    state, real, fake = pair
    made = judge(kind)

    @jax.jit
    def gradients(params):
        moved = state.replace(params={**state.params, "discriminator": params})
        return made.gradients(moved, real, fake, axis_name=None)

    start = state.params["discriminator"]
    grads, stats, before = gradients(start)
    _, _, after = gradients(jax.tree.map(lambda p, g: p - 0.02 * g, start, grads))
    assert after["loss_discriminator"] < before["loss_discriminator"]
    assert 0 <= before["real_above_fake"] <= 1
    assert jax.tree.structure(stats) == jax.tree.structure(state.statistics["discriminator"])


@pytest.mark.parametrize("kind", sorted(adversarial.KINDS))
def test_the_generator_s_loss_is_weighted_and_reaches_the_image(kind, pair):
    state, real, fake = pair

    def loss(image, weight):
        made = judge(kind, weight)
        return made.loss(state, real, image, axis_name=None)

    value, gradient = jax.jit(jax.value_and_grad(loss), static_argnums=1)(fake, 0.5)
    twice = jax.jit(loss, static_argnums=1)(fake, 1.0)
    assert float(twice) == pytest.approx(2 * float(value), rel=1e-5)
    assert float(jnp.abs(gradient).max()) > 0


def test_no_weight_is_no_critic_and_an_unknown_form_is_named():
    assert judge(weight=0.0) is None
    with pytest.raises(UserError, match=r"loss\.adversarial\.kind='minimax' is not known"):
        judge("minimax")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (
            "discriminator_warmup",
            -1,
            r"loss\.adversarial\.discriminator_warmup=-1 has to be the step .* 0 or more",
        ),
        ("penalty.kind", "r2", r"loss\.adversarial\.penalty\.kind='r2' is not known; .*none.*r1"),
        (
            "penalty.weight",
            -1.0,
            r"loss\.adversarial\.penalty\.weight=-1\.0 has to be a number of 0 or",
        ),
        ("penalty.every", 0, r"loss\.adversarial\.penalty\.every=0 has to be a number of steps"),
    ],
)
def test_a_value_that_cannot_be_used_is_named(field, value, message):
    with pytest.raises(UserError, match=message):
        judge(**{"penalty.kind": "r1", field: value})


def test_real_and_fake_are_judged_by_one_discriminator(pair):
    # Were the kernels of the second judged divided by another power iteration's number, an image
    # would differ from itself.
    state, real, _ = pair
    made = judge("relativistic_pairwise")
    _, stats, metrics = made.gradients(state, real, real, axis_name=None)
    assert float(metrics["loss_discriminator"]) == pytest.approx(np.log(2), rel=1e-6)
    assert metrics["real_above_fake"] == 0
    assert not tiny.same(stats["spectral"], state.statistics["discriminator"]["spectral"])


def test_a_penalty_is_added_and_grows_with_its_weight(pair):
    state, real, fake = pair
    plain, metrics = penalised(1, **{"penalty.weight": 0.0})(state, real, fake)
    assert metrics["loss_discriminator_penalty"] == 0
    grads, once = penalised(1)(state, real, fake)
    more, twice = penalised(1, **{"penalty.weight": 6.0})(state, real, fake)
    assert once["loss_discriminator"] == pytest.approx(float(metrics["loss_discriminator"]))
    assert once["loss_discriminator_penalty"] > 0
    assert twice["loss_discriminator_penalty"] == pytest.approx(
        2 * float(once["loss_discriminator_penalty"]), rel=1e-5
    )
    for p, g, m in zip(*map(jax.tree.leaves, (plain, grads, more)), strict=True):
        np.testing.assert_allclose(m - p, 2 * (g - p), rtol=1e-3, atol=1e-7)


def test_a_lazy_penalty_has_the_same_mean_gradient(pair):
    state, real, fake = pair
    always, _ = penalised(1)(state, real, fake)
    lazily = penalised(4)
    found = [
        lazily(state.replace(step=jnp.asarray(step, jnp.int32)), real, fake) for step in range(4)
    ]
    assert [float(m["loss_discriminator_penalty"]) > 0 for _, m in found] == [1, 0, 0, 0]
    mean = jax.tree.map(lambda *leaves: sum(leaves) / 4, *(grads for grads, _ in found))
    for a, b in zip(jax.tree.leaves(mean), jax.tree.leaves(always), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7)


def test_a_penalty_makes_the_discriminator_less_steep(pair):
    state, real, fake = pair
    gradients = penalised(1, **{"penalty.weight": 1e4})
    grads, before = gradients(state, real, fake)
    params = jax.tree.map(lambda p, g: p - 1e-5 * g, state.params["discriminator"], grads)
    moved = state.replace(params={**state.params, "discriminator": params})
    _, after = gradients(moved, real, fake)
    assert after["loss_discriminator_penalty"] < 0.99 * before["loss_discriminator_penalty"]


def test_the_generator_has_no_adversarial_term_during_warmup(pair):
    state, real, fake = pair
    made = judge(discriminator_warmup=3)

    @jax.jit
    def pull(step):
        now = state.replace(step=step)
        return jax.grad(lambda image: made.loss(now, real, image, axis_name=None))(fake)

    assert not np.any(pull(jnp.asarray(2, jnp.int32)))
    assert np.any(pull(jnp.asarray(3, jnp.int32)))


def test_adversarial_from_is_when_both_learn_and_warmup_is_over():
    made = judge(discriminator_warmup=3)
    assert made.adversarial_from({"generator": 0, "discriminator": 0}) == 3
    assert made.adversarial_from({"generator": 7, "discriminator": 0}) == 7
    assert made.adversarial_from({"generator": 0, "discriminator": 9}) == 9
    assert made.adversarial_from({"generator": 0}) is None


def test_the_variance_is_that_inside_an_image(pair):
    state, _, _ = pair
    made = judge()
    # Halves of 0 and 1 have variance 1/4; what images have among them does not count.
    real = jnp.zeros((2, 16, 16, 3)).at[:, :8].set(1.0) + jnp.asarray([0.0, 5.0]).reshape(
        2, 1, 1, 1
    )
    _, _, metrics = made.gradients(state, real, real / 2, axis_name=None)
    assert float(metrics["variance_real"]) == pytest.approx(0.25, rel=1e-5)
    assert float(metrics["variance_enhanced"]) == pytest.approx(0.0625, rel=1e-5)
