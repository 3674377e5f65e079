"""Training: a stage's step, its input pipeline, and forms of the grouped convolution.

Networks are untrained, because weights do not change the time. Each `measure_` function takes a
resolved config as plain values and returns rows, so that it can run in a process of its own.
"""

import pathlib
import time
from collections.abc import Mapping
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from histojax.components import networks, pretrained
from histojax.config import from_values
from histojax.data import pipeline
from histojax.models import convolutions
from histojax.runs import run_data, workdirs
from histojax.stages import build_stage, segmentation
from histojax.stages.base import Stage
from histojax.training import loop, sharding
from launch.benchmark import timing

Row = dict[str, Any]
# For which an input pipeline is timed.
SECONDS = 5.0


def untrained_stage(config: ConfigDict) -> Stage:
    """The stage of a config, without the runs and the files that it starts from."""
    features = config.loss.get("features")
    if features is None or features.weight == 0 or features.network != "segmenter":
        with mock.patch.object(pretrained, "load_feature_network", _untrained_features):
            return build_stage(config, {})
    # No stage with this loss is built without a segmenter. Zeros need no compilation.
    module = segmentation.build_segmenter(config)
    image = workdirs.example_batch(config)["hr"].astype(np.float32)
    shapes = jax.eval_shape(lambda key: module.init(key, image, train=False), jax.random.key(0))
    return build_stage(config, {"segmenter": jax.tree.map(jnp.zeros_like, shapes)})


def _untrained_features(name: str, *_: Any, **__: Any) -> tuple[Any, Any]:
    network = pretrained.FEATURE_NETWORKS[name]
    module = network.module()
    shapes = pretrained.shapes(module, network.side)
    return module, jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


def untrained_run(config: ConfigDict) -> workdirs.Run:
    """A run as `workdirs.load` returns it, at step 0 and without a workdir."""
    stage = untrained_stage(config)
    state = workdirs.fresh_state(stage, config).replace(opt_state={})
    meta = {"thresholds": {"mask": config.get("threshold", 0.5)}, "mpp_in": None, "mpp_out": None}
    return workdirs.Run(pathlib.Path(), config, stage, state, 0, meta)


class Step:
    """A stage's compiled training step on one batch; `row` has what the compilation measured."""

    def __init__(self, stage: Stage, config: ConfigDict, batch: Mapping[str, Any], mesh: Mesh):
        self.batch = sharding.place_batch(batch, mesh)
        self.state = sharding.replicate(workdirs.fresh_state(stage, config), mesh)
        train_step = sharding.train_step(stage.train_step, mesh)
        self.program, self.row = timing.compiled(train_step, self.state, self.batch)

    def __call__(self) -> None:
        self.state, metrics = self.program(self.state, self.batch)
        jax.block_until_ready((self.state, metrics))


def measure_step(
    values: Mapping[str, Any], *, name: str, steps: int, matmul_size: int | None = None
) -> list[Row]:
    """A stage's step on one batch, its input pipeline, and both together, on all devices."""
    config = from_values(dict(values))
    mesh = sharding.data_mesh()
    loop.check(config, mesh.size)
    size = config.data.batch_size
    stage = untrained_stage(config)
    batches, images = _batches(config, stage, sharding=sharding.batch_sharding(mesh))
    step = Step(stage, config, next(batches), mesh)
    batches.close()
    spent = timing.timed(step, steps)
    peak = timing.peak_bytes()
    flop = step.row["flop"] and step.row["flop"] * mesh.size
    model_flop = timing.model_flop(jax.jit(stage.train_step), step.state, step.batch)
    dtype = networks.compute_dtype(config)
    peak_flops = timing.matmul_peak(mesh, dtype, size=matmul_size)
    rate = _input_rate(batches, config, images)["pairs_per_second"]
    with timing.Clock() as clock:
        for _ in range(steps):  # dispatched ahead, as in training
            batch = sharding.place_batch(next(batches), mesh)
            step.state, _ = step.program(step.state, batch)
        jax.block_until_ready(step.state)
    batches.close()
    images_per_second = size / spent["seconds"]
    row = {
        "name": name,
        "batch_size": size,
        **step.row,
        **spent,
        "images_per_second": images_per_second,
        "peak_bytes": peak,
        "flop": flop,
        "dtype": jnp.dtype(dtype).name,
        "peak_flops": peak_flops,
        "share_of_peak": flop and flop / spent["seconds"] / peak_flops,
        "model_flop": model_flop,
        "model_share_of_peak": model_flop and model_flop / spent["seconds"] / peak_flops,
        "input_pairs_per_second": rate,
        "together_images_per_second": steps * size / clock.spent["seconds"],
        "bottleneck": "input" if rate < images_per_second else "step",
    }
    return [row]


def _batches(config: ConfigDict, stage: Stage, **options: Any) -> tuple[Any, int]:
    """The batches of a stage, and the number of its training images."""
    source = run_data.open_split(config, "train", fields=stage.fields)
    options |= dict(fields=stage.fields, batch_size=config.data.batch_size, seed=config.seed)
    return pipeline.train_batches(source, config.data, **options), len(source)


def measure_input(values: Mapping[str, Any], *, name: str) -> list[Row]:
    """A stage's input pipeline alone, with the workers and the placement of its config."""
    config = from_values(dict(values))
    batches, images = _batches(config, untrained_stage(config))
    placement = "host" if isinstance(batches, pipeline.HostBatches) else "device"
    fields = {field: config.data[field] for field in ("workers", "crop", "batch_size")}
    rate = _input_rate(batches, config, images)
    batches.close()
    return [{"name": name, "placement": placement, **fields, **rate}]


def _input_rate(batches: Any, config: ConfigDict, images: int) -> Row:
    """Pairs a second of batches drawn one after the other, once the images have been read.

    Each worker visits every image before, or for twice SECONDS at most; this empties the buffers.
    """
    size = config.data.batch_size
    visits = images * config.data.crops_per_image * max(config.data.workers, 1)
    drawn, started = 0, time.perf_counter()
    while drawn == 0 or (drawn * size < visits and time.perf_counter() - started < 2 * SECONDS):
        jax.block_until_ready(next(batches))
        drawn += 1
    counted, started, passed = 0, time.perf_counter(), 0.0
    while counted < 2 or passed < SECONDS:
        jax.block_until_ready(next(batches))
        counted += 1
        passed = time.perf_counter() - started
    return {"pairs_per_second": counted * size / passed, "images_seen": drawn * size >= visits}


def measure_grouped(
    values: Mapping[str, Any], *, form: str, batch_size: int, repeats: int
) -> list[Row]:
    """A generator's step on one device, with a form of `convolutions.GROUPED_FORMS`."""
    config = from_values(dict(values))
    mesh = sharding.data_mesh(jax.devices()[:1])
    rng = np.random.default_rng(0)
    # "auto" leaves the backend its form.
    choose = convolutions.grouped_conv_form if form == "auto" else lambda backend: form
    with mock.patch.object(convolutions, "grouped_conv_form", choose):
        stage = build_stage(config, {})
        shapes = {key: x.shape[1:] for key, x in workdirs.example_batch(config).items()}
        batch = {
            field: rng.integers(0, 256, (batch_size, *shapes[field]), np.uint8)
            for field in stage.fields
        }
        step = Step(stage, config, batch, mesh)
    row = {
        "name": f"{choose(jax.default_backend())}{', in use' * (form == 'auto')}",
        "batch_size": batch_size,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(step.state.params)),
        **step.row,
        **timing.timed(step, repeats),
        "peak_bytes": timing.peak_bytes(),
    }
    return [row]
