"""The last words of a command: what was measured, in words, and where it lies."""

import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from histojax.imaging import enlargement
from histojax.metrics import registry
from histojax.metrics.registry import Metric
from histojax.report.table import finite
from histojax.runs import workdirs

Entry = Mapping[str, Any]
_CLASSICAL = "by the classical method"
_SUBJECTS = {"image": "image", "classes": "classes"}


def after_training(
    table: Mapping[str, Any], workdir: pathlib.Path, *, synthesizes: bool = False
) -> str:
    """The last lines of a training: results, their place, and the command that uses the run."""
    places = {"report": workdir / "report.html", "all scores": workdir / "summary.json"}
    command, source = ("synthesize", "masks") if synthesizes else ("predict", "input")
    options = [f"--workdir={workdir}", f"--{source}=PATH", "--output=FOLDER"]
    return _closing(table, places, f"histojax.{command}", *options)


def after_evaluation(
    table: Mapping[str, Any], workdir: pathlib.Path, output: pathlib.Path, split: str
) -> str:
    """The last lines of an evaluation: results, their place, and a command to compare the run."""
    places = {"all scores": output / "metrics.json", "pictures": output / "figures"}
    options = [workdirs.name_of(workdir), "OTHER_WORKDIR", f"--split={split}", "--output=FOLDER"]
    closing = _closing(table, places, "histojax.compare", *options)
    if not (seen := table["seen"]):
        return closing
    names = ", ".join(list(seen)[:3]) + (", ..." if len(seen) > 3 else "")
    return (
        f"{len(seen)} of the {table['data']['images']} images were seen in training ({names}), so "
        f"these scores are too good; per_image.csv marks them\n{closing}"
    )


def _closing(table: Mapping[str, Any], places: Mapping[str, pathlib.Path], *command: str) -> str:
    lines = results(table) + [f"{name}: {place}" for name, place in places.items()]
    return "\n".join([*lines, f"next: python -m {shlex.join(command)}"])


def results(table: Mapping[str, Any]) -> list[str]:
    """A line for each headline metric: the run's score, its baseline and their difference.

    "nuclei: Dice 0.892 in the joint image, 0.869 in the bicubic image (+0.023, 95 % interval
    +0.011 to +0.035)". The run's score is that of the last row that reads an enhanced image, else
    of the last one that reads the real image. The table has "metrics" and "differences" as
    metrics.json, rows in the order of scoring.
    """
    rows: dict[str, dict[str, Entry]] = {}
    for key, entry in table["metrics"].items():
        name, row = registry.split_key(key) or ("", "")
        if name and registry.METRICS[name].headline:
            rows.setdefault(name, {})[row] = entry
    metrics = [metric for metric in registry.METRICS.values() if metric.name in rows]
    found = "glands" if any(metric.group == "glands" for metric in metrics) else "nuclei"
    lines = []
    for metric in metrics:
        own, baseline = _chosen(list(rows[metric.name]), metric)
        if own in enlargement.ENHANCERS and any(not other.of_images for other in metrics):
            continue  # a run that enhances nothing
        text = _score_text(rows[metric.name][own], metric, own)
        if baseline is not None:
            text += f", {_score_text(rows[metric.name][baseline], metric, baseline)}"
            key = f"{metric.name}_{own} - {metric.name}_{baseline}"
            if key in table["differences"]:
                text += _difference_text(table["differences"][key], metric)
        lines.append(f"{_SUBJECTS.get(metric.group, found)}: {metric.title} {text}")
    return lines


def _chosen(rows: Sequence[str], metric: Metric) -> tuple[str, str | None]:
    """(the run's own row, its baseline or None) of a metric's rows."""
    bicubic = next((row for row in rows if row.split("_to_")[0] == "bicubic"), None)
    real = [row for row in rows if row.startswith("hr_to_")]
    others = (bicubic, "classical", *real, *enlargement.ENHANCERS)
    enhanced = [row for row in rows if row not in others]
    own = [*real, *enhanced] or rows
    baselines = ["linear", bicubic, "classical"] if enhanced else ["classical"]
    return own[-1], next((row for row in baselines if row in rows and row != own[-1]), None)


def _score_text(entry: Entry, metric: Metric, row: str) -> str:
    """A score, which image was read (or how), and how many images were left out."""
    image = row.split("_to_")[0]
    place = f"in the {'real' if image == 'hr' else image} image"
    left_out = entry["left_out"]
    without = f" ({left_out} of {entry['n'] + left_out} images left out)" if left_out else ""
    value = "undefined" if finite(entry["mean"]) is None else _number(entry["mean"], metric)
    return f"{value} {place if row != 'classical' else _CLASSICAL}{without}"


def _difference_text(entry: Entry, metric: Metric) -> str:
    if finite(entry["mean"]) is None:
        return ""
    low, high = (f"{entry[side]:+.{metric.decimals}f}" for side in ("low", "high"))
    return f" ({_number(entry['mean'], metric, '+')}, 95 % interval {low} to {high})"


def _number(value: float, metric: Metric, sign: str = "") -> str:
    return f"{value:{sign}.{metric.decimals}f} {metric.unit}".rstrip()
