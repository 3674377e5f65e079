import numpy as np
import pytest

from histojax import chain, runs
from histojax.errors import UserError
from histojax.stages import build_stage, images, segmentation
from tests import tiny
from tests.models.published_resnet import published_arrays


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


@pytest.mark.parametrize("name", ["segmentation", "unet", "joint"])
def test_each_head_learns_its_own_map(name):
    settings = tiny.config(name)
    settings.segmenter.heads = ("mask", "marker", "contour", "distance")
    if name == "joint":
        settings.loss.features.weight = 0.0
        del settings.init.segmenter  # which has but one
    else:
        settings.optimizer.update(learning_rate=1e-2, schedule="constant")
    stage, state, batch = tiny.built(name, settings)
    assert stage.fields[-4:] == ("mask", "marker", "contour", "distance")
    outputs = stage.eval_step(state, batch)
    for head in settings.segmenter.heads:
        assert outputs[head].shape == (4, 16, 16, 1)
    if name == "joint":
        return
    state, _ = tiny.stepped(stage, state, batch, 60)
    logits = {k: np.asarray(v)[..., 0] for k, v in stage.eval_step(state, batch).items()}
    inside = batch["mask"] > 0
    # The contour's target is the mask's opposite, and the distance's ends at 200 of 255.
    assert logits["mask"][inside].mean() > logits["mask"][~inside].mean() + 0.2
    assert logits["contour"][inside].mean() < logits["contour"][~inside].mean() - 0.2
    assert logits["distance"][inside].mean() < 0.9


def test_a_distance_is_read_in_255ths():
    batch = {"mask": np.asarray([[[0, 3]]]), "distance": np.asarray([[[0, 51]]], np.uint8)}
    maps = images.targets(batch, ("mask", "distance"))
    np.testing.assert_allclose(maps, [[[[0, 0], [1, 0.2]]]], rtol=1e-6)
    parts = images.by_head(maps, ("mask", "distance"))
    np.testing.assert_allclose(parts["distance"], [[[[0], [0.2]]]], rtol=1e-6)


@pytest.mark.faults
@pytest.mark.parametrize(
    "heads", [(), ("marker", "mask"), ("mask", "mask"), ("mask", "border"), ("marker",)]
)
def test_heads_that_cannot_be_used_are_refused(heads):
    settings = tiny.config("segmentation")
    settings.segmenter.heads = heads
    with pytest.raises(UserError, match=r"segmenter.heads=.* has to be 'mask' and then, each once"):
        build_stage(settings, {})


def pretrained_config(tmp_path):
    """A tiny USE-Net whose encoder starts from a file, and that file's arrays."""
    settings = tiny.config("use_net")
    network = settings.segmenter
    network.update(encoder="resnet18", imagenet_input=True)
    arrays = published_arrays("resnet18", network.blocks, network.width)
    np.savez(tmp_path / "resnet18.npz", **arrays)
    settings.pretrained.update(encoder="imagenet", path=str(tmp_path / "resnet18.npz"))
    return settings, arrays


def test_an_encoder_starts_from_pretrained_weights_and_learns_on(tmp_path):
    settings, arrays = pretrained_config(tmp_path)
    stage, state, batch = tiny.built("use_net", settings)
    kernel = arrays["conv1.weight"].transpose(2, 3, 1, 0)
    for variables in (state.variables("segmenter"), state.ema["segmenter"]):
        trunk = variables["params"]["trunk"]
        np.testing.assert_array_equal(trunk["conv1"]["kernel"], kernel)
        statistics = variables["batch_stats"]["trunk"]
        np.testing.assert_array_equal(statistics["bn1"]["mean"], arrays["bn1.running_mean"])
    # The decoder is what it is without them.
    settings.pretrained.encoder = "none"
    _, fresh, _ = tiny.built("use_net", settings)
    head = [s.params["segmenter"]["head"]["kernel"] for s in (state, fresh)]
    np.testing.assert_array_equal(*head)
    state, _ = tiny.stepped(stage, state, batch, 1)
    assert not np.array_equal(state.params["segmenter"]["trunk"]["conv1"]["kernel"], kernel)


def test_a_run_trained_from_pretrained_weights_is_used_without_them(tmp_path):
    settings, _ = pretrained_config(tmp_path)
    chain.run(settings, tmp_path / "run")
    (tmp_path / "resnet18.npz").unlink()
    trunk = runs.load(tmp_path / "run").state.params["segmenter"]["trunk"]
    assert trunk["conv1"]["kernel"].shape == (7, 7, 3, 4)
    # Nor does the run need them to go on, wherever they are said to be by now.
    settings.steps += 2
    settings.pretrained.path = str(tmp_path / "moved.npz")
    assert chain.run(settings, tmp_path / "run")["steps"] == settings.steps
    settings.pretrained.path = str(tmp_path / "resnet18.npz")
    with pytest.raises(UserError, match=r"resnet18\.npz does not exist: correct pretrained\.path"):
        build_stage(settings, {})


@pytest.mark.faults
@pytest.mark.parametrize(
    ("group", "field", "value", "match"),
    [
        ("pretrained", "encoder", "keras", r"pretrained\.encoder='keras' is not known"),
        ("segmenter", "imagenet_input", False, r"needs segmenter\.imagenet_input=True"),
        ("segmenter", "kind", "unet", r"is for segmenter\.kind='se_unet'"),
        ("init", "segmenter", "runs/other", r"both say what the segmenter starts from"),
        ("segmenter", "width", 8, r"resnet18\.npz are not those of the network"),
        (
            "pretrained",
            "path",
            "",
            r"of resnet18 at segmenter\.width=64 .* and not at 4 and \(1,\)",
        ),
    ],
)
def test_pretrained_weights_that_cannot_be_used_are_refused(tmp_path, group, field, value, match):
    settings, _ = pretrained_config(tmp_path)
    if value == "unet":
        settings.segmenter = tiny.config("unet").segmenter
    settings[group][field] = value
    with pytest.raises(UserError, match=match):
        build_stage(settings, {})
