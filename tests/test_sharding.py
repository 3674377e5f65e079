"""Device counts compared in float64: 1, 2 and 8 devices, and pmap, give the same training."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import generator, joint, segmentation, srgan
from histojax import runs, sharding
from histojax.stages import build_stage

CONFIGS = {"generator": generator, "segmentation": segmentation, "srgan": srgan, "joint": joint}
BATCH = 8


def settings(name, *, norm="batch"):
    config = CONFIGS[name].get_config("smoke")
    config.data.crop = 16
    config.precision = "float64"
    if "generator" in config:
        config.generator.norm = norm
        config.generator.features = 8
        config.generator.width = 8
        config.generator.cardinality = 2
    if "segmenter" in config:
        config.segmenter.features = 4
    if "discriminator" in config:
        # Patches of 16 px; statistics as well as spectral normalisation are looked at.
        config.discriminator.widths = (4, 8)
        config.discriminator.norm = norm
    if "features" in config.loss:
        config.loss.features.layers = {"level1": 1.0}
    return config


def build(name):
    """(stage, state, global batches) in float64."""
    config = settings(name)
    starts = {}
    if name in ("srgan", "joint"):
        inner = build_stage(settings("segmentation"), {})
        first = doubled(inner.init(jax.random.key(1), runs.example_batch(config)))
        starts["segmenter"] = first.variables("segmenter")
    stage = build_stage(config, starts)
    state = doubled(stage.init(jax.random.key(0), runs.example_batch(config)))
    rng = np.random.default_rng(0)
    batches = [
        {
            "lr": rng.integers(0, 256, (BATCH, 4, 4, 3), np.uint8),
            "hr": rng.integers(0, 256, (BATCH, 16, 16, 3), np.uint8),
            "mask": rng.integers(0, 2, (BATCH, 16, 16), np.uint8),
        }
        for _ in range(2)
    ]
    return stage, state, [{k: b[k] for k in stage.fields} for b in batches]


def doubled(tree):
    return jax.tree.map(
        lambda x: x.astype(jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree
    )


def by_mesh(stage, state, batches, count):
    mesh = sharding.data_mesh(jax.devices()[:count])
    step = sharding.train_step(stage.train_step, mesh)
    state = sharding.replicate(jax.tree.map(jnp.copy, state), mesh)
    for batch in batches:
        state, metrics = step(state, sharding.place_batch(batch, mesh))
    return jax.device_get((comparable(state), metrics))


def by_pmap(stage, state, batches, count):
    devices = jax.devices()[:count]
    step = jax.pmap(
        lambda s, b: stage.train_step(s, b, axis_name="data"), axis_name="data", devices=devices
    )
    state = jax.tree.map(lambda x: jnp.stack([x] * count), state)
    for batch in batches:
        split = {k: v.reshape(count, -1, *v.shape[1:]) for k, v in batch.items()}
        state, metrics = step(state, split)
    first = jax.tree.map(lambda x: x[0], (comparable(state), metrics))
    return jax.device_get(first)


def comparable(state):
    return {"params": state.params, "statistics": state.statistics, "ema": state.ema}


def assert_close(got, expected):
    for (path, a), (_, b) in zip(
        jax.tree_util.tree_leaves_with_path(got),
        jax.tree_util.tree_leaves_with_path(expected),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-8, err_msg=str(path))


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_one_two_and_eight_devices_and_pmap_agree(name):
    with jax.enable_x64(True):
        stage, state, batches = build(name)
        one, metrics = by_mesh(stage, state, batches, 1)
        moved = jax.tree.map(lambda a, b: float(np.max(np.abs(a - b))), one["params"], jax.device_get(state.params))
        assert max(jax.tree.leaves(moved)) > 1e-6
        for count in (2, 8):
            many, many_metrics = by_mesh(stage, state, batches, count)
            assert_close(many, one)
            np.testing.assert_allclose(many_metrics["loss"], metrics["loss"], rtol=1e-9)
        assert_close(by_pmap(stage, state, batches, 2)[0], one)


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_gradients_of_one_and_four_devices_agree(name):
    """The gradient itself, seen through plain gradient descent: Adam would hide a factor."""
    import optax

    with jax.enable_x64(True):
        stage, state, batches = build(name)
        optimizers = {network: optax.sgd(1.0) for network in stage.optimizers}
        stage = __import__("dataclasses").replace(stage, optimizers=optimizers)
        state = state.replace(
            opt_state={n: tx.init(state.params[n]) for n, tx in optimizers.items()}
        )
        start = jax.device_get(state.params)
        grads = [
            jax.tree.map(
                lambda a, b: a - b, start, by_mesh(stage, state, batches[:1], n)[0]["params"]
            )
            for n in (1, 4)
        ]
        size = np.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(grads[0])))
        for a, b in zip(*map(jax.tree.leaves, grads), strict=True):
            assert np.all(np.abs(a - b) <= 1e-9 * (np.abs(a) + 1e-6 * size) + 1e-15)


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_the_step_holds_one_gradient_all_reduce_and_no_all_gather(name):
    config = settings(name, norm="none")
    if "segmenter" in config:
        config.segmenter.norm = "none"
    if "adversarial" in config.loss:
        config.loss.adversarial.form = "hinge"
    starts = {}
    if name in ("srgan", "joint"):
        inner = build_stage(settings("segmentation"), {})
        first = inner.init(jax.random.key(1), runs.example_batch(config))
        starts["segmenter"] = first.variables("segmenter")
    config.precision = "float32"
    if name in ("srgan", "joint"):
        config.loss.features.weight = 0.0
    stage = build_stage(config, {})
    state = stage.init(jax.random.key(0), runs.example_batch(config))
    mesh = sharding.data_mesh(jax.devices()[:2])
    batch = {k: np.repeat(runs.example_batch(config)[k], 2, 0) for k in stage.fields}
    step = sharding.train_step(stage.train_step, mesh)
    text = step.lower(sharding.replicate(state, mesh), sharding.place_batch(batch, mesh)).compile().as_text()
    reduces = re.findall(r"= \S+ all-reduce(?:-start)?\(", text)
    assert len(reduces) == 1
    assert "all-gather" not in text
    assert "all-to-all" not in text


def test_a_batch_is_split_and_comes_back_in_order():
    mesh = sharding.data_mesh(jax.devices()[:4])
    rows = np.arange(8 * 3, dtype=np.uint8).reshape(8, 3)
    placed = sharding.place_batch({"x": rows}, mesh)["x"]
    assert {shard.data.shape for shard in placed.addressable_shards} == {(2, 3)}
    np.testing.assert_array_equal(sharding.local_rows(placed), rows)


def test_evaluation_is_split_over_devices():
    mesh = sharding.data_mesh(jax.devices()[:4])
    step = sharding.eval_step(lambda state, batch: {"y": batch["x"] * state}, mesh)
    out = step(jnp.asarray(3.0), sharding.place_batch({"x": np.arange(8.0)}, mesh))["y"]
    np.testing.assert_array_equal(sharding.local_rows(out), 3 * np.arange(8.0))
