"""Tables of scores: one model behind every page, and behind a terminal.

The key of a score is <metric>_<row>, e.g. psnr_rgb_bicubic or dice_sr_to_s; `metrics.registry` has
the title, unit, decimals and direction of its metric.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from histojax.imaging.enlargement import ENHANCERS
from histojax.metrics import registry
from histojax.metrics.intervals import LEAST_IMAGES
from histojax.metrics.registry import Metric

MISSING = "–"
# {"mean", "low", "high", "n", "left_out"}, of which any may be absent or None.
Entry = Mapping[str, Any]

_LABELS = {
    "": "this run",
    "classical": "classical method",
    "back_projection": "back-projection",
    "linear": "linear filter",
}
_IMAGES = {"s": "S", "hr": "HR", "sr": "SR", "lr": "LR"}
# Rows that read the real high-resolution image; they bound the others and do not compete.
_REFERENCES = ("classical", "hr")


class Column(NamedTuple):
    """A heading; `higher_is_better` is None where no value is the best."""

    title: str
    unit: str = ""
    higher_is_better: bool | None = None


class Cell(NamedTuple):
    """A value, with lines of small print below it and a note for the pointer."""

    value: str = MISSING
    small: Sequence[str] = ()
    note: str = ""
    best: bool = False


class Row(NamedTuple):
    """A name and its cells; a reference, which reads the real image, is in italics."""

    name: str
    cells: Sequence[Cell]
    reference: bool = False


class Table(NamedTuple):
    """Rows of values below columns; `corner` is the heading of the rows' names."""

    corner: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    caption: str = ""

    def text(self) -> str:
        """The values in aligned columns, for a terminal."""
        head = [self.corner, *(column.title for column in self.columns)]
        lines = ([row.name, *(cell.value for cell in row.cells)] for row in self.rows)
        return _aligned([head, *lines])


def text_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as lines under their keys, for a terminal; "–" where a value is missing."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    return _aligned([keys, *([_value_text(row.get(key)) for key in keys] for row in rows)])


def _value_text(value: Any) -> str:
    if isinstance(value, bool | str):
        return str(value)
    return count_text(value) if isinstance(value, int) else number_text(value)


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    """Lines in columns, the first of them left-aligned and the others right-aligned."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    form = "  ".join(f"{{:{'>' if place else '<'}{width}}}" for place, width in enumerate(widths))
    return "\n".join(form.format(*line).rstrip() for line in lines)


class Scores(NamedTuple):
    """Scores by metric and row: of enhanced images, of masks, and those of no known metric."""

    images: Mapping[str, Mapping[str, Entry]]
    masks: Mapping[str, Mapping[str, Entry]]
    others: Mapping[str, Entry]


def parse(metrics: Mapping[str, Any]) -> Scores:
    """Sorts {key: entry, number or None} by metric and row."""
    found: dict[str, dict[str, Entry]] = {}
    others: dict[str, Entry] = {}
    for key, split in registry.split_keys(metrics).items():
        value = metrics[key]
        entry = value if isinstance(value, Mapping) else {"mean": value}
        if split is None:
            others[key] = entry
        else:
            found.setdefault(split[0], {})[split[1]] = entry
    order = list(registry.METRICS)
    images: dict[str, dict[str, Entry]] = {}
    masks: dict[str, dict[str, Entry]] = {}
    for name in sorted(found, key=lambda n: order.index(n) if n in order else len(order)):
        (images if describe(name).of_images else masks)[name] = found[name]
    return Scores(images, masks, others)


def describe(name: str) -> Metric:
    """How a metric is shown; one that is not registered by its own name."""
    return registry.metric(name) or Metric(name, name, "image")


def row_label(row: str) -> str:
    """The name of a row for readers: sr_to_s -> SR → S."""
    if row in _LABELS:
        return _LABELS[row]
    return " → ".join(_IMAGES.get(part, part) for part in row.split("_to_"))


def is_reference(row: str) -> bool:
    """Whether a row reads the real high-resolution image."""
    return row.split("_")[0] in _REFERENCES


def finite(value: Any) -> float | None:
    """A finite number; None for null, NaN, an infinity or another type."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def score_text(value: Any, metric: Metric, *, signed: bool = False) -> str:
    """A score in the decimals of its metric; a dash where there is none."""
    number = finite(value)
    if number is None:
        return MISSING
    small = 0 < abs(number) < 0.5 * 10.0**-metric.decimals
    digits = f"{abs(number):.1e}" if small else f"{abs(number):.{metric.decimals}f}"
    return ("−" if number < 0 else "+" if signed and number > 0 else "") + digits


def number_text(value: Any) -> str:
    """A number in about four significant digits: 0.01235, 27.31, 1,235, 1.2e-06."""
    number = finite(value)
    if number is None:
        return MISSING
    if number != 0 and not 1e-4 <= abs(number) < 1e7:
        return f"{number:.3g}"
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.4g}"


def count_text(value: Any) -> str:
    """A whole number with its thousands set off."""
    return MISSING if finite(value) is None else f"{value:,.0f}"


def p_text(p: Any) -> str:
    """A p in three decimals, or "< 0.001"."""
    return MISSING if finite(p) is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Each value of nested ones, by its names with dots."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def plain_text(value: Any) -> str:
    """A JSON value for readers; null as a dash."""
    if value is None:
        return MISSING
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {plain_text(item)}" for name, item in flat(value)) or MISSING
    if isinstance(value, (list, tuple)):
        return ", ".join(map(plain_text, value)) or "none"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10_000:
        return f"{value:,}"
    return str(value) if value != "" else '""'


def duration_text(seconds: float) -> str:
    """Seconds as "12 s", "3 min 20 s" or "2 h 05 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def best(means: Mapping[str, Any], metric: Metric) -> set[str]:
    """The names with the best value as it is shown; none where fewer than two compete."""
    rivals = {name: value for name, mean in means.items() if (value := finite(mean)) is not None}
    if len(rivals) < 2:
        return set()
    shown = score_text((max if metric.higher_is_better else min)(rivals.values()), metric)
    return {name for name, value in rivals.items() if score_text(value, metric) == shown}


def best_rows(by_row: Mapping[str, Entry], metric: Metric) -> set[str]:
    """The rows with the best mean; references compete only where a metric has no other rows."""
    means = {row: entry.get("mean") for row, entry in by_row.items()}
    return best({row: m for row, m in means.items() if not is_reference(row)} or means, metric)


def column(metric: Metric, row: str = "") -> Column:
    """The heading of a metric, or of its scores in one row."""
    title = f"{metric.title}, {row_label(row)}" if row else metric.title
    return Column(title, metric.unit, metric.higher_is_better)


def score_table(
    scores: Mapping[str, Mapping[str, Entry]],
    *,
    caption: str,
    labels: Mapping[str, str] | None = None,
    signed: bool = False,
) -> Table:
    """Rows and metrics with their intervals, the best of each metric marked.

    Scores are metric -> row -> entry, whose "p" is shown. Labels are row -> name where rows are
    runs. Differences are `signed`, and none of them is the best.
    """
    columns, cells = [], {}
    for name, by_row in scores.items():
        metric = describe(name)
        columns.append(column(metric))
        marked = set() if signed else best_rows(by_row, metric)
        for row, entry in by_row.items():
            cells[row, name] = _cell(entry, metric, signed, row in marked)
    keys = sorted(dict.fromkeys(row for row, _ in cells), key=_rank)
    some = not all(map(is_reference, keys))
    rows = []
    for row in keys:
        label, reference = (labels or {}).get(row) or row_label(row), some and is_reference(row)
        rows.append(Row(label, [cells.get((row, n), Cell()) for n in scores], reference))
    return Table("run" if labels else "method", columns, rows, caption)


def difference_table(differences: Mapping[str, Any]) -> Table:
    """A row for each of {"key - key": entry}, with a verdict on the sign, if images suffice."""
    rows, few = [], False
    for name, value in differences.items():
        entry = value if isinstance(value, Mapping) else {"mean": value}
        one, _, other = name.partition(" - ")
        first, second = registry.split_key(one), registry.split_key(other)
        metric, label = describe(first[0] if first else name), name
        if first and second and first[0] == second[0]:
            label = f"{metric.title}: {row_label(first[1])} − {row_label(second[1])}"
        mean, low, high = interval_texts(entry, metric, signed=True)
        verdict = MISSING
        if MISSING not in (low, high):
            verdict = "not clear of 0" if entry["low"] <= 0 <= entry["high"] else "clear of 0"
            if (finite(entry.get("n")) or 0) < LEAST_IMAGES:
                verdict, few = "too few images", True
        cells = (f"{mean} {metric.unit}", f"{low} to {high}", count_text(entry.get("n")), verdict)
        rows.append(Row(label, [Cell(cell) for cell in cells]))
    titles = ("mean", "95 % interval", "images", "sign")
    caption = "Paired differences over the same images"
    if few:
        caption += (
            f"; fewer than {LEAST_IMAGES} show no sign, because 4 agree on one by chance once in 8"
        )
    return Table("difference", [Column(title) for title in titles], rows, caption)


def _rank(row: str) -> int:
    """Baselines first, then rows of the run as they come, the real image last."""
    if row == "classical":
        return 0
    return 1 if row.split("_to_")[0] in ENHANCERS else 3 if is_reference(row) else 2


def interval_texts(entry: Entry, metric: Metric, *, signed: bool) -> list[str]:
    """Mean, low and high of an entry."""
    fields = ("mean", "low", "high")
    return [score_text(entry.get(field), metric, signed=signed) for field in fields]


def _cell(entry: Entry, metric: Metric, signed: bool, best: bool) -> Cell:
    mean, low, high = interval_texts(entry, metric, signed=signed)
    if mean == MISSING:
        return Cell()
    small = [f"{low} {'to' if signed else '–'} {high}"] if MISSING not in (low, high) else []
    if "p" in entry:
        small.append(f"p {p_text(entry['p'])}")
    note = f"{count_text(entry.get('n'))} images"
    if entry.get("left_out"):
        note += f", {count_text(entry['left_out'])} without a finite score left out"
    return Cell(mean, small, note, best)
