"""Learning curves of a workdir, and the charts that they belong to."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

from histojax.report.charts import Chart, Series, line_chart
from histojax.report.table import finite
from histojax.runs.metrics_log import WARNING, read_metrics

# Fields of a line that are no metrics.
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


Curves = Mapping[tuple[str, str], Curve]


def read_curves(workdir: Path) -> tuple[dict[tuple[str, str], Curve], list[tuple[float, str]]]:
    """(split, metric) -> curve, and (step, words) of each warning, of a workdir's metrics.jsonl.

    Raises:
        OSError, ValueError: there is none, or it is no text.
    """
    curves: dict[tuple[str, str], Curve] = {}
    warned: list[tuple[float, str]] = []
    for row in read_metrics(workdir / "metrics.jsonl"):
        if not isinstance(row, dict) or finite(row.get("step")) is None:
            continue
        if row.get("split") == WARNING:
            warned.append((row["step"], str(row.get("text"))))
            continue
        for name, value in row.items():
            if name not in _NO_METRICS:
                curve = curves.setdefault((str(row.get("split")), name), Curve())
                curve.steps.append(row["step"])
                curve.seconds.append(finite(row.get("seconds")))
                curve.values.append(finite(value))
    return curves, warned


def training_charts(curves: Curves, marks: list[float]) -> list[Chart]:
    """All curves of a run, kin in one chart, with a line at each of the `marks` (steps)."""
    charts: dict[str, list[Series]] = {}
    for (split, name), curve in sorted(curves.items(), key=lambda item: _order(item[0])):
        if name == "skipped" and not (curve.values and curve.values[-1]):
            continue
        title = _title(split, name)
        label = name if title.startswith(("Loss", "Gradient")) else f"{name} ({split})"
        label = label.removeprefix("loss_").removeprefix("gradient_norm_").replace("_", " ")
        label = "total" if label == "loss" else label
        charts.setdefault(title, []).append(Series(label, curve.steps, curve.values))
    drawn = (line_chart(series, title=title, marks=marks) for title, series in charts.items())
    return [chart for chart in drawn if chart is not None]


def overlaid(runs: Mapping[str, Curves], *, loss: bool, by_time: bool = False) -> list[Chart]:
    """A chart for each validation metric of which two runs or more have finite values.

    A run keeps its colour through all charts. `loss` adds the training loss, which is another sum
    in each stage; `by_time` puts minutes of training on x instead of steps.
    """
    charts = []
    for split, name in sorted({key for curves in runs.values() for key in curves}, key=_order):
        if split == "train" and not (loss and name == "loss"):
            continue
        series = [
            _series(label, curves.get((split, name), Curve()), by_time)
            for label, curves in runs.items()
        ]
        if sum(any(y is not None for y in one.y) for one in series) < 2:
            continue
        title = f"{name} ({'training' if split == 'train' else split})"
        chart = line_chart(series, title=title, axis="minutes" if by_time else "step")
        charts += [chart] if chart is not None else []
    return charts


def _series(label: str, curve: Curve, by_time: bool) -> Series:
    if not by_time:
        return Series(label, curve.steps, curve.values)
    pairs = zip(curve.seconds, curve.values, strict=True)
    timed = [(seconds / 60, value) for seconds, value in pairs if seconds is not None]
    return Series(label, [minutes for minutes, _ in timed], [value for _, value in timed])


def _title(split: str, name: str) -> str:
    """The chart that a metric is drawn in; its own where it has no kin."""
    for title, pattern in _CHARTS:
        if pattern.match(name):
            return f"{title} (validation)" if "Loss" in title and split != "train" else title
    return "Steps skipped" if name == "skipped" else name


def _order(key: tuple[str, str]) -> tuple[int, bool, str]:
    """Charts as _CHARTS has them; in each, validation before training, the total loss first."""
    split, name = key
    places = [i for i, (_, pattern) in enumerate(_CHARTS) if pattern.match(name)]
    return (places[0] if places else len(_CHARTS), split == "train", name)
