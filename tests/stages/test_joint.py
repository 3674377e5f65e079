import numpy as np
import pytest

from tests import tiny


def settings_for(**changes):
    """The joint config with only the mask loss on the enhanced image, and what is changed."""
    config = tiny.config("joint")
    config.loss.adversarial.weight = 0.0
    config.loss.features.weight = 0.0
    config.loss.update(pixel_weight=0.0, mask_weight=1.0, real_mask_weight=0.0)
    config.update_from_flattened_dict(changes)
    return config


def test_the_mask_loss_alone_reaches_the_generator():
    stage, state, batch = tiny.built("joint", settings_for())
    after, (metrics,) = tiny.stepped(stage, state, batch, 1)
    assert metrics["loss"] == pytest.approx(metrics["loss_mask"])
    assert metrics["gradient_norm_generator"] > 1e-6
    assert not tiny.same(after.params["generator"], state.params["generator"])
    assert not tiny.same(after.params["segmenter"], state.params["segmenter"])


def test_the_real_mask_loss_does_not_reach_the_generator():
    changes = {"loss.mask_weight": 0.0, "loss.real_mask_weight": 1.0}
    stage, state, batch = tiny.built("joint", settings_for(**changes))
    _, (metrics,) = tiny.stepped(stage, state, batch, 1)
    assert metrics["gradient_norm_generator"] == 0
    assert metrics["gradient_norm_segmenter"] > 0
    assert metrics["loss"] == pytest.approx(metrics["loss_mask_real"])


@pytest.mark.parametrize(
    ("frozen", "free"), [("generator", "segmenter"), ("segmenter", "generator")]
)
def test_a_network_that_never_learns_stands_still(frozen, free):
    stage, state, batch = tiny.built("joint", settings_for(**{f"learn_from_step.{frozen}": -1}))
    assert frozen not in state.opt_state
    assert stage.phases() == ((0, f"{free} learns"),)
    after, history = tiny.stepped(stage, state, batch, 3)
    assert tiny.same(after.params[frozen], state.params[frozen])
    assert tiny.same(after.statistics[frozen], state.statistics[frozen])
    assert tiny.same(after.ema[frozen], state.ema[frozen])
    assert not tiny.same(after.params[free], state.params[free])
    assert f"gradient_norm_{frozen}" not in history[0]


def test_a_discriminator_that_never_learns_still_judges():
    config = settings_for(**{"learn_from_step.discriminator": -1, "loss.adversarial.weight": 0.1})
    stage, state, batch = tiny.built("joint", config)
    after, history = tiny.stepped(stage, state, batch, 1)
    assert tiny.same(after.params["discriminator"], state.params["discriminator"])
    assert history[0]["loss_adversarial"] > 0
    assert "loss_discriminator" not in history[0]


def test_a_network_may_join_later():
    stage, state, batch = tiny.built("joint", settings_for(**{"learn_from_step.segmenter": 2}))
    assert stage.phases() == ((0, "generator learns"), (2, "generator and segmenter learn"))
    early, _ = tiny.stepped(stage, state, batch, 2)
    assert tiny.same(early.params["segmenter"], state.params["segmenter"])
    later, _ = tiny.stepped(stage, early, batch, 1)
    assert not tiny.same(later.params["segmenter"], state.params["segmenter"])


def test_the_loss_goes_down_on_a_fixed_batch():
    config = settings_for(**{"loss.pixel_weight": 1.0, "steps": 100})
    for group in ("optimizer", "segmenter_optimizer"):
        config[group].update(learning_rate=1e-2, schedule="constant")
    stage, state, batch = tiny.built("joint", config)
    _, history = tiny.stepped(stage, state, batch, 25)
    assert history[-1]["loss"] < 0.8 * history[0]["loss"]


def test_the_whole_loss_is_its_weighted_terms():
    config = tiny.config("joint")
    stage, state, batch = tiny.built("joint", config)
    after, (metrics,) = tiny.stepped(stage, state, batch, 1)
    loss = config.loss
    expected = (
        loss.pixel_weight * metrics["loss_pixel"]
        + loss.features.weight * metrics["loss_feature"]
        + metrics["loss_adversarial"]
        + loss.mask_weight * metrics["loss_mask"]
        + loss.real_mask_weight * metrics["loss_mask_real"]
    )
    assert metrics["loss"] == pytest.approx(expected, rel=1e-5)
    for network in ("generator", "segmenter", "discriminator"):
        assert not tiny.same(after.params[network], state.params[network])
    assert int(after.skipped) == 0


def test_both_outputs_are_made_and_scored():
    stage, state, batch = tiny.built("joint", settings_for())
    outputs = {name: np.asarray(v) for name, v in stage.eval_step(state, batch).items()}
    assert outputs["sr"].shape == (4, 16, 16, 3)
    assert outputs["mask"].shape == (4, 16, 16, 1)
    sums = stage.evaluate(outputs, {**batch, "weight": np.ones(4, np.float32)})
    scores = {"psnr_rgb", "ssim_rgb", "power_spectrum_excess", "dice_pooled", "iou_pooled"}
    assert set(sums) == scores
    assert stage.best[0] in sums
    # The mask is that of the quantised enhanced image, which is what a user gets to see.
    again = stage.segment(state, outputs["sr"])
    np.testing.assert_allclose(outputs["mask"], again, atol=1e-6)
