"""What a run tells the user while it goes on, on standard error."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping, Sequence

import jax


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

    def show_warning(self, step: int, text: str) -> None:
        """Shows a sentence, on a line that stays."""
        self._print(f"{self._name} {step}/{self._steps}  warning: {text}", live=False)

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


class SinceLastLine:
    """Metrics summed over the steps since the last line of metrics.jsonl.

    Values stay on the device until a line or a checkpoint wants them, so that dispatch can run
    ahead. The sums go into checkpoints, so that a resumed run writes the same lines.
    """

    def __init__(self, sums: Mapping[str, Sequence[float]] | None = None):
        """Goes on from what `sums` returned, or from nothing."""
        self._sums = {name: tuple(pair) for name, pair in (sums or {}).items()}
        self._pending: list[Mapping[str, jax.Array]] = []

    def add(self, metrics: Mapping[str, jax.Array]) -> None:
        """Takes a step's metrics."""
        self._pending.append(metrics)

    def sums(self) -> dict[str, tuple[float, float]]:
        """Metric -> (sum of its finite values, their number); of counts the last, and 1."""
        for row in jax.device_get(self._pending):
            for name, value in row.items():
                total, number = self._sums.get(name, (0.0, 0.0))
                if name.startswith("skipped"):
                    self._sums[name] = (float(value), 1.0)
                elif math.isfinite(value):
                    self._sums[name] = (total + float(value), number + 1.0)
                else:
                    self._sums[name] = (total, number)
        self._pending = []
        return dict(self._sums)

    def take(self) -> dict[str, float]:
        """Each metric's mean, NaN where none was finite; starts anew."""
        means = {
            name: total / number if number else math.nan
            for name, (total, number) in self.sums().items()
        }
        self._sums = {}
        return means
