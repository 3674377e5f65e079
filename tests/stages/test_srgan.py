import jax
import numpy as np
import pytest

from histojax.errors import UserError
from histojax.losses import adversarial
from histojax.runs import workdirs
from histojax.stages import build_stage
from tests import tiny


@pytest.mark.parametrize("kind", sorted(adversarial.KINDS))
def test_every_adversarial_form_takes_finite_steps(kind):
    config = tiny.config("srgan")
    config.loss.adversarial.kind = kind
    stage, state, batch = tiny.built("srgan", config)
    after, history = tiny.stepped(stage, state, batch, 3)
    assert int(after.skipped) == 0
    for metrics in history:
        assert all(np.isfinite(value) for value in metrics.values())
        assert metrics["gradient_norm_generator"] > 0
        assert metrics["gradient_norm_discriminator"] > 0
    for network in ("generator", "discriminator"):
        assert not tiny.same(after.params[network], state.params[network])
    assert tiny.same(after.frozen, state.frozen)


def test_the_loss_goes_down_on_a_fixed_batch():
    config = tiny.config("srgan", steps=100)
    config.loss.adversarial.weight = 0.0
    config.optimizer.update(learning_rate=1e-2, schedule="constant")
    stage, state, batch = tiny.built("srgan", config)
    assert list(stage.networks) == ["generator"]
    assert stage.phases() == ((0, "generator learns without a discriminator"),)
    _, history = tiny.stepped(stage, state, batch, 25)
    assert history[-1]["loss"] < 0.8 * history[0]["loss"]
    assert history[-1]["loss_feature"] < history[0]["loss_feature"]


def test_the_baseline_s_networks_learn_together():
    config = tiny.config("srgan_srresnet", steps=100)
    config.optimizer.update(learning_rate=1e-2, schedule="constant")
    stage, state, batch = tiny.built("srgan_srresnet", config)
    assert [type(m).__name__ for m in stage.networks.values()] == [
        "SRResNet",
        "ScalarDiscriminator",
    ]
    after, history = tiny.stepped(stage, state, batch, 25)
    assert int(after.skipped) == 0
    assert history[-1]["loss_pixel"] < 0.8 * history[0]["loss_pixel"]
    for network in stage.networks:
        for collection in ("params", "batch_stats"):
            old, new = (s.variables(network)[collection] for s in (state, after))
            assert not tiny.same(old, new)


def test_the_2021_discriminator_has_no_gradient_of_one_image():
    config = tiny.config("srgan_srresnet")
    # A crop of 16 px is one pixel after four halvings, as 256 px are after eight.
    config.discriminator.update(
        widths=(4, 4, 4, 4), halving="every", order="activation_first", norm="keras_batch"
    )
    config.loss.pixel_weight = 0.0
    config.loss.features.weight = 0.0
    config.loss.adversarial.update(kind="brier", weight=1e-3)
    stage, state, batch = tiny.built("srgan_srresnet", config)
    for count, moved in ((1, False), (2, True)):
        some = {name: array[:count] for name, array in batch.items()}
        _, (metrics,) = tiny.stepped(stage, state, some, 1)
        assert (metrics["gradient_norm_generator"] > 0) == moved


def test_the_feature_term_moves_the_generator():
    config = tiny.config("srgan")
    config.loss.pixel_weight = 0.0
    config.loss.features.weight = 0.05
    config.loss.adversarial.weight = 0.0
    stage, state, batch = tiny.built("srgan", config)
    _, (metrics,) = tiny.stepped(stage, state, batch, 1)
    assert metrics["loss_feature"] > 0
    assert metrics["loss"] == pytest.approx(0.05 * metrics["loss_feature"], rel=1e-5)
    assert metrics["gradient_norm_generator"] > 0


def test_the_discriminator_may_learn_alone_at_first():
    config = tiny.config("srgan")
    config.learn_from_step.generator = 2
    stage, state, batch = tiny.built("srgan", config)
    assert stage.phases() == ((0, "discriminator learns"), (2, "generator and discriminator learn"))
    early, _ = tiny.stepped(stage, state, batch, 2)
    assert tiny.same(early.params["generator"], state.params["generator"])
    assert tiny.same(early.ema["generator"], state.ema["generator"])
    assert not tiny.same(early.params["discriminator"], state.params["discriminator"])
    later, _ = tiny.stepped(stage, early, batch, 1)
    assert not tiny.same(later.params["generator"], state.params["generator"])


def test_a_discriminator_warms_up_without_adversarial_term():
    config = tiny.config("srgan")
    config.loss.features.weight = 0.0
    config.loss.adversarial.discriminator_warmup = 2
    stage, state, batch = tiny.built("srgan", config)
    assert [step for step, _ in stage.phases()] == [0, 2]
    early, history = tiny.stepped(stage, state, batch, 2)
    assert not tiny.same(early.params["discriminator"], state.params["discriminator"])
    # The generator is where the pixel term alone would have brought it.
    config.loss.adversarial.weight = 0.0
    without, _ = tiny.stepped(*tiny.built("srgan", config), 2)
    for a, b in zip(
        *(jax.tree.leaves(s.params["generator"]) for s in (early, without)), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    assert [metrics["loss_adversarial"] for metrics in history] == [0, 0]
    _, (metrics,) = tiny.stepped(stage, early, batch, 1)
    assert metrics["loss_adversarial"] > 0


def test_the_two_networks_have_learning_rates_of_their_own():
    def moved(rate):
        config = tiny.config("srgan")
        config.discriminator_optimizer.update(learning_rate=rate, warmup_steps=0)
        stage, state, batch = tiny.built("srgan", config)
        after, _ = tiny.stepped(stage, state, batch, 1)
        return jax.tree.map(lambda new, old: new - old, after.params, state.params)

    one, two = moved(1e-3), moved(2e-3)
    assert tiny.same(one["generator"], two["generator"])
    for a, b in zip(*(jax.tree.leaves(d["discriminator"]) for d in (one, two)), strict=True):
        np.testing.assert_allclose(b, 2 * a, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("frozen", "free"), [("generator", "discriminator"), ("discriminator", "generator")]
)
def test_a_network_that_never_learns_stands_still(frozen, free):
    config = tiny.config("srgan")
    config.learn_from_step[frozen] = -1
    stage, state, batch = tiny.built("srgan", config)
    assert stage.phases() == ((0, f"{free} learns"),)
    after, history = tiny.stepped(stage, state, batch, 2)
    assert tiny.same(after.params[frozen], state.params[frozen])
    assert not tiny.same(after.params[free], state.params[free])
    assert f"gradient_norm_{frozen}" not in history[0]


@pytest.mark.faults
def test_a_nan_in_a_batch_skips_the_step_of_both_networks():
    stage, state, batch = tiny.built("srgan")
    images = {field: array.astype(np.float32) / 255 for field, array in batch.items()}
    spoilt = images["hr"].copy()
    spoilt[0, 0, 0, 0] = np.nan
    step = jax.jit(stage.train_step)
    skipped, metrics = step(state, {**images, "hr": spoilt})
    assert (int(skipped.step), int(skipped.skipped)) == (1, 1)
    assert metrics["skipped_in_a_row"] == 1
    for part in ("params", "statistics", "opt_state", "ema"):
        assert tiny.same(getattr(skipped, part), getattr(state, part)), part
    taken, metrics = step(skipped, images)
    assert (int(taken.skipped), int(metrics["skipped_in_a_row"])) == (1, 0)
    for network in stage.networks:
        assert not tiny.same(taken.params[network], state.params[network]), network


def test_it_starts_from_the_variables_given():
    _, state, _ = tiny.built("generator")
    start = jax.tree.map(lambda x: x + 1, state.variables("generator"))
    config = tiny.config("srgan")
    config.loss.features.weight = 0.0
    begun = workdirs.fresh_state(build_stage(config, {"generator": start}), config)
    assert tiny.same(begun.params["generator"], start["params"])
    assert tiny.same(begun.ema["generator"], start)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("loss.adversarial.kind", "minimax", "loss.adversarial.kind='minimax' is not known"),
        ("learn_from_step.generator", -2, r"learn_from_step\.generator=-2 has to be -1"),
        ("loss.features.network", "segmenter", r"needs init_from\.segmenter"),
        ("discriminator_optimizer.clip_norm", -1.0, r"discriminator_optimizer\.clip_norm=-1"),
    ],
)
def test_a_value_that_cannot_be_used_is_named(field, value, message):
    config = tiny.config("srgan")
    config.update_from_flattened_dict({field: value})
    if field != "loss.features.network":
        config.loss.features.weight = 0.0
    with pytest.raises(UserError, match=message):
        build_stage(config, {})
