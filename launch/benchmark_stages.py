"""A stage's training step, its input and its tiled inference, measured with untrained networks.

Weights do not change how long anything takes, so nothing is trained and no run is needed. Every
`measure_` function takes a resolved config as plain values, so that it can run in a process apart.
"""

from __future__ import annotations

import functools
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from histojax.components import networks
from histojax.config import from_values
from histojax.data import pipeline
from histojax.data.sources.base import Source
from histojax.inference import tiled
from histojax.models import layers
from histojax.runs import workdirs
from histojax.stages import build_stage, segmentation
from histojax.stages.base import enhances, segments
from histojax.training import loop, sharding
from launch import benchmark_timing as timing

Tree = Any


def untrained_stage(config: ConfigDict) -> Any:
    """The stage of a config, without the runs that it starts from."""
    return build_stage(config, _encoder(config))


def _encoder(config: ConfigDict) -> dict[str, Tree]:
    """The segmenter, where the stage's feature loss reads it: no stage is built without."""
    features = config.loss.get("features")
    if features is None or features.weight == 0 or features.network != "segmenter":
        return {}
    module = segmentation.build_segmenter(config, networks.compute_dtype(config))
    image = workdirs.example_batch(config)["hr"].astype(np.float32)
    init = jax.jit(lambda key: module.init(key, image, train=False))
    return {"segmenter": init(jax.random.key(config.seed))}


def untrained_run(config: ConfigDict) -> workdirs.Run:
    """A run as `runs.load` gives it, but of a stage at step 0 and without a workdir."""
    if "features" in config.loss:
        config = config.copy_and_resolve_references()
        config.loss.features.weight = 0.0
    stage = build_stage(config, {})
    state = workdirs.fresh_state(stage, config).replace(opt_state={})
    meta = {"thresholds": {"mask": config.get("threshold", 0.5)}, "mpp_in": None, "mpp_out": None}
    return workdirs.Run(pathlib.Path(), config, stage, state, 0, meta)


def measure_step(
    values: Mapping[str, Any], *, steps: int, seconds: float, matmul_size: int | None = None
) -> dict[str, Any]:
    """The training step on one batch, the input pipeline, and the two together, on all devices.

    Args:
        values: the stage's config.
        steps: that are timed.
        seconds: for which the input pipeline alone is watched.
        matmul_size: see `timing.matmul_peak`.

    Returns:
        What `timing.compiled`, `timing.repeated` and `timing.peak_memory` give of the step (flop of
        all devices), and:
        batch_size, images_per_second of the step alone;
        flop_grouped: the same step's, had each group of a grouped convolution its own kernel only;
        peak_flops, dtype: FLOP a second of a large matrix product in the step's compute dtype;
        share_of_peak: of the FLOP that are run;
        input: as `_input_rate` gives it;
        together: images_per_second with batches from the pipeline, dispatched as in training;
        bottleneck: "input" or "step", whichever alone is slower.
    """
    config = from_values(dict(values))
    mesh = sharding.data_mesh()
    loop.check(config, mesh.size)
    size = config.data.batch_size
    stage = untrained_stage(config)
    state = sharding.replicate(workdirs.fresh_state(stage, config), mesh)
    source = workdirs.open_split(config, "train", fields=stage.fields)
    batches = _batches(config, source, stage.fields, sharding=sharding.batch_sharding(mesh))
    batch = sharding.place_batch(next(batches), mesh)
    batches.close()

    take_step, measured = timing.compiled(sharding.train_step(stage.train_step, mesh), state, batch)

    def step() -> None:
        nonlocal state
        state, metrics = take_step(state, batch)
        jax.block_until_ready((state, metrics))

    measured.update(timing.repeated(step, steps))
    measured.update(timing.peak_memory())
    measured["batch_size"] = size
    measured["images_per_second"] = size / measured["seconds"]
    if measured["flop"] is not None:
        measured["flop"] *= mesh.size
    measured["flop_grouped"] = _flop_grouped(config)
    dtype = networks.compute_dtype(config)
    measured["dtype"] = jnp.dtype(dtype).name
    measured["peak_flops"] = timing.matmul_peak(mesh, dtype, size=matmul_size)
    measured["share_of_peak"] = measured["flop"] and (
        measured["flop"] / measured["seconds"] / measured["peak_flops"]
    )

    measured["input"] = _input_rate(batches, config, len(source), seconds)
    for _ in range(2):
        state, _ = take_step(state, sharding.place_batch(next(batches), mesh))
    jax.block_until_ready(state)
    started = time.perf_counter()
    for _ in range(steps):
        state, _ = take_step(state, sharding.place_batch(next(batches), mesh))
    jax.block_until_ready(state)
    measured["together"] = {
        "images_per_second": steps * size / (time.perf_counter() - started),
        "steps": steps,
    }
    batches.close()
    slow_input = measured["input"]["pairs_per_second"] < measured["images_per_second"]
    measured["bottleneck"] = "input" if slow_input else "step"
    return measured


def _flop_grouped(config: ConfigDict) -> float | None:
    """FLOP of a step on the whole batch, by XLA's count of the program before it is optimised."""
    config = config.copy_and_resolve_references()
    stage = untrained_stage(config)
    state = jax.eval_shape(lambda: workdirs.fresh_state(stage, config))
    example = workdirs.example_batch(config)
    batch = {
        name: jax.ShapeDtypeStruct((config.data.batch_size, *example[name].shape[1:]), np.uint8)
        for name in stage.fields
    }
    step = jax.jit(functools.partial(stage.train_step, axis_name=None))
    with mock.patch.object(layers, "grouped_conv_form", return_value="grouped"):
        return (step.lower(state, batch).cost_analysis() or {}).get("flops")


def _batches(config: ConfigDict, source: Source, fields: Sequence[str], **options: Any) -> Any:
    return pipeline.train_batches(
        source,
        config.data,
        fields=fields,
        batch_size=config.data.batch_size,
        seed=config.seed,
        **options,
    )


def measure_input(
    values: Mapping[str, Any], *, workers: Sequence[int], seconds: float
) -> list[dict[str, Any]]:
    """The input pipeline alone, once for each number of worker processes (0: threads).

    Args:
        values: the stage's config; its data.placement "device" and, on an accelerator, "auto" add a
            row of batches made there.
        workers: numbers of processes.
        seconds: for which each is watched.

    Returns:
        Rows of placement, workers, fields, crop, batch_size, and what `_input_rate` gives.
    """
    config = from_values(dict(values))
    stage = untrained_stage(config)
    chosen = config.data.placement
    on_device = chosen == "device" or (chosen == "auto" and jax.default_backend() != "cpu")
    rows = []
    for placement, count in [("host", n) for n in workers] + [(chosen, 0)] * on_device:
        config.data.update(placement=placement, workers=count)
        source = workdirs.open_split(config, "train", fields=stage.fields)
        batches = _batches(config, source, stage.fields)
        if placement == "auto" and isinstance(batches, pipeline.HostBatches):
            break  # the set does not fit or a step cannot run there
        rows.append(
            {
                "placement": "host" if placement == "host" else "device",
                "workers": count,
                "fields": list(stage.fields),
                "crop": config.data.crop,
                "batch_size": config.data.batch_size,
                **_input_rate(batches, config, len(source), seconds),
            }
        )
        batches.close()
    return rows


def _input_rate(batches: Any, config: ConfigDict, images: int, seconds: float) -> dict[str, Any]:
    """Pairs a second of batches drawn one after the other, once the images have been read.

    Before, batches are drawn for one visit of every image by every worker, or for twice `seconds`,
    whichever is sooner; they also empty the buffers.

    Returns:
        pairs_per_second, batches (watched), images_seen (whether all had been visited).
    """
    size = config.data.batch_size
    visits = images * config.data.crops_per_image * max(config.data.workers, 1)
    drawn, started = 0, time.perf_counter()
    while drawn == 0 or (drawn * size < visits and time.perf_counter() - started < 2 * seconds):
        jax.block_until_ready(next(batches))
        drawn += 1
    watched, started, passed = 0, time.perf_counter(), 0.0
    while watched < 2 or passed < seconds:
        jax.block_until_ready(next(batches))
        watched += 1
        passed = time.perf_counter() - started
    return {
        "pairs_per_second": watched * size / passed,
        "batches": watched,
        "images_seen": drawn * size >= visits,
    }


def measure_inference(
    values: Mapping[str, Any], *, size: int, repeats: int
) -> dict[str, dict[str, Any]]:
    """Tiled inference on one made-up image, with each network that the stage has, and with both.

    Args:
        values: the stage's config.
        size: side of the output, px.
        repeats: images that are timed.

    Returns:
        enhance, segment, predict (both, one after the other) -> what `timing.repeated` gives of an
        image, first_seconds (compilation and one image), megapixels_per_second of output, size,
        core and halo (input px) and peak memory so far.
    """
    run = untrained_run(from_values(dict(values)))
    makers = {}
    if enhances(run.stage):
        makers["enhance"] = tiled.enhancer
    if segments(run.stage):
        makers["segment"] = tiled.segmenter
    if len(makers) == 2:
        makers["predict"] = tiled.predictor
    rng = np.random.default_rng(0)
    rows = {}
    for name, maker in makers.items():
        network = maker(run)
        side = max(size // network.scale, 1)
        image = rng.integers(0, 256, (side, side, 3), np.uint8)
        started = time.perf_counter()
        network(image)
        first = time.perf_counter() - started
        spent = timing.repeated(functools.partial(network, image), repeats)
        output = side * network.scale
        rows[name] = {
            **spent,
            "first_seconds": first,
            "megapixels_per_second": output**2 / 1e6 / spent["seconds"],
            "size": output,
            "core": network.core([(side, side)]),
            "halo": network.halo,
            **timing.peak_memory(),
        }
    return rows
