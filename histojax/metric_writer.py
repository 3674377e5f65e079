"""Metrics to disk: one JSON object a line always, TensorBoard and W&B when asked."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict

from histojax.errors import UserError

if TYPE_CHECKING:
    from histojax.wandb_run import WandbRun

WANDB_MODES = ("online", "offline")


def check(log: ConfigDict) -> None:
    """Checks that what `config.log` asks for can be had, before anything is trained.

    Raises:
        UserError: for a package that is not installed, or an unknown mode.
    """
    if log.tensorboard and not _installed("tensorboardX"):
        raise UserError(
            "log.tensorboard=True needs the package tensorboardX; install it or set it to False"
        )
    if not log.wandb.project:
        return
    if log.wandb.mode not in WANDB_MODES:
        raise UserError(
            f"log.wandb.mode={log.wandb.mode!r} is not known; choose one of "
            f"{', '.join(WANDB_MODES)}"
        )
    if not _installed("wandb"):
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

    A warning is the line {"step", "split": "warning", "text"}.

    Every line is flushed, so a killed run loses none; a last line that a kill cut short is
    dropped when the run goes on.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        *,
        resume_step: int = 0,
        tensorboard: bool = False,
        wandb_run: WandbRun | None = None,
    ):
        """Opens workdir/metrics.jsonl and forgets lines after `resume_step`."""
        self.path = workdir / "metrics.jsonl"
        if self.path.exists():
            kept = [row for row in read_metrics(self.path) if row["step"] <= resume_step]
            beside = self.path.with_suffix(".jsonl.tmp")
            beside.write_text("".join(json.dumps(row) + "\n" for row in kept))
            os.replace(beside, self.path)
        self._board = None
        if tensorboard:
            from tensorboardX import SummaryWriter

            self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=resume_step + 1)
        self._wandb = wandb_run
        self._file = self.path.open("a", encoding="utf-8")

    def write(self, step: int, split: str, values: Mapping[str, float]) -> dict[str, Any]:
        """Writes one line and returns it; values that are not finite become null."""
        row: dict[str, Any] = {"step": int(step), "split": split}
        for name, value in values.items():
            number = float(value)
            row[name] = number if math.isfinite(number) else None
            if self._board is not None and math.isfinite(number):
                self._board.add_scalar(f"{split}/{name}", number, step)
        self._append(row)
        if self._wandb is not None:
            self._wandb.write(step, split, values)
        return row

    def warn(self, step: int, text: str) -> None:
        """One line of words."""
        if self._board is not None:
            self._board.add_text("warning", text, step)
        self._append({"step": int(step), "split": "warning", "text": text})

    def _append(self, row: Mapping[str, Any]) -> None:
        try:
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
        except OSError as error:
            raise UserError(
                f"{self.path} cannot be written ({error.strerror}); make room and run the same "
                "command again, which goes on from the last checkpoint"
            ) from error

    def close(self) -> None:
        """Flushes and closes what is open."""
        self._file.close()
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.close()


def read_metrics(path: pathlib.Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; a last line cut short by a kill is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
