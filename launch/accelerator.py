"""Turns some minutes of one accelerator into evidence: speed, memory and trained networks.

    python -m launch.accelerator --minutes=8 --data=folder:$MONUSEG --output=evidence

Parts follow in order of worth: forms of the grouped convolution; steps of all stages, beside
PyTorch where it is installed; tiled inference; then trainings of a segmenter, a generator and a
pyramid for the rest of the time, scored on val. Each part saves what it has, and evidence.md tells
of all. The same command goes on: parts that are done stay, trainings are trained further.
"""

import contextlib
import dataclasses
import importlib.util
import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from absl import flags

from histojax import cli
from histojax.cli import say

_MINUTES = flags.DEFINE_float("minutes", 8.0, "Time for all parts. Example: --minutes=20", 0.1)
_DATA = flags.DEFINE_string(
    "data", "synthetic", "SPEC of the trainings' images. Example: --data=folder:DIR"
)
_SIZE = flags.DEFINE_string("size", "gpu", "Size of all configs. Example: --size=smoke")
_OUTPUT = flags.DEFINE_string("output", "runs/evidence", "Folder of the results. Example: out")
# Seconds: for a training to save after SIGTERM, and to be scored; the least that a part can use.
_SAVING, _SCORING, _LEAST = 45.0, 60.0, 20.0
# Steps of a training that is never reached in this time; its rate is constant.
_LONG = 10**6


@dataclasses.dataclass(frozen=True)
class Part:
    """A command of at most so many seconds; a training has its stage's folder and length's field.

    A part that was cut goes on: a training at its last step, a measurement at its last row.
    """

    name: str
    words: tuple[str, ...]
    seconds: float
    folder: str = ""
    length: str = ""


def parts(size: str, data: str, minutes: float, output: pathlib.Path) -> list[Part]:
    """All parts, in order of worth; trainings share what measurements leave."""
    torch = ("--against=torch",) if importlib.util.find_spec("torch") else ()

    def measure(name: str, what: str, share: float, config: str = "joint", *words: str) -> Part:
        config = f"--config=configs/{config}.py:{size}"
        words = ("launch.benchmark", f"--what={what}", config, *words, "--resume")
        words += (f"--output={output / name}",)
        return Part(name, words, 60 * share * minutes)

    def train(name: str, config: str, *words: str, length: str, folder: str = "") -> Part:
        config, workdir = f"--config=configs/{config}.py:{size}", output / name
        common = (
            f"--workdir={workdir}",
            f"--config.data.source={data}",
            "--config.checkpoint.best=last",
            "--config.optimizer.schedule=constant",
        )
        words = ("histojax.main", config, *common, *words)
        place = str(workdir / folder) if folder else str(workdir)
        return Part(name, words, 60 * minutes / 6, place, length)

    small = ("--size=256",) if size == "smoke" else ()
    # VGG19's weights are not at hand.
    pyramid = ("--config.loss.features.weight=0",)
    lower = () if size == "smoke" else ("scale_64", "scale_128", "scale_256")
    pyramid += tuple(f"--config.lengths.{name}=300" for name in lower)
    return [
        measure("grouped", "grouped", 1 / 12, "generator"),
        measure("steps-use_net", "step", 1 / 8, "use_net", *torch),
        measure("steps-joint", "step", 1 / 4, "joint", *torch),
        measure("steps-pyramid", "step", 1 / 12, "pyramid", *torch),
        measure("tiled", "inference", 1 / 12, "joint", *small),
        train("use_net", "use_net", length="steps"),
        train("generator", "generator", length="steps"),
        train("pyramid", "pyramid", *pyramid, length="lengths.pyramid", folder="pyramid"),
    ]


def run(part: Part, deadline: float, output: pathlib.Path, spent: float = 0.0) -> dict[str, Any]:
    """Runs a part until its time is over; what evidence.json keeps of it, `spent` s included."""
    from histojax.runs.checkpoint import Series  # after flags: --help answers at once

    started = time.monotonic()
    until = min(started + part.seconds, deadline)
    words = list(part.words)
    status = said = ""
    if part.folder:
        status = _run([*words, f"--config.{part.length}={_LONG}"], until, output, part.name)
        step = max(Series(pathlib.Path(part.folder) / "checkpoints" / "last").steps(), default=0)
        if status == "cut" and step:
            # At its last step the run is done: it is scored and reported.
            words.append(f"--config.{part.length}={step}")
            status = _run(words, until + _SCORING, output, part.name)
            said = f"{step} steps"
    else:
        status = _run(words, until, output, part.name, saving=0.0)
    seconds = spent + time.monotonic() - started
    command = shlex.join(["python", "-m", *words])
    return {"command": command, "status": status, "said": said, "seconds": seconds}


def _run(
    words: Sequence[str], until: float, output: pathlib.Path, name: str, saving: float = _SAVING
) -> str:
    """Runs a module with its flags, at most `until`; "done", "cut" or "failed".

    A cut training has `saving` seconds to end. No process that a part started outlives it.
    """
    log = output / f"{name}.log"
    # Alone, also where a cluster has started several of this command.
    command = [sys.executable, "-m", *words, "--num_processes=1"]
    with log.open("ab") as file:
        # A session of its own: a child that is left behind would hold the accelerator's memory.
        process = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
        try:
            status = process.wait(max(until - time.monotonic(), 0))
            return "failed" if status else "done"
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(saving)
            return "cut"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def page(evidence: dict[str, Any], output: pathlib.Path) -> str:
    """evidence.md: each part's command, and the end of what it printed."""
    lines = ["# Evidence", ""]
    for name, found in evidence.items():
        log = (output / f"{name}.log").read_text(errors="replace").replace("\r", "\n")
        shown = [line for line in log.splitlines() if line.strip()][-60:]
        lines += [f"## {name}: {found['status']}, {found['seconds']:.0f} s, {found['said']}", ""]
        lines += ["```", found["command"], "", *shown, "```", ""]
    return "\n".join(lines)


def main(argv: Sequence[str]) -> None:
    """Runs what is left of the parts, and saves after each."""
    del argv
    from histojax.files import atomic_path, check_writable
    from histojax.imaging import writers

    output = pathlib.Path(_OUTPUT.value)
    check_writable(output)
    place = output / "evidence.json"
    evidence = json.loads(place.read_text()) if place.exists() else {}
    deadline = time.monotonic() + 60 * _MINUTES.value
    for part in parts(_SIZE.value, _DATA.value, _MINUTES.value, output):
        before = evidence.get(part.name, {})
        # A training gives its last share to scores.
        end = deadline - (_SAVING + _SCORING if part.folder and _MINUTES.value > 4 else 0)
        if before.get("status") == "done" and not part.folder:
            continue
        if end - time.monotonic() < min(_LEAST, 60 * _MINUTES.value / 6):
            say(f"{part.name}: no time left")
            continue
        evidence[part.name] = run(part, end, output, before.get("seconds", 0.0))
        say(f"{part.name}: {evidence[part.name]['status']}")
        writers.write_json(place, evidence)
        with atomic_path(output / "evidence.md") as unfinished:
            unfinished.write_text(page(evidence, output), encoding="utf-8")
    say(str(output / "evidence.md"))


if __name__ == "__main__":
    cli.run(main)
