"""What a run shows while it trains, on standard error, and the means of its metrics."""

import io
import math
import sys
import time
from collections.abc import Mapping, Sequence

import jax
from tqdm import tqdm

from histojax.cli import say

_SHOWN = ("loss", "psnr", "accuracy", "real_above_fake")
_FORMAT = "{desc} {n_fmt}/{total_fmt}  {rate_noinv_fmt}  left {remaining}{postfix}"


class ProgressLine:
    """Step, rate, time left and main numbers: one line that rewrites itself on a terminal.

    Elsewhere each call is a line of its own. Process 0 alone shows anything.
    """

    def __init__(self, name: str, steps: int):
        self._name, self._steps = name, steps
        self._live = sys.stderr.isatty()
        self._bar: tqdm | None = None

    def show(self, step: int, values: Mapping[str, float]) -> None:
        """Shows the training metrics of a step."""
        if jax.process_index() != 0:
            return
        numbers = [f"{name} {values[name]:.4g}" for name in values if name in _SHOWN]
        if values.get("skipped"):
            numbers.append(f"skipped {values['skipped']:.0f}")
        if self._bar is None:
            # From the first line on, so that compiling is no part of the rate.
            self._bar = tqdm(
                total=self._steps,
                initial=step,
                desc=self._name,
                unit=" steps",
                bar_format=_FORMAT,
                smoothing=1.0,  # the rate since the line before
                mininterval=0.0,
                miniters=1,
                dynamic_ncols=self._live,
                file=sys.stderr if self._live else io.StringIO(),
            )
            # A wall clock may be set back.
            self._bar._time = time.perf_counter
            self._bar.start_t = self._bar.last_print_t = time.perf_counter()
        self._bar.set_postfix_str(", ".join(numbers), refresh=False)
        self._bar.update(step - self._bar.n)
        if self._live:
            self._bar.refresh()
        else:
            say(str(self._bar))

    def show_evaluation(self, step: int, values: Mapping[str, float]) -> None:
        """Shows the evaluation of a step, on a line that stays."""
        numbers = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        say(f"{self._name} {step}/{self._steps}  val  {numbers}")
        if self._bar is not None:
            self._bar.unpause()  # evaluating is no part of the rate

    def show_warning(self, step: int, text: str) -> None:
        """Shows a sentence, on a line that stays."""
        say(f"{self._name} {step}/{self._steps}  warning: {text}")

    def close(self) -> None:
        """Leaves the line."""
        if self._bar is not None:
            self._bar.close()


class SinceLastLine:
    """Metrics summed over the steps since the last line of metrics.jsonl.

    Values stay on the device until a line or a checkpoint wants them, so that dispatch can run
    ahead. The sums go into checkpoints, so that a resumed run writes the same lines.
    """

    def __init__(self, sums: Mapping[str, Sequence[float]] | None = None):
        """Resumes from what `sums` returned, or starts from nothing."""
        self._sums = {name: (total, number) for name, (total, number) in (sums or {}).items()}
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
                    total, number = 0.0, 0.0
                if math.isfinite(value):
                    total, number = total + float(value), number + 1.0
                self._sums[name] = (total, number)
        self._pending = []
        return dict(self._sums)

    def take(self) -> dict[str, float]:
        """Each metric's mean, NaN where none was finite; the sums become empty."""
        sums = self.sums().items()
        means = {name: total / number if number else math.nan for name, (total, number) in sums}
        self._sums = {}
        return means
