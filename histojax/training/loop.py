"""The one training loop, for every stage."""

import contextlib
import functools
import math
import pathlib
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from histojax import checks, processes
from histojax.cli import say
from histojax.components import trees
from histojax.components.mean_teacher import build_teacher
from histojax.config import claim_workdir, to_values
from histojax.data import pipeline, stain_matching
from histojax.data.sources.base import Source
from histojax.errors import UserError
from histojax.runs import checkpoint, run_data, workdirs
from histojax.runs.metrics_log import read_metrics
from histojax.stages import build_stage
from histojax.stages.base import Stage, enhances, synthesizes
from histojax.training import gan_health, metric_writer, sharding
from histojax.training.metric_writer import MetricWriter
from histojax.training.progress import ProgressLine, SinceLastLine
from histojax.training.validation import Validation, better
from histojax.training.wandb_run import WandbRun

Tree = Any
_AT_LEAST_1: tuple[str, ...] = ("steps", "max_skipped", "data.crop", "data.batch_size", "log.every")
_AT_LEAST_1 += ("eval.every", "eval.crop", "eval.crops", "eval.batch_size")
_AT_LEAST_1 += ("checkpoint.every", "checkpoint.keep")
RULES = dict.fromkeys(_AT_LEAST_1, checks.whole(1))
RULES["checkpoint.best"] = checks.one_of(("score", "last"))


class Stopped(Exception):
    """The run was asked to stop, and its checkpoint is written."""


def train(
    config: ConfigDict,
    workdir: pathlib.Path,
    initial: Mapping[str, Tree] | None = None,
    *,
    known: run_data.Known | None = None,
    devices: list[jax.Device] | None = None,
) -> workdirs.Run:
    """Trains a stage in its workdir, from its last checkpoint on, and returns the run.

    `initial` has the variables of earlier runs, by network; `known` is what has been read of its
    data, None: what is found there now; `devices` are used instead of all.

    Raises:
        UserError: for whatever is wrong with config, data, workdir or checkpoint, and when too
            many steps in a row or what is trained were not finite.
        DiskError: if something cannot be written; the last checkpoint is whole.
        Stopped: after SIGTERM or SIGINT, once the checkpoint is written.
    """
    check(config, len(devices or jax.devices()))
    training = Training(config, workdir, initial or {}, known, devices)
    with stop_signals() as stop:
        try:
            training.run(stop)
        finally:
            training.close()
    # Also after a signal during the last step: a chain would start its next stage.
    if asked(stop, together=True):
        raise Stopped(
            f"{config.name}: stopped at step {training.step}, checkpoint written; the same command "
            "goes on from there"
        )
    return workdirs.load(workdir)


class Training:
    """A run between its first step and its last; its public attributes change with the steps.

    `state` is that after `step` steps, `since` has the metrics since the last line written, `best`
    the stage's best metric so far, and `seconds` the wall time over all resumptions.
    """

    def __init__(
        self,
        config: ConfigDict,
        workdir: pathlib.Path,
        initial: Mapping[str, Tree],
        known: run_data.Known | None,
        devices: list[jax.Device] | None,
    ):
        """Sets up the first step, or the one after the last checkpoint; claims the workdir."""
        self._config, self._workdir, self._mesh = config, workdir, sharding.data_mesh(devices)
        checkpoints = workdir / "checkpoints"
        keep = config.checkpoint.keep
        # On CPU, writing would take its time from the steps, and needs a copy of the state.
        background = processes.count() > 1 or jax.default_backend() != "cpu"
        self._last = checkpoint.Series(checkpoints / "last", keep=keep, background=background)
        self._chosen = checkpoint.Series(checkpoints / "best", keep=1, background=background)
        resumed = bool(self._last.steps())
        stage = build_stage(workdirs.without_pretrained(config) if resumed else config, initial)
        self._stage = stage
        begun = run_data.manifest_of(workdir)
        if known is None:
            kept = None if begun is None else begun["splits"]
            marks: dict[str, Any] | None = {} if begun is None else None
            known = run_data.known_data(config, kept=kept, landmarks=marks)
            if begun is not None:
                known = run_data.unchanged(begun, known, workdir)
        say(f"{config.name}: {known.sentence}")
        kept = known.manifest["splits"]
        source, held_out, fits = _open_data(config, stage, self._last if resumed else None, kept)
        self._batches = pipeline.train_batches(
            source,
            config.data,
            fields=stage.fields,
            batch_size=config.data.batch_size // processes.count(),
            seed=config.seed,
            process_index=processes.index(),
            process_count=processes.count(),
            sharding=sharding.batch_sharding(self._mesh),
        )
        # Only now, so that a workdir stays free for another config until nothing refuses this one.
        processes.check_alike("config or data", lambda: [to_values(config), known.manifest])
        with processes.first_alone() as writes:
            if writes:
                claim_workdir(config, workdir, same_data=begun is not None)
            if writes and not (workdir / run_data.MANIFEST).exists():
                run_data.write(known, workdir)
        # An enhanced image has r times finer pixels than its input.
        factor = config.data.scale if enhances(stage) else 1
        self._meta = {
            **fits,
            **known.nuclei,
            "data": known.manifest,
            "config": to_values(config),
            "thresholds": {"mask": config.get("threshold", 0.5)},
            "mpp_in": None if source.mpp is None else source.mpp * factor,
            "mpp_out": source.mpp,
            "classes": list(source.classes),
        }
        self._restore()
        self._validation = Validation(stage, held_out, config, self._mesh, workdir)
        self._line = ProgressLine(config.name, config.steps)
        self._watch = gan_health.build_watch(config, stage)
        self._writer = None
        if processes.first():
            self._writer = MetricWriter(
                workdir,
                resume_step=self.step,
                tensorboard=config.log.tensorboard,
                wandb_run=WandbRun(config, workdir) if config.log.wandb.project else None,
            )
            if self._watch is not None:
                for row in read_metrics(self._writer.path):  # of a resumed run
                    self._watch.see(row)

    def _restore(self) -> None:
        """Makes the first state, or takes that of the last checkpoint."""
        state = workdirs.fresh_state(self._stage, self._config)
        describe(self._stage, state, self._config)
        frozen = sharding.replicate(state.frozen, self._mesh)
        state = sharding.replicate(state.replace(frozen={}), self._mesh)
        self.step, self.since, self.seconds = 0, SinceLastLine(), 0.0
        self.best: float | None = None
        restored = self._last.restore(state)
        if restored is not None:
            state, self.step, meta = restored.state, restored.step, restored.meta
            self._batches.set_state(restored.data)
            self.best, self.seconds = meta["best"], meta["seconds"]
            self.since = SinceLastLine(meta["since"])
            say(f"{self._config.name}: going on from step {self.step}")
        self.state = state.replace(frozen=frozen)
        processes.check_alike("last checkpoint", lambda: self.step)
        processes.check_alike("first state", lambda: trees.checksum(self.state))
        asked([], together=True)  # connects them now: Gloo gives up after 30 s, a compilation's

    def run(self, stop: Sequence[int]) -> None:
        """Takes the steps that are left, until one of them finds a signal in `stop`.

        Dispatch runs ahead of the device, so metrics are read only where a line needs them.
        """
        config, phases = self._config, dict(self._stage.phases())
        take_step = sharding.train_step(self._stage.train_step, self._mesh)
        before, started = self.seconds, time.perf_counter()
        if self.step == 0 and any(config.init_from.values()):
            self._evaluate()  # what it starts from is kept where no step is better
        while self.step < config.steps:
            if self.step in phases:
                say(f"{config.name}: from step {self.step}, {phases[self.step]}")
            batch = sharding.place_batch(next(self._batches), self._mesh)
            self.state, metrics = take_step(self.state, batch)
            self.since.add(metrics)
            self.step += 1
            done = self.step == config.steps
            self.seconds = before + time.perf_counter() - started
            logged = self.step % config.log.every == 0 or done
            if logged:
                values = self.since.take()
                self.record("train", values)
                self._line.show(self.step, values)
                self._check_finite(values)
            if self.step % config.eval.every == 0 or done:
                self._evaluate()
            stopping = asked(stop, together=logged)
            if self.step % config.checkpoint.every == 0 or done or stopping:
                self.save(self._last)
            if stopping:
                break

    def _evaluate(self) -> None:
        """Scores crops of the val split, and saves the step if it is the best so far."""
        values = self._validation(self.state, self.step)
        self.record("val", values)
        self._line.show_evaluation(self.step, values)
        # A score may not choose where the labels of the val split must not be used.
        last = self._config.checkpoint.best == "last"
        name, direction = ("step", "max") if last else self._stage.best
        value = {**values, "step": self.step}[name]
        if better(direction, value, self.best):
            self.best = value
            self.save(self._chosen)

    def record(self, split: str, values: Mapping[str, float]) -> None:
        """Writes a line of metrics, and the signs of failure that it shows."""
        if self._writer is None:
            return
        row = self._writer.write(self.step, split, {**values, "seconds": self.seconds})
        for sentence in self._watch.see(row) if self._watch is not None else ():
            self._writer.warn(self.step, sentence)
            self._line.show_warning(self.step, sentence)

    def save(self, series: checkpoint.Series) -> None:
        """Saves this step in a series, unless something that is trained is not finite."""
        self._check_state()
        for other in (self._last, self._chosen):
            other.wait()  # one is written at a time
        progress = {"best": self.best, "seconds": self.seconds, "since": self.since.sums()}
        series.save(
            self.step,
            self.state.replace(frozen={}),
            data=self._batches.get_state(),
            meta={**self._meta, **progress},
        )

    def close(self) -> None:
        """Closes what is open."""
        with contextlib.ExitStack() as stack:
            for part in (self._chosen, self._last, self._writer, self._batches, self._line):
                if part is not None:
                    stack.callback(part.close)

    def _check_finite(self, values: Mapping[str, float]) -> None:
        skipped = values["skipped_in_a_row"]
        if skipped:
            self._check_state()
        if skipped >= self._config.max_skipped:
            raise UserError(
                f"{self._config.name}: {skipped:.0f} steps in a row were not finite "
                f"(max_skipped={self._config.max_skipped}); the last good checkpoint is "
                f"{_newest(self._last)}; lower the learning rate in a new workdir, or see "
                f"{self._workdir}/metrics.jsonl for where it began"
            )

    def _check_state(self) -> None:
        """Checks that all that is trained is finite: no later step could mend it.

        A step that is not finite leaves the state alone, so this takes an update that overflows or
        memory that fails.
        """
        name = trees.not_finite(self.state.replace(frozen={}))
        if name is not None:
            raise UserError(
                f"{self._config.name}: {name} is not finite at step {int(self.state.step)}, "
                "and no step can mend it; the last good checkpoint is "
                f"{_newest(self._last)}, from which the same command goes on; lower the "
                "learning rate in a new workdir if it comes again"
            )


def _open_data(
    config: ConfigDict, stage: Stage, last: checkpoint.Series | None, kept: run_data.Kept
) -> tuple[Source, Source, dict[str, Any]]:
    """(train split, val split, what a checkpoint keeps of fits to the training data).

    `kept` are the splits that the run knows. `last` is of a resumed run, which has the fits,
    whatever has become of their images.
    """
    fields, crop = stage.fields, config.data.crop
    source = run_data.open_split(config, "train", fields=fields, crop=crop, kept=kept)
    held_out = run_data.open_split(config, "val", fields=fields, crop=crop, kept=kept)
    matching = None
    # A checkpoint's meta, which may be damaged, is read only where it is needed.
    if stain_matching.check(config) is not None:
        matching = stain_matching.build(config, last.meta() if last else None)
    if matching is not None:
        source, held_out = matching.source(source), matching.source(held_out)
    fitted: dict[str, Any] = {"stain_target": matching.to_json() if matching else None}
    if synthesizes(stage):
        palette = last.meta().get("palette") if last else stage.palette_of(source)
        if palette is not None:
            fitted["palette"] = palette
    return source, held_out, fitted


def describe(stage: Stage, state: Tree, config: ConfigDict) -> None:
    """Prints what is trained: each network's fields, parameters and GFLOP a forward image."""
    batch = {k: jax.numpy.asarray(v) for k, v in workdirs.example_batch(config).items()}
    for name, module in stage.networks.items():
        inputs = stage.inputs(batch)[name]
        _, height, width, _ = inputs[0].shape
        count = sum(leaf.size for leaf in jax.tree.leaves(state.params[name]))
        forward = jax.jit(functools.partial(module.apply, train=False))
        cost = forward.lower(state.variables(name), *inputs).cost_analysis()
        flop = (cost or {}).get("flops", math.nan)
        # The networks of a pyramid are numbered by their scale, and of one group.
        group = config.get(name) or config.get(name.partition("_")[0], {})
        fields = ", ".join(f"{k}={v}" for k, v in group.items())
        say(
            f"{config.name}: {name} {type(module).__name__}({fields}), {count:,} parameters, "
            f"{flop / 1e9:.2f} GFLOP per {height}x{width} image"
        )


def check(config: ConfigDict, devices: int) -> None:
    """Refuses values that only the loop reads of a config and that are out of their range."""
    data = config.data
    checks.check(config, RULES)
    if data.crop % data.scale:
        raise UserError(
            f"data.crop={data.crop} has to be a multiple of data.scale={data.scale}; choose "
            f"{max(data.crop // data.scale, 1) * data.scale}"
        )
    metric_writer.check(config.log)
    pipeline.check(data, config.seed)
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


def _newest(series: checkpoint.Series) -> str:
    series.wait()
    steps = series.steps()
    return f"{series.folder}/{steps[-1]}" if steps else "none, for none was written yet"


@contextlib.contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collects SIGTERM and SIGINT instead of dying of them; one after 5 s more acts at once."""
    seen: list[int] = []
    kept: dict[signal.Signals, Any] = {}
    until = math.inf

    def note(number: int, _: Any) -> None:
        nonlocal until
        if time.monotonic() > until:
            signal.signal(number, kept[signal.Signals(number)])
            signal.raise_signal(number)
        seen.append(number)
        # SLURM signals all processes of a job, and a sweep its runs too.
        until = min(until, time.monotonic() + 5.0)

    with contextlib.suppress(ValueError):  # not in the main thread: the caller's to handle
        for number in (signal.SIGTERM, signal.SIGINT):
            kept[number] = signal.signal(number, note)
    try:
        yield seen
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def asked(seen: Sequence[int], *, together: bool) -> bool:
    """Whether any process received a signal to stop; many processes agree only `together`.

    Agreeing waits for all of them, so they do it at the log cadence, where they wait for metrics
    anyway.
    """
    if jax.process_count() == 1:
        return bool(seen)
    if not together:
        return False
    from jax.experimental import multihost_utils

    return bool(np.max(multihost_utils.process_allgather(np.asarray(len(seen)))))
