"""Metrics to disk: one JSON object a line always, TensorBoard when asked."""

from __future__ import annotations

import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from histojax.errors import UserError


class MetricWriter:
    """Appends {"step", "split", name: value, ...} lines to metrics.jsonl.

    A warning is the line {"step", "split": "warning", "text"}.

    Every line is flushed, so a killed run loses none; a last line that a kill cut short is
    dropped when the run goes on.
    """

    def __init__(self, workdir: pathlib.Path, *, resume_step: int = 0, tensorboard: bool = False):
        """Opens workdir/metrics.jsonl and forgets lines after `resume_step`.

        Raises:
            UserError: if TensorBoard is asked for and tensorboardX is not installed.
        """
        self.path = workdir / "metrics.jsonl"
        if self.path.exists():
            kept = [row for row in read_metrics(self.path) if row["step"] <= resume_step]
            beside = self.path.with_suffix(".jsonl.tmp")
            beside.write_text("".join(json.dumps(row) + "\n" for row in kept))
            os.replace(beside, self.path)
        self._board = None
        if tensorboard:
            try:
                from tensorboardX import SummaryWriter
            except ImportError as error:
                raise UserError(
                    "log.tensorboard=True needs the package tensorboardX; install it or set it "
                    "to False"
                ) from error
            self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=resume_step + 1)
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


def read_metrics(path: pathlib.Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; a last line cut short by a kill is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
