"""Runs of the main command in processes of their own: what a sweep is made of.

A run has a name, a seed and a workdir, OUTPUT/NAME/seed_K, with its log beside it. What is done is
not run again, and what was stopped goes on.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import json
import os
import pathlib
import queue
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence

from histojax.cli import say
from histojax.data import cores
from histojax.errors import UserError
from histojax.imaging import writers

# Devices are chosen by what each platform reads.
_DEVICE_VARIABLES = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "TPU_VISIBLE_DEVICES")
# What each run is.
PROGRAM = (sys.executable, "-m", "histojax.main")
_NAME = re.compile(r"[\w.-]+")


@dataclasses.dataclass(frozen=True)
class Job:
    """One run of a sweep.

    Attributes:
        name: of its config with its overrides.
        seed: of the run.
        words: of the main command: --config and overrides.
        folder: its workdir.
    """

    name: str
    seed: int
    words: tuple[str, ...]
    folder: pathlib.Path

    @property
    def log(self) -> pathlib.Path:
        """What the run says, beside its workdir."""
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def command(self) -> tuple[str, ...]:
        """The run's words, with its seed where they speak of it, and its workdir."""
        words = [word.replace("{seed}", str(self.seed)) for word in self.words]
        return (*words, f"--config.seed={self.seed}", f"--workdir={self.folder}")

    @property
    def done(self) -> bool:
        """Whether it came to its end: the summary is what a run writes last."""
        return (self.folder / "summary.json").is_file()


def named(run: str) -> tuple[str, tuple[str, ...]]:
    """(name, words of the main command) of a --run.

    The name is given before a colon and a space, or made of the config's file, its size and the
    overrides.

    Raises:
        UserError: for a run that names no config file, or words that are no overrides.
    """
    head, colon, rest = run.partition(": ")
    name, text = (head.strip(), rest) if colon else ("", run)
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UserError(f"--run={run!r} cannot be read ({error}): mend its quotes") from error
    if not words:
        raise UserError(f"--run={run!r} names no config; write [NAME:] configs/FILE.py[:SIZE] ...")
    config, overrides = words[0].removeprefix("--config="), words[1:]
    file, _, size = config.partition(":")
    if not pathlib.Path(file).is_file():
        raise UserError(
            f"--run={run!r}: {file} is not a file; name a config file, such as configs/joint.py"
        )
    check_overrides(overrides, f"--run={run!r}")
    if not name:
        changes = [word.partition("config.")[2].replace("=", "_") for word in overrides]
        name = re.sub(r"[^\w.-]+", "_", "-".join(filter(None, [pathlib.Path(file).stem, size])))
        name = "-".join([name, *(re.sub(r"[^\w.-]+", "_", change) for change in changes)])
    if not _NAME.fullmatch(name) or name.startswith("."):
        raise UserError(
            f"--run={run!r}: {name!r} cannot name a folder; take letters, digits, _, - and ."
        )
    return name, (f"--config={config}", *overrides)


def check_overrides(words: Sequence[str], where: str) -> None:
    """Checks that words are overrides of a config, and leave alone what the sweep sets.

    Raises:
        UserError: if not.
    """
    for word in words:
        field = re.fullmatch(r"--config\.([\w.]+)=.*", word, re.DOTALL)
        if field is None:
            raise UserError(f"{where}: {word!r} is not an override; write --config.FIELD=VALUE")
        if field[1] == "seed":
            raise UserError(f"{where}: the seed of the runs is given by --seeds, not by {word}")


def plan(
    runs: Sequence[str], seeds: Sequence[str], common: Sequence[str], output: pathlib.Path
) -> list[Job]:
    """Every run of a sweep, seed by seed, so that a sweep cut short has whole rows.

    Raises:
        UserError: for a run, seed or override that cannot be used, or two runs of one name.
    """
    if not runs:
        raise UserError("a sweep has no runs; give --run=configs/FILE.py for each")
    check_overrides(common, "after --")
    numbers = []
    for seed in seeds:
        if not seed.strip().isdecimal():
            raise UserError(f"--seeds={','.join(seeds)}: {seed!r} is not a whole number from 0")
        numbers.append(int(seed))
    if len(set(numbers)) < len(numbers) or not numbers:
        raise UserError(f"--seeds={','.join(seeds)} has to name seeds, each once")
    words: dict[str, tuple[str, ...]] = {}
    for run in runs:
        name, own = named(run)
        if name in words:
            raise UserError(f"two runs are called {name!r}; give one a name, --run='NAME: ...'")
        words[name] = (*own, *common)
    return [
        Job(name, seed, own, output / name / f"seed_{seed}")
        for seed in numbers
        for name, own in words.items()
    ]


def claim(jobs: Sequence[Job], output: pathlib.Path) -> list[Job]:
    """Notes what each run's words are, in OUTPUT/sweep.json, and returns all runs known there.

    Raises:
        UserError: if a run of one of these names was begun with other words.
    """
    path = output / "sweep.json"
    try:
        known = json.loads(path.read_text()) if path.is_file() else {}
        runs = {
            name: (tuple(run["words"]), [int(seed) for seed in run["seeds"]])
            for name, run in known.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is damaged ({error}): remove it, and the same command writes it anew"
        ) from error
    for job in jobs:
        words, seeds = runs.setdefault(job.name, (job.words, []))
        if words != job.words and not list((output / job.name).glob("seed_*/config.json")):
            # It was refused before it began, so what it was begun with does not bind.
            words, seeds = runs[job.name] = (job.words, [])
        if words != job.words:
            raise UserError(
                f"{output / job.name} was run with {shlex.join(words)}, not with "
                f"{shlex.join(job.words)}; give the run another name or the sweep another --output"
            )
        if job.seed not in seeds:
            seeds.append(job.seed)
    writers.write_json(
        path,
        {name: {"words": list(words), "seeds": seeds} for name, (words, seeds) in runs.items()},
    )
    return [
        Job(name, seed, words, output / name / f"seed_{seed}")
        for name, (words, seeds) in runs.items()
        for seed in seeds
    ]


def environment(device: str | None) -> dict[str, str]:
    """The variables of a process that uses one accelerator, or None: what there is."""
    own = {} if device is None else dict.fromkeys(_DEVICE_VARIABLES, device)
    return {**os.environ, **own}


def slots(devices: Sequence[str], count: int) -> list[str | None]:
    """An accelerator for each run at a time, or None for each of `count` where none is named."""
    return [*devices] or [None] * count


class Runner:
    """Runs jobs in processes, one in each slot at a time.

    Runs that are given no accelerator of their own share the cores of their host out: as many parts
    as run at a time in the beginning.

    Args:
        slots: an accelerator for each run at a time, or None for one that may use what there is.
    """

    def __init__(self, slots: Sequence[str | None]):
        self._slots = tuple(slots)
        self._running: set[subprocess.Popen] = set()
        self._lock = threading.Lock()
        self._stopping = False

    def __call__(self, jobs: Sequence[Job]) -> list[Job]:
        """Runs what is not done; returns those that failed.

        Raises:
            KeyboardInterrupt: after SIGINT or SIGTERM, once the runs have stopped.
        """
        pending = [job for job in jobs if not job.done]
        if not pending:
            return []
        slots = self._slots[: len(pending)]
        parts = [None] * len(slots) if any(slots) else cores.shares(len(slots))
        free: queue.SimpleQueue[tuple[str | None, set[int] | None]] = queue.SimpleQueue()
        for slot in zip(slots, parts, strict=True):
            free.put(slot)
        with concurrent.futures.ThreadPoolExecutor(len(slots)) as pool:
            futures = {pool.submit(self._run, job, free): job for job in pending}
            try:
                concurrent.futures.wait(futures)
            except KeyboardInterrupt:
                self.stop()
                raise
        return [job for future, job in futures.items() if not future.result()]

    def stop(self) -> None:
        """Asks every run to write its checkpoint and end, and starts no more."""
        with self._lock:
            self._stopping = True
            for process in self._running:
                process.send_signal(signal.SIGTERM)

    def _run(self, job: Job, free: queue.SimpleQueue) -> bool:
        device, part = slot = free.get()
        try:
            if part is not None:
                # Of this thread, and of the process that it starts; some containers forbid it.
                with contextlib.suppress(OSError):
                    os.sched_setaffinity(0, part)
            job.folder.parent.mkdir(parents=True, exist_ok=True)
            with job.log.open("ab") as log:
                with self._lock:
                    if self._stopping:
                        return True
                    process = subprocess.Popen(
                        [*PROGRAM, *job.command],
                        env=environment(device),
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                    )
                    self._running.add(process)
                say(f"{job.name}, seed {job.seed}: running, log in {job.log}")
                status = process.wait()
                with self._lock:
                    self._running.discard(process)
            # A run that is asked to stop while it is scored has nothing to save, and dies of it.
            stopped = status == 0 or self._stopping
            ended = "done" if job.done else "stopped" if stopped else f"failed ({status})"
            say(f"{job.name}, seed {job.seed}: {ended}")
            return stopped
        finally:
            free.put(slot)


def check(failed: Sequence[Job], jobs: Sequence[Job]) -> None:
    """Says which of the jobs failed, and why.

    Raises:
        UserError: if any did.
    """
    if failed:
        raise UserError(
            f"{len(failed)} of {len(jobs)} runs failed: "
            + "; ".join(
                f"{job.name}, seed {job.seed}: "
                f"{last_line(job.log.read_text(errors='replace'))} ({job.log})"
                for job in failed
            )
        )


def last_line(said: str) -> str:
    """The last line of what a command said, which tells why it failed."""
    lines = said.strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def raise_interrupt(number: int, frame: object) -> None:
    """A signal handler that stops the command as Ctrl-C does."""
    del number, frame
    raise KeyboardInterrupt
