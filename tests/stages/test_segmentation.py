import numpy as np
import pytest

from histojax.errors import UserError
from histojax.stages import build_stage, segmentation
from tests import tiny


@pytest.mark.parametrize("name", ["segmentation", "unet"])
def test_the_loss_goes_down_on_a_fixed_batch(name):
    settings = tiny.config(name, steps=100)
    settings.optimizer.update(learning_rate=1e-2, schedule="constant")
    stage, state, batch = tiny.built(name, settings)
    _, history = tiny.stepped(stage, state, batch, 20)
    assert history[-1]["loss"] < 0.8 * history[0]["loss"]
    assert history[-1]["accuracy"] > history[0]["accuracy"]


def test_a_probability_is_given_for_every_pixel():
    stage, state, batch = tiny.built("segmentation")
    mask = np.asarray(stage.eval_step(state, batch)["mask"])
    assert mask.shape == (4, 16, 16, 1)
    assert 0 <= mask.min() <= mask.max() <= 1


def test_a_perfect_mask_scores_one_and_padding_counts_for_nothing():
    stage, _, batch = tiny.built("segmentation")
    probability = batch["mask"][..., None].astype(np.float32)
    probability[3] = 1 - probability[3]
    weight = np.asarray([1, 1, 1, 0], np.float32)
    sums = stage.evaluate({"mask": probability}, {**batch, "weight": weight})
    total, count = sums["dice_pooled"]
    assert total == count > 0


def test_mask_loss_is_its_weighted_terms():
    mask = np.asarray([1.0, 1.0, 0.0, 0.0], np.float32).reshape(1, 2, 2, 1)
    logits = np.zeros_like(mask)
    # At probability one half, cross-entropy is log 2 everywhere, whatever the mask.
    assert segmentation.MaskLoss(2.0, 0.0)(logits, mask) == pytest.approx(2 * np.log(2), rel=1e-5)
    # Soft Dice of p = 1/2 with two of four pixels set, smoothed by 1: 1 - (2 + 1) / (2 + 2 + 1).
    assert segmentation.MaskLoss(0.0, 1.0)(logits, mask) == pytest.approx(0.4, rel=1e-5)
    # Half wrong everywhere, whatever the mask.
    alone = segmentation.MaskLoss(0.0, 0.0, mse_weight=2.0)
    assert alone(logits, mask) == pytest.approx(2 * 0.25, rel=1e-5)


@pytest.mark.parametrize("weights", [(0.0, 0.0, 0.0), (-1.0, 2.0, 0.0), (1.0, 0.0, -1.0)])
def test_weights_that_leave_no_loss_are_refused(weights):
    settings = tiny.config("unet")
    settings.loss.bce_weight, settings.loss.dice_weight, settings.loss.mse_weight = weights
    with pytest.raises(UserError, match=r"have to be 0 or more, and one of them above 0"):
        build_stage(settings, {})
