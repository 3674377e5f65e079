"""Runs of histojax.main in processes of their own, which make up a sweep.

A run has a name, a seed and a workdir, OUTPUT/NAME/seed_K, with its log beside it. A run that is
done does not run again, and a run that was stopped continues.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from histojax.cli import say
from histojax.data import cores
from histojax.errors import UserError
from histojax.imaging import writers

# The variable by which each platform chooses devices.
_DEVICE_VARIABLES = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "TPU_VISIBLE_DEVICES")
PROGRAM = (sys.executable, "-m", "histojax.main")
# An accelerator and a set of cores; None: any.
Slot = tuple[str | None, set[int] | None]


@dataclasses.dataclass(frozen=True)
class Job:
    """One run of a sweep; `words` are its config and overrides, {seed} in their text its seed."""

    name: str
    seed: int
    words: tuple[str, ...]
    folder: pathlib.Path

    @property
    def log(self) -> pathlib.Path:
        """The output of the run, beside its workdir."""
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def command(self) -> tuple[str, ...]:
        """The words with the seed in its places, and the workdir."""
        words = [word.replace("{seed}", str(self.seed)) for word in self.words]
        return (*words, f"--config.seed={self.seed}", f"--workdir={self.folder}")

    @property
    def done(self) -> bool:
        """Whether the run has ended: it writes its summary last."""
        return (self.folder / "summary.json").is_file()

    def __str__(self) -> str:
        return f"{self.name}, seed {self.seed}"


def named(run: str) -> tuple[str, tuple[str, ...]]:
    """(name, words for histojax.main) of a --run; its file, size and overrides name it if need be.

    Raises:
        UserError: for a run that names no config file, or words that are no overrides.
    """
    where = f"--run={run!r}"
    head, colon, rest = run.partition(": ")
    name, text = (head.strip(), rest) if colon else ("", run)
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UserError(f"{where} cannot be read ({error}): mend its quotes") from error
    if not words:
        raise UserError(f"{where} names no config; write [NAME:] configs/FILE.py[:SIZE] ...")
    config, overrides = words[0].removeprefix("--config="), words[1:]
    file, _, size = config.partition(":")
    if not pathlib.Path(file).is_file():
        raise UserError(f"{where}: {file} is not a file; name a config, such as configs/joint.py")
    _check_overrides(overrides, where)
    changes = [word.partition("config.")[2].replace("=", "_") for word in overrides]
    parts = [pathlib.Path(file).stem, size, *changes]
    name = name or "-".join(re.sub(r"[^\w.-]+", "_", part) for part in parts if part)
    if not re.fullmatch(r"[\w-][\w.-]*", name):
        raise UserError(f"{where}: {name!r} cannot name a folder; take letters, digits, _, - and .")
    return name, (f"--config={config}", *overrides)


def _check_overrides(words: Sequence[str], where: str) -> None:
    """Refuses words that are no overrides of a config, or set its seed."""
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
    _check_overrides(common, "after --")
    for seed in seeds:
        if not seed.strip().isdecimal():
            raise UserError(f"--seeds={','.join(seeds)}: {seed!r} is not a whole number from 0")
    numbers = [int(seed) for seed in seeds]
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


def claim(jobs: Sequence[Job], output: pathlib.Path) -> None:
    """Records the words of each run in OUTPUT/sweep.json.

    Raises:
        UserError: if a run of one of these names was started with other words.
    """
    path = output / "sweep.json"
    try:
        known = dict(json.loads(path.read_text())) if path.is_file() else {}
    except (ValueError, TypeError) as error:
        remedy = "remove it, and the same command writes it again"
        raise UserError(f"{path} is damaged ({error}): {remedy}") from error
    for job in jobs:
        folder, words = output / job.name, known.get(job.name, job.words)
        # Words with which no run got as far as training do not bind.
        if list(words) != list(job.words) and any(folder.glob("seed_*/config.json")):
            raise UserError(
                f"{folder} was run with {shlex.join(words)}, not with {shlex.join(job.words)}; "
                "give the run another name or the sweep another --output"
            )
        known[job.name] = job.words
    writers.write_json(path, known)


def finished(output: pathlib.Path) -> dict[tuple[str, int], pathlib.Path]:
    """(name, seed) -> workdir of each run of a sweep that is done, also of earlier commands."""
    return {
        (name, int(path.parent.name.removeprefix("seed_"))): path.parent
        for name in json.loads((output / "sweep.json").read_text())
        for path in sorted((output / name).glob("seed_*/summary.json"))
    }


def environment(device: str | None) -> dict[str, str]:
    """The variables of a process that uses one accelerator; None: any."""
    own = {} if device is None else dict.fromkeys(_DEVICE_VARIABLES, device)
    return {**os.environ, **own}


def run_all(jobs: Sequence[Job], devices: Sequence[str] = (), count: int = 1) -> list[Job]:
    """Runs the jobs that are not done, in their order, and returns those that failed.

    Each of `devices` takes one run at a time; without any, `count` runs at a time share the cores
    out. After SIGINT or SIGTERM no run starts, and those that run are asked to save and end.

    Raises:
        KeyboardInterrupt: after a signal, once all runs have ended.
    """
    pending = [job for job in jobs if not job.done]
    slots: list[Slot] = [(device, None) for device in devices]
    if not devices and pending:
        slots = [(None, part) for part in cores.shares(min(count, len(pending)))]
    running: dict[subprocess.Popen[bytes], tuple[Job, Slot]] = {}
    failed = []
    with signals() as seen:
        try:
            while (running or pending) and not seen:
                while pending and slots:
                    job, slot = pending.pop(0), slots.pop(0)
                    running[_started(job, *slot)] = (job, slot)
                time.sleep(0.1)
                for process in [each for each in running if each.poll() is not None]:
                    job, slot = running.pop(process)
                    slots.append(slot)
                    failed += [job] * (process.returncode != 0)
                    _report(job, process)
        finally:
            for process in running:
                process.terminate()
            for process, (job, _) in running.items():
                process.wait()
                _report(job, process)
    if seen:
        raise KeyboardInterrupt
    return failed


def _report(job: Job, process: subprocess.Popen[bytes]) -> None:
    failed = f"failed ({process.returncode})" if process.returncode else "stopped"
    say(f"{job}: {'done' if job.done else failed}")


@contextlib.contextmanager
def signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM in a list instead of obeying them."""
    seen: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda number, _: seen.append(number)) for number in numbers]
    try:
        yield seen
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _started(job: Job, device: str | None, part: set[int] | None) -> subprocess.Popen[bytes]:
    job.folder.parent.mkdir(parents=True, exist_ok=True)
    say(f"{job}: running, log in {job.log}")
    # Alone, also where a cluster has started several sweeps.
    words = [*job.command, "--num_processes=1"]
    with job.log.open("ab") as log:
        return start(words, part, env=environment(device), stdout=log, stderr=subprocess.STDOUT)


def start(words: Sequence[str], part: set[int] | None, **options: Any) -> subprocess.Popen[bytes]:
    """Starts histojax.main with options of Popen, on the cores of `part` alone if it is given."""
    with contextlib.ExitStack() as after:
        # The process takes over this one's cores; some containers forbid to choose them.
        with contextlib.suppress(OSError):
            if part is not None:
                mine = cores.usable()
                os.sched_setaffinity(0, part)
                after.callback(os.sched_setaffinity, 0, mine)
        return subprocess.Popen([*PROGRAM, *words], stdin=subprocess.DEVNULL, **options)


def check(failed: Sequence[Job], jobs: Sequence[Job]) -> None:
    """Raises a UserError that names the jobs which failed, each with the last line of its log."""
    if failed:
        logs = [(job, last_line(job.log.read_text(errors="replace"))) for job in failed]
        reasons = "; ".join(f"{job}: {line} ({job.log})" for job, line in logs)
        raise UserError(f"{len(failed)} of {len(jobs)} runs failed: {reasons}")


def last_line(output: str) -> str:
    """The last line of a command's output, which gives the reason of its failure."""
    return output.strip().rpartition("\n")[2] or "it printed nothing"
