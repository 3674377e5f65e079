import functools
import json
import shutil

import jax
import numpy as np
import pytest

from histojax.components import images
from histojax.errors import UserError
from histojax.experiments import chain
from histojax.runs import run_data, workdirs
from histojax.runs.metrics_log import read_metrics
from histojax.stages import build_stage, segmentation
from histojax.training import loop
from tests import tiny
from tests.launch.commands import load
from tests.models import published_efficientnet
from tests.models.published_resnet import published_arrays


@pytest.mark.parametrize("name", ["segmentation", "unet"])
def test_the_loss_goes_down_on_a_fixed_batch(name):
    config = tiny.config(name, steps=100)
    config.optimizer.update(learning_rate=1e-2, schedule="constant")
    stage, state, batch = tiny.built(name, config)
    _, history = tiny.stepped(stage, state, batch, 20)
    assert history[-1]["loss"] < 0.8 * history[0]["loss"]
    assert history[-1]["accuracy"] > history[0]["accuracy"]


def test_a_probability_is_given_for_every_pixel():
    stage, state, batch = tiny.built("segmentation")
    mask = np.asarray(stage.eval_step(state, batch)["mask"])
    assert mask.shape == (4, 16, 16, 1)
    assert 0 <= mask.min() <= mask.max() <= 1


def test_a_perfect_mask_scores_one_whatever_the_padding():
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


def test_cross_entropy_of_a_logit_of_0_pulls_both_ways_alike():
    loss = segmentation.MaskLoss(1.0, 0.0)
    mask = np.asarray([0.0, 1.0, 0.0, 1.0]).reshape(1, 2, 2, 1)
    gradient = jax.grad(loss)(np.zeros((1, 2, 2, 1), np.float32), mask)
    np.testing.assert_allclose(gradient.ravel() * 4, [0.5, -0.5, 0.5, -0.5], rtol=1e-6)


def test_cross_entropy_is_the_logit_where_confidently_wrong():
    loss = segmentation.MaskLoss(1.0, 0.0)
    logits = np.asarray([-80.0, 80.0], np.float32).reshape(1, 1, 2, 1)
    mask = np.asarray([1.0, 0.0]).reshape(1, 1, 2, 1)
    assert float(loss(logits, mask)) == pytest.approx(80.0)
    gradient = jax.grad(loss)(logits, mask)
    np.testing.assert_allclose(gradient.ravel() * 2, [-1.0, 1.0], atol=1e-6)


@pytest.mark.parametrize("weights", [(0.0, 0.0, 0.0), (-1.0, 2.0, 0.0), (1.0, 0.0, -1.0)])
def test_weights_that_leave_no_loss_are_refused(weights):
    config = tiny.config("unet")
    config.loss.bce_weight, config.loss.dice_weight, config.loss.mse_weight = weights
    with pytest.raises(UserError, match=r"have to be 0 or more, and one of them above 0"):
        build_stage(config, {})


@pytest.mark.parametrize("name", ["segmentation", "unet", "joint"])
def test_each_head_learns_its_own_map(name):
    config = tiny.config(name)
    config.segmenter.heads = ("mask", "marker", "contour", "distance")
    if name == "joint":
        config.loss.features.weight = 0.0
        del config.init_from.segmenter  # which has but one
    else:
        config.optimizer.update(learning_rate=1e-2, schedule="constant")
    stage, state, batch = tiny.built(name, config)
    assert stage.fields[-4:] == ("mask", "marker", "contour", "distance")
    outputs = stage.eval_step(state, batch)
    for head in config.segmenter.heads:
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
    config = tiny.config("segmentation")
    config.segmenter.heads = heads
    with pytest.raises(UserError, match=r"segmenter.heads=.* has to be 'mask' and then, each once"):
        build_stage(config, {})


def pretrained_config(tmp_path):
    """A tiny USE-Net whose encoder starts from a file, and that file's arrays."""
    config = tiny.config("use_net")
    network = config.segmenter
    network.update(encoder="resnet18", imagenet_input=True)
    arrays = published_arrays("resnet18", network.blocks, network.width)
    np.savez(tmp_path / "resnet18.npz", **arrays)
    config.pretrained.update(encoder="imagenet", path=str(tmp_path / "resnet18.npz"))
    return config, arrays


def test_a_pretrained_encoder_learns_on(tmp_path):
    config, arrays = pretrained_config(tmp_path)
    stage, state, batch = tiny.built("use_net", config)
    kernel = arrays["conv1.weight"].transpose(2, 3, 1, 0)
    for variables in (state.variables("segmenter"), state.ema["segmenter"]):
        trunk = variables["params"]["trunk"]
        np.testing.assert_array_equal(trunk["conv1"]["kernel"], kernel)
        statistics = variables["batch_stats"]["trunk"]
        np.testing.assert_array_equal(statistics["bn1"]["mean"], arrays["bn1.running_mean"])
    # The decoder is what it is without them.
    config.pretrained.update(encoder="none", path="")
    _, fresh, _ = tiny.built("use_net", config)
    head = [s.params["segmenter"]["head"]["kernel"] for s in (state, fresh)]
    np.testing.assert_array_equal(*head)
    state, _ = tiny.stepped(stage, state, batch, 1)
    assert not np.array_equal(state.params["segmenter"]["trunk"]["conv1"]["kernel"], kernel)


def test_an_efficientnet_takes_the_blocks_that_it_has(tmp_path):
    command = load("launch.convert_weights")
    arrays = published_efficientnet.published_arrays(2)
    converted = command.convert_efficientnet(arrays)
    np.savez(tmp_path / "lite0.npz", **converted)
    config = tiny.config("use_net")
    config.segmenter.update(encoder="efficientnet_lite0", blocks=(1,), imagenet_input=True)
    config.pretrained.update(encoder="imagenet", path=str(tmp_path / "lite0.npz"))
    stage, state, batch = tiny.built("use_net", config)
    trunk = state.variables("segmenter")["params"]["trunk"]
    assert sorted(trunk) == ["bn0", "conv_stem", "stage0_0", "stage1_0"]
    kernel = trunk["stage1_0"]["depthwise_conv"]["kernel"]
    published = arrays["_blocks.1._depthwise_conv.weight"]
    np.testing.assert_array_equal(kernel, published.transpose(2, 3, 1, 0))
    state, _ = tiny.stepped(stage, state, batch, 1)
    trunk = state.params["segmenter"]["trunk"]
    assert not np.array_equal(trunk["stage1_0"]["depthwise_conv"]["kernel"], kernel)
    config.pretrained.path = ""
    with pytest.raises(UserError, match=r"launch\.convert_weights and name the file in pretrained"):
        build_stage(config, {})


def test_a_run_from_pretrained_weights_is_used_without_them(tmp_path):
    config, _ = pretrained_config(tmp_path)
    chain.run(config, tmp_path / "run")
    (tmp_path / "resnet18.npz").unlink()
    trunk = workdirs.load(tmp_path / "run").state.params["segmenter"]["trunk"]
    assert trunk["conv1"]["kernel"].shape == (7, 7, 3, 4)
    # Nor does the run need them to go on, wherever they are said to be by now.
    config.steps += 2
    config.pretrained.path = str(tmp_path / "moved.npz")
    assert chain.run(config, tmp_path / "run")["steps"] == config.steps
    config.pretrained.path = str(tmp_path / "resnet18.npz")
    with pytest.raises(UserError, match=r"resnet18\.npz does not exist: correct pretrained\.path"):
        build_stage(config, {})


@pytest.mark.faults
@pytest.mark.parametrize(
    ("group", "field", "value", "match"),
    [
        ("pretrained", "encoder", "none", r"resnet18\.npz is not read with pretrained\.encoder="),
        ("pretrained", "encoder", "keras", r"pretrained\.encoder='keras' is not known"),
        ("segmenter", "imagenet_input", False, r"needs segmenter\.imagenet_input=True"),
        ("segmenter", "kind", "unet", r"is for segmenter\.kind='se_unet'"),
        ("init_from", "segmenter", "runs/other", r"both say what the segmenter starts from"),
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
    config, _ = pretrained_config(tmp_path)
    if value == "unet":
        config.segmenter = tiny.config("unet").segmenter
    config[group][field] = value
    with pytest.raises(UserError, match=match):
        build_stage(config, {})


def taught(**changes):
    """(stage, state, batch) with a teacher at full weight from the first step, without noise.

    Without normalisation too, which would have the images of a batch depend on each other.
    """
    stage, state = _taught(**changes)
    return stage, state, tiny.batch_for(stage)


@functools.cache
def _taught(**changes):
    config = tiny.config("unet")
    config.segmenter.norm = "none"
    config.data.unlabelled = "rest"
    config.teacher.update(weight=10.0, noise=0.0, ramp=0.0)
    config.update_from_flattened_dict(changes)
    return tiny.built("unet", config)[:2]


def moved(state):
    """The state with an average that is not the network itself."""
    key = jax.random.key(5)
    return state.replace(ema=jax.tree.map(lambda x: x + jax.random.normal(key, x.shape), state.ema))


def test_a_network_agrees_with_an_average_that_is_itself():
    stage, state, batch = taught()
    _, (metrics,) = tiny.stepped(stage, state, batch, 1)
    assert metrics["loss_consistency"] == 0.0
    assert metrics["loss"] == metrics["loss_labelled"] > 0
    for changes in ({"teacher.noise": 0.1}, {"segmenter.dropout": 0.5}):
        _, (metrics,) = tiny.stepped(*taught(**changes), 1)
        assert metrics["loss_consistency"] > 0
    _, (metrics,) = tiny.stepped(stage, moved(state), batch, 1)
    assert metrics["loss_consistency"] > 1e-3
    total = metrics["loss_labelled"] + 10 * metrics["loss_consistency"]
    assert metrics["loss"] == pytest.approx(total, rel=1e-6)


def test_the_loss_of_labels_is_of_labelled_images_alone():
    stage, state, batch = taught()
    half = {field: array[:2] for field, array in batch.items()}
    plain, state_without, _ = tiny.built("unet", without_norm())
    assert tiny.same(state.params, state_without.params)
    _, (alone,) = tiny.stepped(plain, state_without, half, 1)
    _, (metrics,) = tiny.stepped(stage, state, batch, 1)
    assert metrics["loss_labelled"] == pytest.approx(alone["loss"], rel=1e-5)
    assert metrics["accuracy"] == pytest.approx(alone["accuracy"], rel=1e-5)
    # Here the average is the network itself, so that labels alone move it.
    norm = metrics["gradient_norm_segmenter"]
    assert norm == pytest.approx(alone["gradient_norm_segmenter"], rel=1e-4)


def without_norm():
    config = tiny.config("unet")
    config.segmenter.norm = "none"
    return config


def test_an_unlabelled_image_counts_without_its_mask():
    stage, state, batch = taught()
    state = moved(state)
    _, (metrics,) = tiny.stepped(stage, state, batch, 1)
    mask, hr = batch["mask"].copy(), batch["hr"].copy()
    mask[2:] = 1 - mask[2:]
    _, (other_mask,) = tiny.stepped(stage, state, {**batch, "mask": mask}, 1)
    assert tiny.same(metrics, other_mask)
    hr[3] = 255 - hr[3]
    _, (other_image,) = tiny.stepped(stage, state, {**batch, "hr": hr}, 1)
    assert other_image["loss_labelled"] == metrics["loss_labelled"]
    assert other_image["loss_consistency"] != metrics["loss_consistency"]
    assert other_image["gradient_norm_segmenter"] != metrics["gradient_norm_segmenter"]


def test_unlabelled_images_move_the_network_alone():
    stage, state, batch = taught(**{"optimizer.schedule": "constant", "ema_decay": 1.0})
    batch["labelled"] = np.zeros_like(batch["labelled"])
    # As of an old run, whose average no longer follows at once: its decay is what is asked for.
    state = moved(state).replace(step=jax.numpy.int32(10**8))
    after, history = tiny.stepped(stage, state, batch, 10)
    assert history[0]["loss_labelled"] == history[0]["accuracy"] == 0.0
    assert history[0]["gradient_norm_segmenter"] > 0
    assert history[-1]["loss_consistency"] < history[0]["loss_consistency"]
    assert not tiny.same(after.params, state.params)
    for new, old in zip(jax.tree.leaves(after.ema), jax.tree.leaves(state.ema), strict=True):
        np.testing.assert_allclose(new, old, atol=1e-5)


def test_a_run_with_a_teacher_trains_and_resumes(tmp_path):
    config = tiny.config("use_net")
    config.data.update(labelled=0.25, unlabelled="rest", unlabelled_weight=0.6)
    config.data.synthetic.train = 8  # of four patients
    config.teacher.weight = 1.0
    run = tmp_path / "run"
    summary = chain.run(config, run)
    assert summary["steps"] == 4
    seen = json.loads((run / "manifest.json").read_text())
    patients = {
        part: {entry["group"] for entry in seen[part]} for part in ("train", "unlabelled", "val")
    }
    assert [len(patients[part]) for part in ("train", "unlabelled", "val")] == [1, 3, 1]
    assert len(set.union(*patients.values())) == 5
    assert run_data.labelled_source(run).names == [entry["name"] for entry in seen["train"]]
    undisturbed = tiny.last_state(run)
    rows = read_metrics(run / "metrics.jsonl")
    assert all(
        {"loss_labelled", "loss_consistency"} <= set(r) for r in rows if r["split"] == "train"
    )
    shutil.rmtree(run / "checkpoints" / "last" / "4")
    loop.train(config, run)
    assert tiny.same(tiny.last_state(run), undisturbed)
