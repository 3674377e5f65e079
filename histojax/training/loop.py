"""The one training loop, for every stage."""

from __future__ import annotations

import math
import pathlib
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from histojax.cli import say
from histojax.components.mean_teacher import build_teacher
from histojax.config import claim_workdir, to_values
from histojax.data import pipeline, stain_matching
from histojax.errors import UserError
from histojax.imaging import writers
from histojax.runs import checkpoint, run_data, workdirs
from histojax.runs.metrics_log import read_metrics
from histojax.stages import build_stage
from histojax.stages.base import Stage, enhances, synthesizes
from histojax.training import gan_health, metric_writer, sharding
from histojax.training.metric_writer import MetricWriter
from histojax.training.progress import ProgressLine, SinceLastLine
from histojax.training.validation import Progress, Validation, better
from histojax.training.wandb_run import WandbRun

Tree = Any


class Stopped(Exception):
    """The run was asked to stop, and its checkpoint is written."""


def train(
    config: ConfigDict,
    workdir: pathlib.Path,
    initial: Mapping[str, Tree] | None = None,
    *,
    devices: list[jax.Device] | None = None,
) -> workdirs.Run:
    """Trains a stage in its workdir, from its last checkpoint on, and returns the run.

    Args:
        config: the stage's config, resolved.
        workdir: its folder.
        initial: variables of earlier runs, by network.
        devices: to use instead of all.

    Raises:
        UserError: for whatever is wrong with config, data, workdir or checkpoint, and when too
            many steps in a row or what is trained were not finite.
        DiskError: if something cannot be written; the last checkpoint is whole.
        Stopped: after SIGTERM or SIGINT, once the checkpoint is written.
    """
    check(config, len(devices or jax.devices()))
    last = checkpoint.Series(workdir / "checkpoints" / "last", keep=config.checkpoint.keep)
    begun = bool(last.steps())
    stage = build_stage(workdirs.without_pretrained(config) if begun else config, initial or {})
    source = run_data.open_split(config, "train", fields=stage.fields, crop=config.data.crop)
    held_out = run_data.open_split(config, "val", fields=stage.fields, crop=config.data.crop)
    matching = None
    # Asked first, because without one a checkpoint's meta, which may be damaged, is not looked at.
    if stain_matching.check(config) is not None:
        # A run that goes on has the target's fit, whatever has become of its image.
        matching = stain_matching.build(config, last.meta() if begun else None)
    if matching is not None:
        source, held_out = matching.source(source), matching.source(held_out)
    palette = None
    if synthesizes(stage):
        palette = last.meta().get("palette") if begun else stage.palette_of(source)
    mesh = sharding.data_mesh(devices)
    batches = pipeline.train_batches(
        source,
        config.data,
        fields=stage.fields,
        batch_size=config.data.batch_size // jax.process_count(),
        seed=config.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        sharding=sharding.batch_sharding(mesh),
    )
    # Only now, so that whatever was refused until here can be given otherwise in this workdir.
    claim_workdir(config, workdir)

    if jax.process_index() == 0:
        writers.write_json(workdir / "manifest.json", run_data.manifest(config))

    best = checkpoint.Series(workdir / "checkpoints" / "best", keep=1)
    state = workdirs.fresh_state(stage, config)
    describe(stage, state, config)
    frozen = sharding.replicate(state.frozen, mesh)
    state = sharding.replicate(state.replace(frozen={}), mesh)
    progress, since, step = Progress(), SinceLastLine(), 0
    restored = last.restore(state)
    if restored is not None:
        state, step = restored.state, restored.step
        batches.set_state(restored.data)
        progress = Progress(restored.meta["best"], restored.meta["seconds"])
        since = SinceLastLine(restored.meta["since"])
        say(f"{config.name}: going on from step {step}")
    state = state.replace(frozen=frozen)

    validation = Validation(stage, held_out, config, mesh, workdir)
    writer = None
    if jax.process_index() == 0:
        writer = MetricWriter(
            workdir,
            resume_step=step,
            tensorboard=config.log.tensorboard,
            wandb_run=WandbRun(config, workdir) if config.log.wandb.project else None,
        )
    take_step = sharding.train_step(stage.train_step, mesh)
    line = ProgressLine(config.name, config.steps)
    # The last step looks at no score, where labels to choose by must not be used.
    chosen = ("step", "max") if config.checkpoint.get("best") == "last" else stage.best
    watch = gan_health.build_watch(config, stage)
    if watch is not None and writer is not None:
        for row in read_metrics(writer.path):  # of a run that goes on
            watch.see(row)
    phases = dict(stage.phases())

    def save(series: checkpoint.Series) -> None:
        _check_state(state, config, last)
        series.save(
            step,
            state.replace(frozen={}),
            data=batches.get_state(),
            meta={
                "config": to_values(config),
                "thresholds": {"mask": config.get("threshold", 0.5)},
                "stain_target": matching.to_json() if matching else None,
                **({} if palette is None else {"palette": palette}),
                "mpp_in": _scaled(source.mpp, stage, config),
                "mpp_out": source.mpp,
                "classes": list(source.classes),
                "best": progress.best,
                "seconds": progress.seconds,
                "since": since.sums(),
            },
        )

    def record(split: str, values: Mapping[str, float]) -> None:
        if writer is None:
            return
        row = writer.write(step, split, {**values, "seconds": progress.seconds})
        for sentence in watch.see(row) if watch is not None else ():
            writer.warn(step, sentence)
            line.show_warning(step, sentence)

    resumed_at, started = progress.seconds, time.perf_counter()
    # Dispatch runs ahead of the device, so metrics are read only where they are wanted.
    with _stop_signals() as stop:
        try:
            while step < config.steps:
                if step in phases:
                    say(f"{config.name}: from step {step}, {phases[step]}")
                batch = sharding.place_batch(next(batches), mesh)
                state, metrics = take_step(state, batch)
                since.add(metrics)
                step += 1
                done = step == config.steps
                progress.seconds = resumed_at + time.perf_counter() - started
                logged = step % config.log.every == 0 or done
                if logged:
                    values = since.take()
                    record("train", values)
                    line.show(step, values)
                    _check_finite(values, state, config, workdir, last)
                if step % config.eval.every == 0 or done:
                    values = validation(state, step)
                    record("val", values)
                    line.show_evaluation(step, values)
                    if better(chosen, {**values, "step": step}, progress):
                        save(best)
                asked = _asked(stop, together=logged)
                if step % config.checkpoint.every == 0 or done or asked:
                    save(last)
                if asked:
                    break
        finally:
            line.end()
            batches.close()
            if writer is not None:
                writer.close()
            last.close()
            best.close()
    # Also of a signal that came with the last step: a chain would start its next stage.
    if _asked(stop, together=True):
        raise Stopped(
            f"{config.name}: stopped at step {step}, checkpoint written; the same command goes "
            "on from there"
        )
    return workdirs.load(workdir)


def describe(stage: Stage, state: Tree, config: ConfigDict) -> None:
    """Prints what is trained: each network's fields, parameters and GFLOP a forward image."""
    batch = {k: jax.numpy.asarray(v) for k, v in workdirs.example_batch(config).items()}
    for name, module in stage.networks.items():
        inputs = stage.inputs(batch)[name]
        image = inputs[0]
        count = sum(leaf.size for leaf in jax.tree.leaves(state.params[name]))
        cost = (
            jax.jit(lambda v, x, m=module: m.apply(v, *x, train=False))
            .lower(state.variables(name), inputs)
            .cost_analysis()
        )
        flop = (cost or {}).get("flops", math.nan)
        # The networks of a pyramid are numbered by their scale, and of one group.
        group = config.get(name) or config.get(name.partition("_")[0], {})
        fields = ", ".join(f"{k}={v}" for k, v in group.items())
        say(
            f"{config.name}: {name} {type(module).__name__}({fields}), {count:,} parameters, "
            f"{flop / 1e9:.2f} GFLOP per {image.shape[1]}x{image.shape[2]} image"
        )


def check(config: ConfigDict, devices: int) -> None:
    """Checks what only the loop reads of a config.

    Raises:
        UserError: for a value out of its range.
    """
    data = config.data
    for name, value in (
        ("steps", config.steps),
        ("data.crop", data.crop),
        ("data.batch_size", data.batch_size),
        ("log.every", config.log.every),
        ("eval.every", config.eval.every),
        ("eval.crop", config.eval.crop),
        ("eval.crops", config.eval.crops),
        ("eval.batch_size", config.eval.batch_size),
        ("checkpoint.every", config.checkpoint.every),
        ("checkpoint.keep", config.checkpoint.keep),
        ("max_skipped", config.max_skipped),
    ):
        if not isinstance(value, int) or value < 1:
            raise UserError(f"{name}={value!r} has to be a whole number of 1 or more")
    if data.crop % data.scale:
        nearest = max(data.crop // data.scale, 1) * data.scale
        raise UserError(
            f"data.crop={data.crop} has to be a multiple of data.scale={data.scale}; choose "
            f"{nearest}"
        )
    if config.checkpoint.get("best", "score") not in ("score", "last"):
        raise UserError(
            f"checkpoint.best={config.checkpoint.best!r} is not known; choose one of score, last"
        )
    metric_writer.check(config.log)
    pipeline.check(data)
    pipeline.check_seed(config.seed)
    if data.batch_size % devices:
        raise UserError(
            f"data.batch_size={data.batch_size} has to be a multiple of the {devices} devices; "
            f"choose {data.batch_size + -data.batch_size % devices}"
        )
    adversarial = config.loss.get("adversarial", {})
    if adversarial.get("weight", 0) and adversarial.get("discriminator_warmup", 0) >= config.steps:
        raise UserError(
            f"loss.adversarial.discriminator_warmup={adversarial.discriminator_warmup} comes "
            f"after the run's {config.steps} steps; shorten it, or leave the term out by "
            "loss.adversarial.weight=0"
        )
    build_teacher(config)
    gan_health.build_limits(config)


def _check_finite(
    values: Mapping[str, float],
    state: Tree,
    config: ConfigDict,
    workdir: pathlib.Path,
    last: checkpoint.Series,
) -> None:
    if values["skipped_in_a_row"]:
        _check_state(state, config, last)
    if values["skipped_in_a_row"] < config.max_skipped:
        return
    raise UserError(
        f"{config.name}: {values['skipped_in_a_row']:.0f} steps in a row were not finite "
        f"(max_skipped={config.max_skipped}); the last good checkpoint is {_newest(last)}; lower "
        f"the learning rate in a new workdir, or see {workdir}/metrics.jsonl for where it began"
    )


def _check_state(state: Tree, config: ConfigDict, last: checkpoint.Series) -> None:
    """Checks that all that is trained is finite: no later step could mend it.

    A step that is not finite leaves the state alone, so this takes an update that overflows or
    memory that fails.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(state.replace(frozen={}))
    for path, leaf in leaves:
        if not jax.numpy.issubdtype(leaf.dtype, jax.numpy.inexact):
            continue
        if not np.isfinite(np.asarray(leaf)).all():
            raise UserError(
                f"{config.name}: {jax.tree_util.keystr(path, simple=True, separator='/')} is not "
                f"finite at step {int(state.step)}, and no step can mend it; the last good "
                f"checkpoint is {_newest(last)}, from which the same command goes on; lower the "
                "learning rate in a new workdir if it comes again"
            )


def _newest(series: checkpoint.Series) -> str:
    steps = series.steps()
    return f"{series.folder}/{steps[-1]}" if steps else "none, for none was written yet"


def _scaled(mpp: float | None, stage: Stage, config: ConfigDict) -> float | None:
    """mpp of what the trained network reads: where it enhances, its input is r times coarser."""
    if mpp is None:
        return None
    return mpp * (config.data.scale if enhances(stage) else 1)


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Collects SIGTERM and SIGINT instead of dying of them; a second one acts at once."""
    seen: list[int] = []
    kept: dict[int, Any] = {}

    def note(number: int, frame: Any) -> None:
        del frame
        seen.append(number)
        signal.signal(number, kept[number])
        logging.info("signal %d: stopping after this step", number)

    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            kept[number] = signal.signal(number, note)
    except ValueError:  # not in the main thread: the caller's to handle
        pass
    try:
        yield seen
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def _asked(seen: list[int], *, together: bool) -> bool:
    """Whether any process was asked to stop; many processes compare notes only `together`.

    Asking waits for all of them, so they do it at the log cadence, where metrics are waited for
    anyway.
    """
    if jax.process_count() == 1:
        return bool(seen)
    if not together:
        return False
    from jax.experimental import multihost_utils

    return bool(np.max(multihost_utils.process_allgather(np.asarray(len(seen)))))
