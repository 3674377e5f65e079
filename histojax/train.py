"""The one training loop, for every stage."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from histojax import checkpoint, config, runs, sharding
from histojax.data import pipeline, sources
from histojax.errors import UserError
from histojax.imaging import figures
from histojax.metric_writer import MetricWriter
from histojax.stages import build_stage

Tree = Any


class Stopped(Exception):
    """The run was asked to stop, and its checkpoint is written."""


@dataclasses.dataclass
class Progress:
    """What the loop knows beside the state; kept in a checkpoint's meta.

    Attributes:
        best: value of the stage's best metric so far, None before the first evaluation.
        seconds: wall time spent in this run, over all its resumptions.
    """

    best: float | None = None
    seconds: float = 0.0


def open_split(settings: ConfigDict, split: str, *, labels: bool) -> sources.Source:
    """A split of the config's data, with what a run needs of it checked.

    Raises:
        UserError: for whatever is wrong with the data.
    """
    data = settings.data
    return sources.open_source(
        data.source,
        split=split,
        seed=settings.seed,
        group_pattern=data.group_pattern,
        synthetic=data.synthetic.to_dict(),
        require_labels=labels,
        crop=data.crop,
        scale=data.scale,
    )


def train(
    settings: ConfigDict,
    workdir: pathlib.Path,
    starts: Mapping[str, Tree] | None = None,
    *,
    devices: list[jax.Device] | None = None,
) -> runs.Run:
    """Trains a stage in its workdir, from its last checkpoint on, and returns the run.

    Args:
        settings: the stage's config, resolved.
        workdir: its folder.
        starts: variables of earlier runs, by network.
        devices: to use instead of all.

    Raises:
        UserError: for whatever is wrong with config, data, workdir or checkpoint, and when too
            many steps in a row were not finite.
        Stopped: after SIGTERM or SIGINT, once the checkpoint is written.
    """
    _check(settings, len(devices or jax.devices()))
    stage = build_stage(settings, starts or {})
    labels = "mask" in stage.fields
    source = open_split(settings, "train", labels=labels)
    held_out = open_split(settings, "val", labels=labels)
    config.claim(settings, workdir)

    mesh = sharding.data_mesh(devices)
    batches = pipeline.train_batches(
        source,
        settings.data,
        fields=stage.fields,
        batch_size=settings.data.batch_size // jax.process_count(),
        seed=settings.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        sharding=sharding.batch_sharding(mesh),
    )
    last = checkpoint.Series(workdir / "checkpoints" / "last", keep=settings.checkpoint.keep)
    best = checkpoint.Series(workdir / "checkpoints" / "best", keep=1)
    state = stage.init(jax.random.key(settings.seed), runs.example_batch(settings))
    describe(stage, state, settings)
    frozen = sharding.replicate(state.frozen, mesh)
    state = sharding.replicate(state.replace(frozen={}), mesh)
    progress, step = Progress(), 0
    restored = last.restore(state)
    if restored is not None:
        state, step = restored.state, restored.step
        batches.set_state(restored.data)
        progress = Progress(restored.meta["best"], restored.meta["seconds"])
        say(f"{settings.name}: going on from step {step}")
    state = state.replace(frozen=frozen)

    writer = MetricWriter(workdir, resume_step=step, tensorboard=settings.log.tensorboard)
    take_step = sharding.train_step(stage.train_step, mesh)
    evaluator = Evaluator(stage, held_out, settings, mesh, workdir)
    line = ProgressLine(settings.name, settings.steps)
    phases = dict(stage.phases())

    def save(series: checkpoint.Series) -> None:
        series.save(
            step,
            state.replace(frozen={}),
            data=batches.get_state(),
            meta={
                "config": config.resolved(settings),
                "thresholds": {"mask": settings.get("threshold", 0.5)},
                "mpp_in": _scaled(source.mpp, settings),
                "mpp_out": source.mpp,
                "best": progress.best,
                "seconds": progress.seconds,
            },
        )

    resumed_at, started = progress.seconds, time.perf_counter()
    # Dispatch runs ahead of the device, so metrics are read only where they are wanted.
    with _stop_signals() as stop:
        try:
            while step < settings.steps:
                if step in phases:
                    say(f"{settings.name}: from step {step}, {phases[step]}")
                batch = sharding.place_batch(next(batches), mesh)
                state, metrics = take_step(state, batch)
                step += 1
                done = step == settings.steps
                progress.seconds = resumed_at + time.perf_counter() - started
                if step % settings.log.every == 0 or done:
                    values = {name: float(value) for name, value in metrics.items()}
                    writer.write(step, "train", {**values, "seconds": progress.seconds})
                    line.show(step, values)
                    _check_finite(values, settings, workdir, last)
                if step % settings.eval.every == 0 or done:
                    values = evaluator(state, step)
                    writer.write(step, "val", {**values, "seconds": progress.seconds})
                    line.show_evaluation(step, values)
                    if better(stage.best, {**values, "step": step}, progress):
                        save(best)
                if step % settings.checkpoint.every == 0 or done or _asked(stop):
                    save(last)
                    if _asked(stop) and not done:
                        raise Stopped(
                            f"{settings.name}: stopped at step {step}, checkpoint written; the "
                            "same command goes on from there"
                        )
        finally:
            line.end()
            writer.close()
            last.close()
            best.close()
    return runs.load(workdir)


class Evaluator:
    """Evaluates on fixed crops of the val split, and draws a few of them."""

    def __init__(
        self,
        stage: Any,
        source: sources.Source,
        settings: ConfigDict,
        mesh: jax.sharding.Mesh,
        workdir: pathlib.Path,
    ):
        size = settings.eval.batch_size
        size += -size % mesh.size
        self._batches = list(
            pipeline.eval_batches(
                source,
                settings.data,
                fields=tuple(dict.fromkeys((*stage.fields, "hr"))),
                batch_size=size,
                crop=settings.eval.crop,
                limit=settings.eval.crops,
            )
        )
        self._stage, self._mesh, self._workdir = stage, mesh, workdir
        self._step = sharding.eval_step(stage.eval_step, mesh)
        self._pictures = settings.eval.pictures
        self._scale = settings.data.scale

    def __call__(self, state: Tree, step: int) -> dict[str, float]:
        """Metric -> value over all crops; also writes samples/step_<step>.png."""
        sums: dict[str, np.ndarray] = {}
        shown: list[dict[str, np.ndarray]] = []
        for batch in self._batches:
            arrays = {k: v for k, v in batch.items() if k in self._stage.fields}
            outputs = self._step(state, sharding.place_batch(arrays, self._mesh))
            outputs = {name: sharding.local_rows(value) for name, value in outputs.items()}
            for name, pair in self._stage.evaluate(outputs, batch).items():
                sums[name] = sums.get(name, np.zeros(2)) + np.asarray(pair)
            for i in np.flatnonzero(batch["weight"])[: self._pictures - len(shown)]:
                shown.append(
                    {
                        **{k: batch[k][i] for k in self._stage.fields},
                        **{f"predicted_{k}": v[i] for k, v in outputs.items()},
                    }
                )
        if shown and jax.process_index() == 0:
            figures.write_samples(
                self._workdir / "samples" / f"step_{step:07d}.png", shown, scale=self._scale
            )
        return {name: float(total / count) if count else 1.0 for name, (total, count) in
                sums.items()}


def better(rule: tuple[str, str], values: Mapping[str, float], progress: Progress) -> bool:
    """Whether these values are the best so far by the rule; remembers them if so."""
    name, sense = rule
    value = values[name]
    if not math.isfinite(value):
        return False
    if progress.best is not None and (value <= progress.best) == (sense == "max"):
        return False
    progress.best = value
    return True


class ProgressLine:
    """step, rate, time left and the main numbers: one line that rewrites itself on a terminal."""

    def __init__(self, name: str, steps: int):
        self._name, self._steps = name, steps
        self._live = sys.stderr.isatty()
        self._time, self._step = time.perf_counter(), -1
        self._rate = 0.0

    def show(self, step: int, values: Mapping[str, float]) -> None:
        """Shows the training metrics of a step."""
        now = time.perf_counter()
        if self._step >= 0:
            self._rate = (step - self._step) / max(now - self._time, 1e-9)
        self._time, self._step = now, step
        left = (self._steps - step) / self._rate if self._rate else math.nan
        numbers = "  ".join(
            f"{name} {value:.4g}"
            for name, value in values.items()
            if name in ("loss", "psnr", "accuracy", "real_above_fake")
        )
        skipped = f"  skipped {values['skipped']:.0f}" if values.get("skipped") else ""
        rate = f"{self._rate:.1f} steps/s  left {clock(left)}" if self._rate else "compiled"
        self._print(f"{self._name} {step}/{self._steps}  {rate}  {numbers}{skipped}", live=True)

    def show_evaluation(self, step: int, values: Mapping[str, float]) -> None:
        """Shows the evaluation of a step, on a line that stays."""
        numbers = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        self._print(f"{self._name} {step}/{self._steps}  val  {numbers}", live=False)
        # Evaluation time is not training time: the next rate is measured from here.
        self._time = time.perf_counter()

    def end(self) -> None:
        """Leaves the line."""
        if self._live:
            sys.stderr.write("\n")

    def _print(self, text: str, *, live: bool) -> None:
        if jax.process_index() != 0:
            return
        if self._live:
            sys.stderr.write("\r\x1b[K" + text + ("" if live else "\n"))
        else:
            sys.stderr.write(text + "\n")
        sys.stderr.flush()


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss or m:ss."""
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def say(text: str) -> None:
    """A line to the user, from one process of many."""
    if jax.process_index() == 0:
        print(text, file=sys.stderr, flush=True)


def describe(stage: Any, state: Tree, settings: ConfigDict) -> None:
    """Prints what is trained: each network's fields, parameters and GFLOP a forward image."""
    batch = {k: jax.numpy.asarray(v) for k, v in runs.example_batch(settings).items()}
    for name, module in stage.networks.items():
        image = (batch["lr"] if name == "generator" else batch["hr"]).astype(np.float32)
        count = sum(leaf.size for leaf in jax.tree.leaves(state.params[name]))
        cost = jax.jit(lambda v, x, m=module: m.apply(v, x, train=False)).lower(
            state.variables(name), image
        ).cost_analysis()
        flop = (cost or {}).get("flops", math.nan)
        fields = ", ".join(f"{k}={v}" for k, v in settings.get(name, {}).items())
        say(
            f"{settings.name}: {name} {type(module).__name__}({fields}), {count:,} parameters, "
            f"{flop / 1e9:.2f} GFLOP per {image.shape[1]}x{image.shape[2]} image"
        )


def _check(settings: ConfigDict, devices: int) -> None:
    data = settings.data
    for name, value in (("steps", settings.steps), ("data.crop", data.crop),
                        ("data.batch_size", data.batch_size), ("log.every", settings.log.every),
                        ("eval.every", settings.eval.every),
                        ("checkpoint.every", settings.checkpoint.every)):
        if not isinstance(value, int) or value < 1:
            raise UserError(f"{name}={value!r} has to be a whole number of 1 or more")
    if data.crop % data.scale:
        raise UserError(
            f"data.crop={data.crop} has to be a multiple of data.scale={data.scale}"
        )
    if data.batch_size % devices:
        raise UserError(
            f"data.batch_size={data.batch_size} has to be a multiple of the {devices} devices; "
            f"choose {data.batch_size + -data.batch_size % devices}"
        )


def _check_finite(
    values: Mapping[str, float],
    settings: ConfigDict,
    workdir: pathlib.Path,
    last: checkpoint.Series,
) -> None:
    if values["skipped_in_a_row"] < settings.max_skipped:
        return
    steps = last.steps()
    place = f"{last.folder}/{steps[-1]}" if steps else "none was written yet"
    raise UserError(
        f"{settings.name}: {values['skipped_in_a_row']:.0f} steps in a row were not finite "
        f"(max_skipped={settings.max_skipped}); the last good checkpoint is {place}; lower the "
        f"learning rate in a new workdir, or see {workdir}/metrics.jsonl for where it began"
    )


def _scaled(mpp: float | None, settings: ConfigDict) -> float | None:
    """mpp of what the trained network reads: the generator's input is r times coarser."""
    if mpp is None:
        return None
    return mpp * (settings.data.scale if settings.stage != "segmentation" else 1)


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


def _asked(seen: list[int]) -> bool:
    """Whether any process was asked to stop."""
    if jax.process_count() == 1:
        return bool(seen)
    from jax.experimental import multihost_utils

    return bool(np.max(multihost_utils.process_allgather(np.asarray(len(seen)))))
