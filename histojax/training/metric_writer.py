"""Metrics to disk: one JSON object a line always, TensorBoard and W&B when asked."""

import contextlib
import importlib.util
import json
import math
import pathlib
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict

from histojax import checks, files
from histojax.errors import UserError
from histojax.runs.metrics_log import WARNING, read_metrics

if TYPE_CHECKING:
    from histojax.training.wandb_run import WandbRun

RULES = {"wandb.mode": checks.one_of(("online", "offline"))}


def check(log: ConfigDict) -> None:
    """Checks what `config.log` asks for, before anything is trained.

    Raises:
        UserError: a package that is not installed, or an unknown mode.
    """
    checks.check(log, RULES, "log.")
    if log.tensorboard and not _installed("tensorboardX"):
        raise UserError(
            "log.tensorboard=True needs the package tensorboardX; install it or set it to False"
        )
    if log.wandb.project and not _installed("wandb"):
        raise UserError(
            f"log.wandb.project={log.wandb.project} needs the package wandb, which is not "
            "installed; run pip install wandb or leave the project empty"
        )


def _installed(package: str) -> bool:
    """Whether it can be imported; a mere folder of that name, as W&B leaves them, cannot."""
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None


class MetricWriter:
    """Appends {"step", "split", name: value, ...} lines to metrics.jsonl.

    A warning is the line {"step", "split": WARNING, "text"}. Every line is flushed, so a killed
    run loses none; a last line that a kill cut short is dropped when the run goes on. What the
    disk refuses is a DiskError.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        *,
        resume_step: int = 0,
        tensorboard: bool = False,
        wandb_run: "WandbRun | None" = None,
    ):
        """Opens workdir/metrics.jsonl and drops its lines after `resume_step`, 0: all."""
        self.path = workdir / "metrics.jsonl"
        self._board = _Board(workdir / "tensorboard", resume_step) if tensorboard else None
        self._mirrors = [mirror for mirror in (self._board, wandb_run) if mirror is not None]
        if self.path.exists():
            rows = read_metrics(self.path) if resume_step else []
            kept = [row for row in rows if row["step"] <= resume_step]
            with files.atomic_path(self.path) as part:
                part.write_text("".join(json.dumps(row) + "\n" for row in kept))
        with files.disk_errors(self.path):
            self._file = self.path.open("a", encoding="utf-8")

    def write(self, step: int, split: str, values: Mapping[str, float]) -> dict[str, Any]:
        """Writes one line and returns it; values that are not finite become null."""
        finite = {name: float(v) for name, v in values.items() if math.isfinite(float(v))}
        row = {"step": int(step), "split": split, **{name: finite.get(name) for name in values}}
        self._append(row)
        for mirror in self._mirrors:
            mirror.write(int(step), {f"{split}/{name}": value for name, value in finite.items()})
        return row

    def warn(self, step: int, text: str) -> None:
        """One line of words."""
        self._append({"step": int(step), "split": WARNING, "text": text})
        if self._board is not None:
            self._board.warn(step, text)

    def _append(self, row: Mapping[str, Any]) -> None:
        with files.disk_errors(self.path):
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Closes what is open."""
        # Every line was flushed: what is still in a buffer is what the disk has refused before.
        with contextlib.suppress(OSError):
            self._file.close()
        for mirror in self._mirrors:
            mirror.close()


class _Board:
    """A TensorBoard event file.

    tensorboardX's SummaryWriter gives its events to a thread. Where the disk refuses one, that
    thread dies, the error is lost and later calls wait for ever (2.6.5, event_file_writer.py). Its
    EventsWriter, which the thread calls, writes at once and raises.
    """

    def __init__(self, folder: pathlib.Path, resume_step: int):
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.summary import scalar, text

        self._event, self._scalar, self._text, self._folder = Event, scalar, text, folder
        with files.disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._file = EventsWriter(str(folder / "events"))
        self._add(file_version="brain.Event:2")
        # TensorBoard takes the steps before it from an older file and no later ones.
        self._add(step=resume_step + 1, session_log=SessionLog(status=SessionLog.START))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._add(step=step, summary=self._scalar(name, value))

    def warn(self, step: int, text: str) -> None:
        self._add(step=step, summary=self._text(WARNING, text))

    def _add(self, **fields: Any) -> None:
        with files.disk_errors(self._folder):
            self._file.write_event(self._event(wall_time=time.time(), **fields))
            self._file.flush()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()
