import numpy as np
import pytest

from histojax.errors import UserError
from histojax.stages import build_stage
from tests import tiny


@pytest.mark.parametrize("kind", ["l1", "mse", "charbonnier"])
def test_the_loss_goes_down_on_a_fixed_batch(kind):
    config = tiny.config("generator", steps=100)
    config.loss.pixel = kind
    config.optimizer.update(learning_rate=1e-2, schedule="constant")
    stage, state, batch = tiny.built("generator", config)
    state, history = tiny.stepped(stage, state, batch, 25)
    assert history[-1]["loss"] < 0.8 * history[0]["loss"]
    assert history[-1]["psnr"] > history[0]["psnr"]
    assert int(state.step) == 25
    assert int(state.skipped) == 0


def test_enhanced_images_are_scored_against_the_real_ones():
    stage, state, batch = tiny.built("generator")
    outputs = stage.eval_step(state, batch)
    assert outputs["sr"].shape == (4, 16, 16, 3)
    assert outputs["sr"].dtype == np.uint8
    weight = np.asarray([1, 1, 1, 0], np.float32)
    sums = stage.evaluate({"sr": batch["hr"]}, {**batch, "weight": weight})
    assert sums["ssim_rgb"] == (pytest.approx(3), 3)


def test_evaluation_is_by_the_averaged_variables():
    stage, state, batch = tiny.built("generator")
    zeros = {"generator": {k: v for k, v in state.ema["generator"].items()}}
    moved, _ = tiny.stepped(stage, state, batch, 3)
    back = moved.replace(ema=zeros)
    np.testing.assert_array_equal(
        stage.enhance(back, batch["lr"]), stage.enhance(state, batch["lr"])
    )


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("loss.pixel", "l3", r"loss\.pixel='l3' is not known; choose one of l1, mse, charbonnier"),
        ("optimizer.schedule", "step", r"optimizer\.schedule='step' is not known"),
        ("precision", "half", "precision='half' is not known"),
        ("stage", "diffusion", "stage='diffusion' is not known; choose one of generator"),
    ],
)
def test_a_value_that_cannot_be_used_is_named(field, value, message):
    config = tiny.config("generator")
    config.update_from_flattened_dict({field: value})
    with pytest.raises(UserError, match=message):
        build_stage(config, {})
