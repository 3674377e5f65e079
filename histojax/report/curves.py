"""Learning curves of a workdir, and the charts that they belong to."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

from histojax.report.charts import Series, line_chart
from histojax.report.scoreboard import finite
from histojax.runs.metrics_log import WARNING, read_metrics

# What a line says beside its metrics.
_NO_METRICS = ("step", "split", "seconds", "skipped_in_a_row")
_CHARTS = (
    ("Loss and its terms", re.compile(r"loss(?!_discriminator)")),
    ("Loss of the discriminator", re.compile(r"loss_discriminator")),
    ("PSNR, dB", re.compile(r"psnr")),
    ("SSIM", re.compile(r"ssim")),
    ("Nuclear mask: overlap pooled over crops", re.compile(r"dice|iou")),
    ("Classes: mean IoU pooled over crops", re.compile(r"class_miou")),
    ("Variance inside images", re.compile(r"variance")),
    ("Power of fine detail beyond the real images', dB", re.compile(r"power_spectrum_excess")),
    ("Accuracy", re.compile(r"accuracy|real_above_fake")),
    ("Gradient norms", re.compile(r"gradient_norm")),
)


@dataclasses.dataclass
class Curve:
    """A metric over training; None where it is not finite, or no time was recorded."""

    steps: list[float] = dataclasses.field(default_factory=list)
    seconds: list[float | None] = dataclasses.field(default_factory=list)
    values: list[float | None] = dataclasses.field(default_factory=list)


def read_curves(workdir: Path) -> dict[tuple[str, str], Curve]:
    """(split, metric) -> curve, of a workdir's metrics.jsonl.

    Raises:
        OSError, ValueError: there is none, or it is no text.
    """
    curves: dict[tuple[str, str], Curve] = {}
    for row in _lines(workdir):
        if row.get("split") == WARNING:
            continue
        for name, value in row.items():
            if name in _NO_METRICS:
                continue
            curve = curves.setdefault((str(row.get("split")), name), Curve())
            curve.steps.append(row["step"])
            curve.seconds.append(finite(row.get("seconds")))
            curve.values.append(finite(value))
    return curves


def read_warnings(workdir: Path) -> list[tuple[float, str]]:
    """(step, words) of what training warned of, from a workdir's metrics.jsonl.

    Raises:
        OSError, ValueError: there is none, or it is no text.
    """
    rows = [row for row in _lines(workdir) if row.get("split") == WARNING]
    return [(row["step"], str(row.get("text"))) for row in rows]


def _lines(workdir: Path) -> list[dict]:
    rows = read_metrics(workdir / "metrics.jsonl")
    return [row for row in rows if isinstance(row, dict) and finite(row.get("step")) is not None]


def chart_title(split: str, name: str) -> str:
    """The chart that a metric is drawn in; its own where it has no kin."""
    for title, pattern in _CHARTS:
        if pattern.match(name):
            return f"{title} (validation)" if "Loss" in title and split != "train" else title
    return name


def chart_order(key: tuple[str, str]) -> tuple[int, bool, str]:
    """Charts as _CHARTS has them; in each, validation before training, the total loss first."""
    split, name = key
    places = [i for i, (_, pattern) in enumerate(_CHARTS) if pattern.match(name)]
    return (places[0] if places else len(_CHARTS), split == "train", name)


def overlaid(
    runs: Mapping[str, Mapping[tuple[str, str], Curve]], *, loss: bool, by_time: bool = False
) -> list[str]:
    """Charts of the validation metrics that several runs have in common.

    Args:
        runs: label -> curves; a run keeps its colour through all charts.
        loss: whether the training loss is drawn as well, which is another sum in each stage.
        by_time: over minutes of training instead of the step.

    Returns:
        HTML of a chart for each metric that two runs or more have finite values of.
    """
    keys = {key for curves in runs.values() for key in curves}
    charts = []
    for split, name in sorted(keys, key=chart_order):
        if split == "train" and not (loss and name == "loss"):
            continue
        series = []
        for label, curves in runs.items():
            curve = curves.get((split, name), Curve())
            xs, ys = curve.steps, curve.values
            if by_time:
                timed = [
                    (s / 60, y) for s, y in zip(curve.seconds, ys, strict=True) if s is not None
                ]
                xs, ys = [x for x, _ in timed], [y for _, y in timed]
            series.append(Series(label, xs, ys))
        if sum(any(y is not None for y in one.y) for one in series) < 2:
            continue
        title = f"{name} ({'training' if split == 'train' else split})"
        charts.append(line_chart(series, title=title, axis="minutes" if by_time else "step"))
    return charts
