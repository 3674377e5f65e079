import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from configs import base
from histojax.components import optimizers
from histojax.errors import UserError


def schedule(steps=110, **changes):
    return optimizers.learning_rate(
        base.optimizer(1.0, warmup_steps=10, end_factor=0.1, **changes), steps, "optimizer"
    )


@pytest.mark.parametrize(
    ("kind", "middle", "end"),
    # Halfway, cosine decay is at the mean of start and end, and so is the line.
    [("constant", 1.0, 1.0), ("cosine", 0.55, 0.1), ("linear", 0.55, 0.1)],
)
def test_the_learning_rate_warms_up_and_decays(kind, middle, end):
    rate = schedule(schedule=kind)
    assert [float(rate(step)) for step in (0, 5, 10)] == pytest.approx([0, 0.5, 1])
    assert float(rate(60)) == pytest.approx(middle)
    assert float(rate(110)) == pytest.approx(end)


def test_a_warm_up_as_long_as_the_run_is_refused():
    with pytest.raises(UserError, match=r"optimizer\.warmup_steps=10 has to be at least 0 and"):
        schedule(steps=10)
    with pytest.raises(UserError, match=r"optimizer\.schedule='step' is not known; choose one of"):
        schedule(schedule="step")


def test_a_schedule_of_drops_multiplies_at_its_steps():
    rate = schedule(schedule="drops", drop_at=(30, 60), drop_factor=0.1)
    found = [float(rate(step)) for step in (0, 10, 29, 31, 59, 61, 109)]
    assert found == pytest.approx([0, 1, 1, 0.1, 0.1, 0.01, 0.01])


@pytest.mark.parametrize("drops", [(), (60, 30), (5, 30), (30, 30)])
def test_drops_that_make_no_sense_are_refused(drops):
    with pytest.raises(UserError, match=r"optimizer\.drop_at=.* steps in rising order"):
        schedule(schedule="drops", drop_at=drops)


def test_weight_decay_spares_biases_and_scales():
    group = base.optimizer(0.1, warmup_steps=0, schedule="constant", weight_decay=0.5)
    tx = optimizers.optimizer(group, 10, "optimizer")
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    zero = {"kernel": jnp.zeros((2, 2)), "bias": jnp.zeros(2)}
    updates, _ = tx.update(zero, tx.init(params), params)
    assert float(updates["kernel"][0, 0]) == pytest.approx(-0.1 * 0.5)
    assert float(updates["bias"][0]) == 0


def test_the_mean_gradient_of_several_steps_makes_one_update():
    fields = {"warmup_steps": 4, "weight_decay": 0.5, "clip_norm": 0.5}
    three = optimizers.optimizer(base.optimizer(0.1, accumulate=3, **fields), 12, "optimizer")
    # Rates by update are those of steps 0, 3, 6 and 9.
    rates = optimizers.learning_rate(base.optimizer(0.1, **fields), 12, "optimizer")
    params = other = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    state, moments = three.init(params), None
    for update in range(4):
        factors = np.array([1.0, 5.0, -2.0]) + update
        grads = [jax.tree.map(lambda p, k=k: p * k, params) for k in factors]
        for count, grad in enumerate(grads):
            updates, state = three.update(grad, state, params)
            assert (float(updates["bias"][0]) != 0) == (count == 2 and update > 0)
            params = optax.apply_updates(params, updates)
        # One update from the mean, at the rate of the first of the three steps.
        alone = base.optimizer(float(rates(3 * update)), schedule="constant", **fields)
        alone.warmup_steps = 0
        one = optimizers.optimizer(alone, 12, "optimizer")
        mean = jax.tree.map(lambda *g: sum(g) / 3, *grads)
        updates, moments = one.update(mean, moments or one.init(other), other)
        other = optax.apply_updates(other, updates)
        for name, value in params.items():
            np.testing.assert_allclose(value, other[name], rtol=1e-6)


@pytest.mark.parametrize("value", [0, 1.5])
def test_a_number_of_steps_that_is_none_is_refused(value):
    group = base.optimizer(0.1)
    with group.ignore_type():
        group.accumulate = value
    with pytest.raises(UserError, match=r"optimizer\.accumulate=.* has to be a number of steps"):
        optimizers.optimizer(group, 1000, "optimizer")


@pytest.mark.parametrize("field", ["learning_rate", "weight_decay", "clip_norm"])
def test_a_negative_value_is_refused(field):
    group = base.optimizer(0.1)
    group[field] = -1.0
    with pytest.raises(
        UserError, match=rf"optimizer\.{field}=-1\.0 has to be a number of 0 or more"
    ):
        optimizers.optimizer(group, 1000, "optimizer")


def test_phases_say_which_networks_learn_from_where():
    steps = optimizers.learning_steps(ConfigDict({"a": 5, "b": 0, "c": -1}))
    assert steps == {"a": 5, "b": 0}
    assert optimizers.phases(steps, dict.fromkeys("abc")) == ((0, "b learns"), (5, "a and b learn"))
    assert optimizers.phases({"a": 3}, dict.fromkeys("a")) == (
        (0, "nothing learns"),
        (3, "a learns"),
    )
    both = {"generator": 0, "discriminator": 0}
    assert optimizers.phases(both, both, adversarial=5) == (
        (0, "generator and discriminator learn, the generator without the adversarial term"),
        (5, "generator and discriminator learn"),
    )
    with pytest.raises(UserError, match=r"learn_from_step\.a=-2 has to be -1"):
        optimizers.learning_steps(ConfigDict({"a": -2}))
