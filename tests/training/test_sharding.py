"""Device counts compared in float64: 1, 2 and 8 devices, and pmap, give the same training."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import generator, joint, pyramid, segmentation, srgan
from histojax.runs import workdirs
from histojax.stages import build_stage
from histojax.training import sharding

CONFIGS = {
    "generator": generator,
    "segmentation": segmentation,
    "srgan": srgan,
    "joint": joint,
    "pyramid": pyramid,
}
BATCH = 8
STEPS = 20
RATE = 1e-2


def settings(name):
    config = CONFIGS[name].get_config("smoke")
    config.data.crop = 16
    config.precision = "float64"
    if name == "pyramid":
        config.pyramid.update(sizes=(8, 16))
        config.segmenter.dropout = 0.0  # another on every device
        config.discriminator.update(widths=(4, 8), norm="batch")
        return config
    if "generator" in config:
        config.generator.norm = "batch"
        config.generator.features = 8
        config.generator.width = 8
        config.generator.cardinality = 2
    if "segmenter" in config:
        config.segmenter.features = 4
        config.segmenter.depth = 1
    if "discriminator" in config:
        # Patches of 16 px; statistics as well as spectral normalisation are looked at.
        config.discriminator.widths = (4, 8)
        config.discriminator.norm = "batch"
    if "features" in config.loss:
        config.loss.features.layers = {"level1": 1.0}
    return config


def build(name, changes=None):
    """(stage, state, global batches) in float64."""
    config = settings(name)
    config.update_from_flattened_dict(changes or {})
    initial = {}
    if name in ("srgan", "joint"):
        inner = build_stage(settings("segmentation"), {})
        first = doubled(inner.init(jax.random.key(1), workdirs.example_batch(config)))
        initial["segmenter"] = first.variables("segmenter")
    stage = build_stage(config, initial)
    # Plain gradient descent: Adam would hide a factor, such as the number of devices.
    plain = {network: optax.sgd(RATE) for network in stage.optimizers}
    stage = dataclasses.replace(stage, optimizers=plain)
    state = doubled(stage.init(jax.random.key(0), workdirs.example_batch(config)))
    rng = np.random.default_rng(0)
    batches = [
        {
            "lr": rng.integers(0, 256, (BATCH, 4, 4, 3), np.uint8),
            "hr": rng.integers(0, 256, (BATCH, 16, 16, 3), np.uint8),
            "mask": rng.integers(0, 2, (BATCH, 16, 16), np.uint8),
            "contour": rng.integers(0, 2, (BATCH, 16, 16), np.uint8),
            # Three images, all of them on the first of two devices.
            "labelled": (np.arange(BATCH) < 3)[:, None, None] * np.ones((16, 16), np.uint8),
        }
        for _ in range(2)
    ]
    return stage, state, [{k: b[k] for k in stage.fields} for b in batches]


def doubled(tree):
    return jax.tree.map(
        lambda x: x.astype(jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree
    )


def by_mesh(stage, state, batches, count):
    """(after one step, after all, the compiled step's text) on `count` devices."""
    mesh = sharding.data_mesh(jax.devices()[:count])
    assert mesh.size == count
    state = sharding.replicate(jax.tree.map(jnp.copy, state), mesh)
    placed = [sharding.place_batch(batch, mesh) for batch in batches]
    step = sharding.train_step(stage.train_step, mesh).lower(state, placed[0]).compile()
    return (*run(step, state, placed), step.as_text())


def by_pmap(stage, state, batches, count):
    """(after one step, after all) under pmap."""
    step = jax.pmap(
        lambda s, b: stage.train_step(s, b, axis_name="data"),
        axis_name="data",
        devices=jax.devices()[:count],
    )
    state = jax.tree.map(lambda x: jnp.stack([x] * count), state)
    split = [{k: v.reshape(count, -1, *v.shape[1:]) for k, v in batch.items()} for batch in batches]
    return jax.tree.map(lambda x: x[0], run(step, state, split))


def run(step, state, batches):
    first = None
    for number in range(STEPS):
        state, metrics = step(state, batches[number % len(batches)])
        if first is None:
            first = jax.device_get((comparable(state), metrics))
    return first, jax.device_get((comparable(state), metrics))


def comparable(state):
    return {"params": state.params, "statistics": state.statistics, "ema": state.ema}


def assert_same_gradient(got, expected, start):
    """|difference| <= 1e-9 (|g| + 1e-6 |all g|) in every tensor; plain descent shows g itself."""
    g, e = (
        jax.tree.map(lambda new, old: (old - new) / RATE, tree["params"], start)
        for tree in (got, expected)
    )
    size = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(e)))
    assert size > 1e-3
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(e), jax.tree.leaves(g), strict=True
    ):
        # Weights were subtracted to see it: their own rounding comes on top.
        bound = 1e-9 * (np.abs(a) + 1e-6 * size) + 1e-15 / RATE
        assert np.all(np.abs(a - b) <= bound), (path, np.max(np.abs(a - b)))


def assert_close(got, expected):
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-8, err_msg=str(path))


def assert_collectives(text, state):
    """One all-reduce carries the gradients, two small ones each BatchNorm's moments; no gather."""
    sizes = [
        sum(
            np.prod([int(n) for n in shape.split(",") if n])
            for shape in re.findall(r"\[([\d,]*)\]", kind)
        )
        for kind in re.findall(r"= (\S.*?) all-reduce(?:-start)?\(", text)
    ]
    learning = {name: state.params[name] for name in state.opt_state}
    weights = sum(leaf.size for leaf in jax.tree.leaves(learning))
    assert [size >= weights for size in sizes].count(True) == 1
    layers = len(
        [
            1
            for path, _ in jax.tree_util.tree_leaves_with_path(state.statistics)
            if "mean" in str(path)
        ]
    )
    # A network is called up to three times a step (real, enhanced, and the critic's own turn).
    assert len(sizes) - 1 <= 2 * 3 * layers
    assert max(sorted(sizes)[:-1], default=0) < weights / 10
    for gather in ("all-gather", "all-to-all", "collective-permute"):
        assert gather not in text


def assert_counts_agree(name, counts, *, pmap):
    """That as many devices as named, and two under pmap, train as one does."""
    with jax.enable_x64(True):
        stage, state, batches = build(name)
        start = jax.device_get(state.params)
        first, last, _ = by_mesh(stage, state, batches, 1)
        for count in counts:
            other_first, other_last, text = by_mesh(stage, state, batches, count)
            assert_same_gradient(other_first[0], first[0], start)
            assert_close(other_last[0], last[0])
            np.testing.assert_allclose(other_last[1]["loss"], last[1]["loss"], rtol=1e-8)
        assert_collectives(text, state)
        if pmap:
            mapped_first, mapped_last = by_pmap(stage, state, batches, 2)
            assert_same_gradient(mapped_first[0], first[0], start)
            assert_close(mapped_last[0], last[0])


# srgan's are below, with penalties; pmap compiles the largest steps for minutes.
@pytest.mark.parametrize(
    ("name", "pmap"),
    [("generator", True), ("segmentation", True), ("joint", False), ("pyramid", False)],
)
def test_one_and_two_devices_agree(name, pmap):
    assert_counts_agree(name, (2,), pmap=pmap)


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_one_two_and_eight_devices_and_pmap_agree(name):
    assert_counts_agree(name, (2, 8), pmap=True)


@pytest.mark.parametrize(
    "changes",
    [
        # BatchNorm is in both: its means over the devices are differentiated twice.
        {"penalty.kind": "r1", "penalty.weight": 3.0, "penalty.every": 2},
        pytest.param(
            {
                "penalty.kind": "one_centered",
                "kind": "relativistic_pairwise",
                "discriminator_warmup": 1,
            },
            marks=pytest.mark.slow,
        ),
    ],
    ids=lambda changes: changes["penalty.kind"],
)
def test_devices_agree_on_penalties_of_the_discriminator(changes):
    with jax.enable_x64(True):
        changes = {f"loss.adversarial.{name}": value for name, value in changes.items()}
        stage, state, batches = build("srgan", changes)
        start = jax.device_get(state.params)
        first, last, _ = by_mesh(stage, state, batches, 1)
        assert first[1]["loss_discriminator_penalty"] > 1e-3
        other_first, other_last, text = by_mesh(stage, state, batches, 2)
        assert_same_gradient(other_first[0], first[0], start)
        assert_close(other_last, last)
        assert "all-gather" not in text


def test_devices_agree_on_a_teacher_with_few_labelled_images():
    """Without noise, which is another on every device."""
    with jax.enable_x64(True):
        changes = {"teacher.weight": 20.0, "teacher.noise": 0.0, "data.unlabelled": "rest"}
        stage, state, batches = build("segmentation", changes)
        start = jax.device_get(state.params)
        first, last, _ = by_mesh(stage, state, batches, 1)
        assert last[1]["loss_consistency"] > 1e-6
        other_first, other_last, text = by_mesh(stage, state, batches, 2)
        assert_same_gradient(other_first[0], first[0], start)
        assert_close(other_last, last)
        assert_collectives(text, state)


def test_a_batch_is_split_and_comes_back_in_order():
    mesh = sharding.data_mesh(jax.devices()[:2])
    rows = np.arange(4 * 3, dtype=np.uint8).reshape(4, 3)
    placed = sharding.place_batch({"x": rows}, mesh)["x"]
    assert {shard.data.shape for shard in placed.addressable_shards} == {(2, 3)}
    np.testing.assert_array_equal(sharding.local_rows(placed), rows)


def test_evaluation_is_split_over_devices():
    mesh = sharding.data_mesh(jax.devices()[:2])
    step = sharding.eval_step(lambda state, batch: {"y": batch["x"] * state}, mesh)
    out = step(jnp.asarray(3.0), sharding.place_batch({"x": np.arange(8.0)}, mesh))["y"]
    np.testing.assert_array_equal(sharding.local_rows(out), 3 * np.arange(8.0))


def test_a_batch_that_lies_right_is_not_moved():
    mesh = sharding.data_mesh(jax.devices()[:1])
    made = jax.jit(lambda: jnp.zeros((4, 2)), out_shardings=sharding.batch_sharding(mesh))()
    assert sharding.place_batch({"x": made}, mesh)["x"] is made
