import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from ml_collections import ConfigDict

from histojax.components import palette, scales
from histojax.components.pair_gan import Truth
from histojax.errors import UserError
from histojax.experiments import chain, check, init_from
from histojax.runs import workdirs
from histojax.stages import build_stage
from tests import tiny

TERMS = ("mask_adversarial_weight", "mask_matching_weight", "moments_weight", "added_weight")


def settings_of(**changes):
    """The tiny pyramid's top scale, with fields of group `pyramid` changed."""
    config = tiny.config("pyramid")
    config.pyramid.update(changes)
    return config


def built(config=None, initial=None):
    stage, state = untrained() if config is None else first_state(config, initial)
    return stage, state, tiny.batch_for(stage, size=2, crop=32)


def first_state(config, initial=None):
    stage = build_stage(config, initial or {})
    return stage, workdirs.fresh_state(stage, config)


@functools.cache
def untrained():
    return first_state(settings_of())


@functools.cache
def weighed(**weights):
    """(state after the first of six steps, metrics of each); of the terms only those given count.

    No weight changes the first state.
    """
    config = settings_of()
    config.loss.update(dict.fromkeys(TERMS, 0.0) | weights)
    stage = build_stage(config, {})
    _, state, batch = built()
    after, first = tiny.stepped(stage, state, batch, 1)
    return after, first + tiny.stepped(stage, after, batch, 5)[1]


def test_the_top_scale_keeps_the_lower_ones_unchanged():
    stage, state, batch = built()
    lower = {name: state.params[name] for name in ("generator_0", "segmenter_0")}
    assert set(state.params) == {*lower, "generator_1", "segmenter_1", "discriminator_1"}
    assert set(state.opt_state) == {"generator_1", "segmenter_1", "discriminator_1"}
    after, history = tiny.stepped(stage, state, batch, 2)
    for name, params in lower.items():
        assert tiny.same(after.params[name], params)
        assert tiny.same(after.statistics[name], state.statistics[name])
    for name in state.opt_state:
        assert not tiny.same(after.params[name], state.params[name])
    assert all(np.isfinite(value) for value in history[-1].values())


def test_together_all_scales_learn_with_metrics_of_their_own():
    stage, state, batch = built(settings_of(together=True))
    after, history = tiny.stepped(stage, state, batch, 1)
    assert len(state.opt_state) == 6
    for name in state.opt_state:
        assert not tiny.same(after.params[name], state.params[name])
    assert {"loss_adversarial_16", "loss_adversarial_32", "loss"} <= set(history[0])
    assert min(history[0][f"loss_added_{size}"] for size in stage.sizes) > 0


@pytest.mark.parametrize("term", ["mask_adversarial_weight", "mask_matching_weight"])
def test_the_judgement_of_predicted_masks_reaches_the_segmenter(term):
    updates = without, with_it = weighed()[0], weighed(**{term: 1e3})[0]
    assert not tiny.same(without.params["segmenter_1"], with_it.params["segmenter_1"])
    for name in ("generator_1", "discriminator_1"):
        # XLA may round otherwise in what the term has no part in.
        one, other = (ravel_pytree(after.opt_state[name])[0] for after in updates)
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * float(np.abs(one).max()))


def test_what_is_judged_once_gives_the_gradients_of_the_losses():
    config = settings_of()
    config.loss.update(mask_matching_weight=3.0, matching_weight=2.0, added_weight=4.0)
    stage, state, batch = built(config)
    labels = stage.labels.one_hot(batch, jnp.float32)
    (mask,), real = stage.masks(labels)[1:], jnp.asarray(batch["hr"] / 255, jnp.float32)
    fake, logits, added = real[::-1] * 0.9, 2 * mask[::-1] - 1, real - 0.5

    def judged(params, image, labels):
        module, held = stage.discriminators[1], state.statistics["discriminator_1"]
        return module.apply({"params": params, **held}, image, labels, train=True, features=True)

    params = state.params["discriminator_1"]

    def of_networks(fake, added, logits):
        found = judged(params, fake, mask), judged(params, real, jax.nn.softmax(logits))
        fixed = (judged(params, real, mask), state.frozen, Truth(real, mask, mask), None)
        return stage.contest.loss((fake, added, logits), found, *fixed)[0]

    def of_judge(params):
        pairs = (real, mask), (fake, mask), (real, jax.nn.softmax(logits))
        return stage.contest.judge_loss(*(judged(params, *pair) for pair in pairs), None)[0]

    wanted = *jax.grad(of_networks, (0, 1, 2))(fake, added, logits), jax.grad(of_judge)(params)
    made = fake, added, logits
    networks, grads, _, _ = stage._compete(state, 1, made, real, mask, None)
    for one, other in zip((*networks, grads), wanted, strict=True):
        one, other = ravel_pytree(one)[0], ravel_pytree(other)[0]
        assert float(jnp.abs(other).max()) > 0
        np.testing.assert_allclose(one, other, atol=1e-5 * float(jnp.abs(other).max()))


def test_colors_that_are_off_reach_the_generator():
    (without, (first, *_)), (with_it, (weighed_first, *_)) = weighed(), weighed(moments_weight=1e3)
    off = first["loss_moments"]
    assert off > 0
    assert weighed_first["loss"] - first["loss"] == pytest.approx(1e3 * off, rel=1e-3)
    assert not tiny.same(without.params["generator_1"], with_it.params["generator_1"])


def test_what_a_scale_adds_is_weighed_and_less_of_it_learnt():
    histories = weighed()[1], weighed(added_weight=1e3)[1]
    added = [[metrics["loss_added"] for metrics in history] for history in histories]
    assert added[0][0] == pytest.approx(added[1][0], rel=1e-6)
    more = histories[1][0]["loss"] - histories[0][0]["loss"]
    assert more == pytest.approx(1e3 * added[0][0], rel=1e-3)
    assert 0 < added[1][-1] < 0.95 * added[0][-1]


def test_what_a_scale_adds_is_its_image_less_its_input():
    stage, state, batch = built()
    labels = stage.labels.one_hot(batch, jnp.float32)
    masks = stage.masks(labels)
    key = jax.random.key(1)
    run = stage._runner(state, {}, key, None)
    grounds = scales.grounds_of("colors", masks, scales.label_colors(batch["hr"] / 255, labels))
    images, added, *_ = scales.generated(run, grounds, masks, stage.noises(key, masks))
    np.testing.assert_allclose(added[0], images[0] - grounds[0], atol=1e-6)
    np.testing.assert_allclose(added[1], images[1] - scales.enlarged(images[0], 2), atol=1e-6)
    assert float(jnp.abs(added[1]).mean()) > 1e-4
    real = jnp.asarray(batch["hr"] / 255, jnp.float32)
    made = images[1], added[1], masks[1]
    found = stage._compete(state, 1, made, real, masks[1], None)[-1]
    assert found["loss_added"] == pytest.approx(float(jnp.abs(added[1]).mean()), rel=1e-5)


@functools.cache
def of_tissue():
    """A lowest scale that starts from tissue, and a batch whose nuclei have rims, nothing of it so
    bright or dark that moving it cuts it."""
    config = tiny.config("pyramid").init_from.pyramid
    config.pyramid.base = "tissue"
    stage = build_stage(config, {})
    batch = dict(tiny.batch_for(stage, size=2, crop=32))
    batch["contour"] = batch["mask"] * (batch["hr"][..., 1] < 128)
    batch |= {field: batch[field] // 4 + 96 for field in ("hr", "tissue")}
    one_hot = stage.labels.one_hot(batch, jnp.float32)
    assert one_hot.any((1, 2)).all()
    return stage, workdirs.fresh_state(stage, config), batch, one_hot


def test_tissue_is_moved_by_whole_nuclei_as_in_synthesis():
    stage, _, batch, one_hot = of_tissue()
    moved = np.asarray(255 * stage._tissue_of(batch))
    colors = scales.label_colors(batch["hr"] / 255, one_hot)
    numbers = np.asarray(one_hot.argmax(-1), np.uint8)
    for i, number in enumerate(numbers):
        for part in (number == 0, number > 0):
            # By one amount in all of a part: rim and middle differ as much as before.
            by = moved[i][part] - batch["tissue"][i][part]
            np.testing.assert_allclose(by, by[:1].repeat(len(by), 0), atol=1e-3)
            assert moved[i][part].mean(0) == pytest.approx(batch["hr"][i][part].mean(0), abs=0.01)
        parts = palette.nuclei_as_one(number, np.asarray(colors[i]))
        synthesized = palette.recolored(batch["tissue"][i], *parts)
        np.testing.assert_allclose(synthesized, moved[i], atol=0.51)
        by_label = palette.recolored(batch["tissue"][i], number, np.asarray(colors[i]))
        assert np.abs(by_label - moved[i]).max() > 2


def test_rims_and_middles_follow_the_image_except_on_tissue():
    stage, state, batch, one_hot = of_tissue()
    real = stage.masks(jnp.asarray(batch["hr"] / 255, jnp.float32))[0]
    (mask,) = stage.masks(one_hot)
    # The same pixels in each nucleus and ground, in other places.
    fake = np.array(real)
    for image, nucleus in zip(fake, np.asarray(mask[..., 0] == 0), strict=True):
        image[nucleus] = image[nucleus][::-1]
    off = {}
    for start in ("tissue", "colors"):
        changed = dataclasses.replace(stage, base=start)
        found = changed._compete(state, 0, (fake, fake, mask), real, mask, None)[-1]
        off[start] = float(found["loss_moments"])
    assert off["tissue"] < 1e-6 < 1e-3 < off["colors"]


def test_noise_is_fresh_at_every_step_and_of_every_scale():
    stage, state, batch = built()
    masks = [jnp.zeros((2, 16, 16, 3)), jnp.zeros((2, 32, 32, 3))]
    one, other = (stage.noises(jax.random.key(seed), masks) for seed in (0, 1))
    assert [noise.shape for noise in one] == [(2, 16, 16, 1), (2, 32, 32, 1)]
    assert not np.array_equal(one[1], other[1])
    step = jax.jit(stage.train_step)
    first, again, later = (
        step(start, batch)[1]["loss_pixel"]
        for start in (state, state, state.replace(step=state.step + 1))
    )
    assert first == again != later


def test_noise_of_a_higher_scale_follows_its_difference():
    stage, state, batch = built(settings_of(noise=0.5))
    after, _ = tiny.stepped(stage, state, batch, 1)
    assert float(after.statistics["generator_0"]["noise"]["amplitude"]) == 1
    labels = stage.labels.one_hot(batch, jnp.float32)
    masks = stage.masks(labels)
    key = jax.random.fold_in(state.rng, 0)
    run = stage._runner(state, {}, key, None)
    colors = scales.label_colors(batch["hr"] / 255, labels)
    grounds = scales.grounds_of("colors", masks, colors)
    images, *_ = scales.generated(run, grounds, masks, stage.noises(key, masks))
    below = np.asarray(scales.enlarged(images[0], 2))
    error = 2 * np.sqrt(np.mean((batch["hr"] / 255 - below) ** 2))
    expected = 1 + 0.02 * (0.5 * error - 1)
    got = after.statistics["generator_1"]["noise"]["amplitude"]
    assert float(got) == pytest.approx(expected, rel=1e-4)


def test_noise_of_the_lowest_scale_follows_its_tissue():
    config = tiny.config("pyramid").init_from.pyramid
    config.pyramid.update(base="tissue", noise=0.5)
    stage = build_stage(config, {})
    state = workdirs.fresh_state(stage, config)
    batch = tiny.batch_for(stage, size=2, crop=32)
    after, _ = tiny.stepped(stage, state, batch, 1)
    real, tissue = (scales.reduced(x, 2) for x in (batch["hr"] / 255, stage._tissue_of(batch)))
    share = 0.5 * 2 * np.sqrt(np.mean((real - tissue) ** 2))
    got = float(after.statistics["generator_0"]["noise"]["amplitude"])
    assert (got - 1) / 0.02 == pytest.approx(share - 1, rel=1e-4)


def test_a_generated_image_follows_its_mask_and_its_noise():
    stage, state, _ = built()
    labels = jax.nn.one_hot(jnp.zeros((2, 32, 32), jnp.int32).at[1].set(1), 3)
    noises, others = (stage.noises(jax.random.key(seed), stage.masks(labels)) for seed in (0, 1))
    colors = jnp.full((2, 3, 3), 0.5)
    generate = jax.jit(lambda *x: stage.generate(state, *x))
    image = generate(labels, noises, colors)
    assert image.shape == (2, 32, 32, 3)
    np.testing.assert_array_equal(generate(labels, noises, colors), image)
    assert not np.array_equal(generate(labels, others, colors), image)
    assert not np.array_equal(generate(labels[::-1], noises, colors), image)


def test_the_lowest_scale_adds_to_label_colors_or_gray():
    # What an untrained generator adds is small, so that the start shows.
    images = {}
    for base in ("colors", "gray"):
        stage, state, _ = built(settings_of(base=base))
        labels = jax.nn.one_hot(jnp.zeros((1, 32, 32), jnp.int32).at[:, :, 16:].set(1), 3)
        colors = jnp.array([[[0.9, 0.7, 0.8], [0.3, 0.1, 0.5], [0.0, 0.0, 0.0]]])
        noises = [0 * noise for noise in stage.noises(jax.random.key(0), stage.masks(labels))]
        images[base] = np.asarray(stage.generate(state, labels, noises, colors))[0]
    left, right = (images["colors"][:, x].mean(0) for x in (4, 28))
    np.testing.assert_allclose(left - right, [0.6, 0.6, 0.3], atol=0.1)
    gray = images["gray"][:, 4].mean(0) - images["gray"][:, 28].mean(0)
    np.testing.assert_allclose(gray, 0, atol=0.1)


def test_a_pyramid_learns_from_tissue_in_its_images_colors():
    stage, state, batch = built(settings_of(base="tissue"))
    assert "tissue" in stage.fields
    after, history = tiny.stepped(stage, state, batch, 1)
    assert all(np.isfinite(value) for value in history[0].values())
    assert not tiny.same(after.params["generator_1"], state.params["generator_1"])
    # Untrained generators add nothing: the tissue in the image's colours, what bilinear enlarging
    # and bicubic reduction lose being made good by the upper scale.
    made = stage.eval_step(state, batch)["synthetic"].astype(float)
    expected = 255 * np.asarray(stage._tissue_of(batch))
    np.testing.assert_allclose(made, expected, atol=0.51)
    for image, real in zip(made, batch["hr"].astype(float), strict=True):
        assert np.abs(image.mean((0, 1)) - real.mean((0, 1))).max() < 15
    looks = stage.palette_of([{"hr": batch["hr"][0], **{f: batch[f][0] for f in stage.fields}}])
    assert len(looks) == 4


def test_a_lower_scale_is_trained_and_used_on_whole_images_too():
    config = tiny.config("pyramid").init_from.pyramid
    stage = build_stage(config, {})
    state = workdirs.fresh_state(stage, config)
    batch = tiny.batch_for(stage, size=2, crop=32)
    outputs = stage.eval_step(state, batch)
    assert outputs["synthetic"].shape == (2, 32, 32, 3)
    assert outputs["mask"].shape == (2, 32, 32, 1)
    assert outputs["synthetic"].dtype == np.uint8
    assert set(outputs) == {"synthetic", "mask", "marker"}


def test_windows_with_the_halo_agree_with_the_whole():
    stage, state, _ = built()
    halo, core, start = stage.segmenter.halo, 8, 80
    assert start >= halo
    assert halo % stage.segmenter.stride == 0
    image = np.random.default_rng(0).integers(0, 256, (1, 168, 168, 3), np.uint8)
    segment = jax.jit(lambda image: stage.segment(state, image))
    whole = segment(image)
    window = slice(start - halo, start + core + halo)
    part = segment(image[:, window, window])[:, halo:-halo, halo:-halo]
    inside = whole[:, start : start + core, start : start + core]
    assert float(jnp.ptp(inside)) > 1e-3
    np.testing.assert_allclose(part, inside, atol=1e-5)


def test_the_start_of_a_scale_is_all_of_the_run_below():
    config = tiny.config("pyramid")
    lower = build_stage(config.init_from.pyramid, {})
    state = workdirs.fresh_state(lower, config.init_from.pyramid)
    found = init_from.initial_variables(
        config, lambda _: {name: state.variables(name) for name in state.params}
    )
    assert set(found) == {"generator_0", "segmenter_0", "discriminator_0"}
    _, higher, _ = built(config, found)
    assert tiny.same(higher.variables("generator_0"), state.variables("generator_0"))


@pytest.mark.faults
def test_scales_that_do_not_fit_each_other_are_refused():
    config = tiny.config("pyramid")
    check.check_scales_below(config)
    config.init_from.pyramid.pyramid.sizes = (8,)
    with pytest.raises(UserError, match=r"needs scales of .*\(16,\).* has \(\(8,\)"):
        check.check_scales_below(config)
    config.init_from = ConfigDict({"pyramid": tiny.config("segmentation")})
    with pytest.raises(UserError, match=r"is a run of stage segmentation: name one of a pyramid"):
        check.check_scales_below(config)
    config.init_from = ConfigDict()
    with pytest.raises(UserError, match=r"init_from\.pyramid names no run of those below it"):
        check.check_scales_below(config)
    config.pyramid.together = True
    check.check_scales_below(config)


@pytest.mark.faults
def test_a_scale_that_was_not_trained_is_named(tmp_path):
    config = tiny.config("pyramid")
    config.init_from = ConfigDict({"pyramid": str(tmp_path / "scale_16")})
    with pytest.raises(UserError, match=r"scale_16 is not a workdir"):
        chain.run(config, tmp_path / "run")


@pytest.mark.faults
@pytest.mark.parametrize(
    ("group", "field", "value", "match"),
    [
        ("pyramid", "labels", "organs", r"pyramid\.labels='organs' is not known"),
        ("pyramid", "base", "mask", r"pyramid\.base='mask' is not known; choose one of colors"),
        ("pyramid", "labels", "classes", r"pyramid\.classes=0 has to be the number of classes"),
        ("pyramid", "sizes", (16, 24), r"each a multiple of the one before"),
        ("pyramid", "sizes", (), r"each a multiple of the one before"),
        (
            "segmenter",
            "dropout",
            1.0,
            r"segmenter\.dropout=1\.0 has to be a number of 0 or more and below 1",
        ),
        ("pyramid", "noise", -1.0, r"pyramid\.noise=-1\.0 has to be a number of 0 or more"),
        ("data", "crop", 40, r"data\.crop=40 has to be a multiple .* choose 32"),
        ("loss", "mask_matching_weight", -1.0, r"loss\.mask_matching_weight=-1\.0"),
        ("generator", "conditioning", "film", r"choose one of concat, spade"),
    ],
)
def test_what_cannot_be_is_refused(group, field, value, match):
    config = settings_of()
    config[group][field] = value
    with pytest.raises(UserError, match=match):
        workdirs.fresh_state(build_stage(config, {}), config)


@pytest.mark.faults
def test_tissue_is_for_nuclei():
    with pytest.raises(UserError, match=r"pyramid\.base='tissue' is drawn around nuclei"):
        build_stage(settings_of(base="tissue", labels="classes", classes=3), {})


@pytest.mark.faults
def test_classes_have_to_be_those_of_the_data():
    with pytest.raises(UserError, match=r"pyramid\.classes=3, and data\.source has 2: background"):
        scales.check_classes(settings_of(labels="classes", classes=3), ["background", "nucleus"])
    scales.check_classes(settings_of(labels="classes", classes=2), ["background", "nucleus"])
    scales.check_classes(settings_of(), ["background", "a", "b"])


@pytest.mark.faults
def test_classes_have_to_be_counted():
    with pytest.raises(UserError, match=r"pyramid\.classes=0 has to be the number of classes"):
        build_stage(settings_of(labels="classes"), {})
