import jax.numpy as jnp
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
