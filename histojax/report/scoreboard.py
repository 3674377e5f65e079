"""Scores as tables: rows are methods, columns metrics, the best of each column marked.

A score's key is <metric>_<method>, e.g. psnr_rgb_bicubic or dice_sr_to_s.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from histojax.report.charts import number_text
from histojax.report.page import text

MISSING = "–"


@dataclasses.dataclass(frozen=True)
class Metric:
    """How a metric is shown: its name, unit, decimals, and whether more is better."""

    label: str
    unit: str = ""
    decimals: int = 3
    up: bool = True


IMAGE_METRICS = {
    "psnr_rgb": Metric("PSNR RGB", "dB", 2),
    "ssim_rgb": Metric("SSIM RGB"),
    "psnr_y": Metric("PSNR Y", "dB", 2),
    "ssim_y": Metric("SSIM Y"),
    "power_spectrum_error": Metric("power spectrum error", up=False),
}
MASK_METRICS = {
    "dice": Metric("Dice"),
    "iou": Metric("IoU"),
    "miou": Metric("mean IoU"),
    "dice_pooled": Metric("Dice, pooled"),
    "iou_pooled": Metric("IoU, pooled"),
    "class_miou": Metric("mean IoU of classes"),
    "class_miou_pooled": Metric("mean IoU of classes, pooled"),
    "aji": Metric("AJI"),
    "aji_plus": Metric("AJI+"),
    "pq": Metric("PQ"),
    "dq": Metric("DQ"),
    "sq": Metric("SQ"),
    "f1": Metric("F1"),
}
_FEATURE = "feature_distance"
# What is scored for each class, by its name.
_CLASSES = {"class_dice_pooled_": "Dice, {}, pooled", "class_dice_": "Dice, {}"}
_NETWORKS = ("squeezenet1_1", "segmenter", "vgg19")
_METHODS = {
    "": "this run",
    "bicubic": "bicubic",
    "otsu": "Otsu on haematoxylin",
}
# Rows that look at the real high-resolution image; they bound the others rather than compete.
_REFERENCES = ("otsu", "hr")


@dataclasses.dataclass(frozen=True)
class Scores:
    """Parsed metrics: metric -> method -> {"mean", "low", "high", "n", ...}."""

    images: Mapping[str, Mapping[str, Mapping[str, Any]]]
    masks: Mapping[str, Mapping[str, Mapping[str, Any]]]
    others: Mapping[str, Mapping[str, Any]]


def parse(metrics: Mapping[str, Any]) -> Scores:
    """Sorts {key: {"mean", "low", "high", "n"} or number or None} into tables."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    others: dict[str, dict[str, Any]] = {}
    for key, split in split_keys(metrics).items():
        value = metrics[key]
        entry = dict(value) if isinstance(value, Mapping) else {"mean": value}
        if split is None:
            others[key] = entry
        else:
            found.setdefault(split[0], {})[split[1]] = entry
    order = [*IMAGE_METRICS, *MASK_METRICS]
    names = sorted(found, key=lambda m: order.index(m) if m in order else len(order))
    masks = [m for m in names if m in MASK_METRICS or m.startswith(tuple(_CLASSES))]
    images = {m: found[m] for m in names if m not in masks}
    return Scores(images, {m: found[m] for m in masks}, others)


def describe(metric: str) -> Metric:
    """How to show a metric."""
    if metric.startswith(_FEATURE):
        network = metric[len(_FEATURE) + 1 :]
        return Metric(f"feature distance, {network}" if network else "feature distance", up=False)
    for prefix, label in _CLASSES.items():
        if metric.startswith(prefix):
            return Metric(label.format(metric.removeprefix(prefix)))
    return IMAGE_METRICS.get(metric) or MASK_METRICS.get(metric) or Metric(metric)


def method_label(method: str) -> str:
    """A method's name for readers: sr_to_s -> SR → S."""
    if method in _METHODS:
        return _METHODS[method]
    names = {"s": "S", "hr": "HR", "sr": "SR", "lr": "LR"}
    return " → ".join(names.get(part, part) for part in method.split("_to_"))


def is_reference(method: str) -> bool:
    """Whether a row looks at the real high-resolution image."""
    return method.split("_")[0] in _REFERENCES


def finite(value: Any) -> float | None:
    """A finite number, or None for null, NaN, infinities and what is no number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def score_text(value: Any, metric: str, *, signed: bool = False) -> str:
    """A score in its metric's decimals; a dash where there is none."""
    number = finite(value)
    if number is None:
        return MISSING
    decimals = describe(metric).decimals
    small = 0 < abs(number) < 0.5 * 10.0**-decimals
    digits = f"{abs(number):.1e}" if small else f"{abs(number):.{decimals}f}"
    sign = "−" if number < 0 else "+" if signed and number > 0 else ""
    return sign + digits


def best_methods(column: Mapping[str, Mapping[str, Any]], metric: str) -> set[str]:
    """The methods of the best mean, as it is shown; references only where nothing else is."""
    means = {method: finite(entry.get("mean")) for method, entry in column.items()}
    rivals = {m: v for m, v in means.items() if v is not None and not is_reference(m)}
    if not any(not is_reference(method) for method in column):
        rivals = {m: v for m, v in means.items() if v is not None}
    if len(rivals) < 2:
        return set()
    best = max(rivals.values()) if describe(metric).up else min(rivals.values())
    shown = score_text(best, metric)
    return {method for method, value in rivals.items() if score_text(value, metric) == shown}


def score_table(
    columns: Mapping[str, Mapping[str, Mapping[str, Any]]],
    *,
    caption: str,
    labels: Mapping[str, str] | None = None,
) -> str:
    """HTML of a table of methods and metrics with intervals; "" where there are no columns.

    Args:
        columns: metric -> method -> {"mean", "low", "high", "n", ...}.
        caption: above the table.
        labels: method -> name, where the methods are runs.
    """
    if not columns:
        return ""
    methods = _ordered(list(dict.fromkeys(m for column in columns.values() for m in column)))
    best = {metric: best_methods(column, metric) for metric, column in columns.items()}
    head = "".join(heading(metric) for metric in columns)
    compete = any(not is_reference(method) for method in methods)
    body = []
    for method in methods:
        reference = compete and is_reference(method)
        cells = "".join(
            _cell(columns[metric].get(method), metric, method in best[metric]) for metric in columns
        )
        note = "<small>reads the real image</small>" if reference else ""
        body.append(
            f"<tr{' class=reference' if reference else ''}>"
            f'<th scope="row">{text((labels or {}).get(method) or method_label(method))}{note}</th>'
            f"{cells}</tr>"
        )
    return (
        f'<div class="scroll"><table class="scores"><caption>{text(caption)}</caption>'
        f'<thead><tr><th scope="col">{"run" if labels else "method"}</th>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def difference_table(differences: Mapping[str, Any]) -> str:
    """HTML of {"a - b": {"mean", "low", "high", "n"}}; "" where there are none."""
    rows = []
    for name, value in differences.items():
        entry = value if isinstance(value, Mapping) else {"mean": value}
        first, _, second = name.partition(" - ")
        split, other = split_key(first), split_key(second)
        metric = split[0] if split else name
        label = name
        if split and other and split[0] == other[0]:
            label = f"{describe(metric).label}: {method_label(split[1])} − {method_label(other[1])}"
        low, high = finite(entry.get("low")), finite(entry.get("high"))
        verdict = MISSING
        if low is not None and high is not None:
            clear = low > 0 or high < 0
            verdict = "clear of 0" if clear else "not clear of 0"
        mean, low_text, high_text = (
            score_text(entry.get(field), metric, signed=True) for field in ("mean", "low", "high")
        )
        unit = describe(metric).unit
        rows.append(
            f'<tr><th scope="row">{text(label)}</th><td>{mean} {unit}</td>'
            f"<td>{low_text} to {high_text}</td><td>{_count(entry.get('n'))}</td>"
            f"<td>{verdict}</td></tr>"
        )
    if not rows:
        return ""
    return (
        '<div class="scroll"><table class="plain"><caption>Paired differences over the same images'
        '</caption><thead><tr><th scope="col">difference</th><th scope="col">mean</th>'
        '<th scope="col">95 % interval</th><th scope="col">images</th><th scope="col">sign</th>'
        f"</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def other_table(others: Mapping[str, Mapping[str, Any]]) -> str:
    """HTML of scores whose keys name no known metric."""
    rows = "".join(
        f'<tr><th scope="row">{text(key)}</th><td>{_number(entry.get("mean"))}</td>'
        f"<td>{_number(entry.get('low'))} to {_number(entry.get('high'))}</td></tr>"
        for key, entry in others.items()
    )
    if not rows:
        return ""
    return (
        '<div class="scroll"><table class="plain"><caption>Other measurements</caption><thead><tr>'
        '<th scope="col">name</th><th scope="col">mean</th><th scope="col">95 % interval</th></tr>'
        f"</thead><tbody>{rows}</tbody></table></div>"
    )


def split_keys(keys: Iterable[str]) -> dict[str, tuple[str, str] | None]:
    """Key -> (metric, method), also of metrics named after a network or class; None for others."""
    found = {key: split_key(key) for key in keys}
    methods = {split[1] for split in found.values() if split is not None}
    return {key: split or _split_by_method(key, methods) for key, split in found.items()}


def split_key(key: str) -> tuple[str, str] | None:
    """(metric, method) of a key of a metric with a fixed name."""
    for metric in sorted([*IMAGE_METRICS, *MASK_METRICS], key=len, reverse=True):
        if key == metric or key.startswith(metric + "_"):
            return metric, key[len(metric) + 1 :]
    for network in _NETWORKS:
        metric = f"{_FEATURE}_{network}"
        if key == metric or key.startswith(metric + "_"):
            return metric, key[len(metric) + 1 :]
    return None


def _split_by_method(key: str, methods: set[str]) -> tuple[str, str] | None:
    """(metric, method) of a metric whose name holds one not known here, by known methods."""
    prefix = next((p for p in (f"{_FEATURE}_", *_CLASSES) if key.startswith(p)), None)
    if prefix is None:
        return None
    for method in sorted(methods - {""}, key=len, reverse=True):
        if key.endswith("_" + method) and len(key) > len(prefix) + len(method) + 1:
            return key[: -len(method) - 1], method
    return None


def _ordered(methods: Sequence[str]) -> list[str]:
    """Baselines first, what a run made next as it came, the real image last."""

    def rank(method: str) -> int:
        if method == "otsu":
            return 0
        if method.startswith("bicubic"):
            return 1
        return 3 if is_reference(method) else 2

    return sorted(methods, key=rank)


def heading(metric: str) -> str:
    """HTML of a metric's column heading: name, unit, and which way is better."""
    shown = describe(metric)
    unit = f" {shown.unit}" if shown.unit else ""
    sense = "higher is better" if shown.up else "lower is better"
    arrow = "↑" if shown.up else "↓"
    return (
        f'<th scope="col">{text(shown.label)}<small>{unit} '
        f'<span title="{sense}" aria-label="{sense}">{arrow}</span></small></th>'
    )


def _cell(entry: Mapping[str, Any] | None, metric: str, best: bool) -> str:
    if entry is None or finite(entry.get("mean")) is None:
        return f'<td class="none">{MISSING}</td>'
    low, high = (score_text(entry.get(field), metric) for field in ("low", "high"))
    interval = f"<small>{low} – {high}</small>" if MISSING not in (low, high) else ""
    note = f"{_count(entry.get('n'))} images"
    if entry.get("left_out"):
        note += f", {_count(entry['left_out'])} without a finite score left out"
    value = score_text(entry["mean"], metric)
    if best:
        value = f'<strong title="best of its column">{value}</strong>'
    return f'<td{" class=best" if best else ""} title="{note}">{value}{interval}</td>'


def _count(value: Any) -> str:
    number = finite(value)
    return MISSING if number is None else f"{number:,.0f}"


def _number(value: Any) -> str:
    number = finite(value)
    return MISSING if number is None else number_text(number)
