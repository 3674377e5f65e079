"""The report.html that compares several runs, drawn from what comparison.json holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from histojax.report import scoreboard
from histojax.report.curves import Curve, overlaid, read_curves
from histojax.report.page import (
    Album,
    Section,
    definitions,
    missing,
    read_picture,
    text,
    write_page,
)
from histojax.report.scoreboard import MISSING, finite, score_text

# Row -> what it is to be read against: the method of its scores, and its name.
BASELINES = {"sr": ("bicubic", "bicubic"), "hr_to_s": ("otsu", "Otsu on haematoxylin")}
_ROWS = {
    "sr": "Enhanced image",
    "sr_to_s": "Nuclei in the enhanced image",
    "bicubic_to_s": "Nuclei in the bicubic image",
    "hr_to_s": "Nuclei in the real image",
}


def row_title(row: str) -> str:
    """What the scores of a row are of; rows of earlier stages are named after them."""
    if row in _ROWS:
        return _ROWS[row]
    images, _, segmenter = row.partition("_to_")
    if not segmenter:
        return f"Image enhanced by the {images} stage"
    seen = {"bicubic": "bicubic", "hr": "real", "sr": "enhanced"}.get(images, f"{images} stage's")
    own = "" if segmenter == "s" else f", by the {segmenter} stage"
    return f"Nuclei in the {seen} image{own}"


def p_text(p: Any) -> str:
    """A p in three decimals, or "< .001"."""
    value = finite(p)
    if value is None:
        return MISSING
    return "< .001" if value < 0.001 else f"{value:.3f}".lstrip("0") if value < 1 else "1"


def write(path: Path, result: Mapping[str, Any], folders: Mapping[str, Mapping[str, Path]]) -> None:
    """Writes the page.

    Args:
        path: final name, in the folder that the paths of the pictures start from.
        result: as `histojax.evaluation.comparison.compare` returns it.
        folders: label -> stage's name -> its folder, where metrics.jsonl lies; the last stage is
            what the run is for.

    Raises:
        UserError: the disk refuses.
    """
    album = Album()
    data = result["data"]
    labels = [run["label"] for run in result["runs"]]
    lead = (
        f'<p class="lead">{text(", ".join(labels))}, scored on the same '
        f"{data['images']:,} images of the {text(data['split'])} split; differences are from "
        f"{text(result['against'])}.</p>"
    )
    if result["notes"]:
        items = "".join(f"<li>{text(note)}</li>" for note in result["notes"])
        lead += f"<ul>{items}</ul>"
    if result.get("command"):
        lead += f"<p>The command that repeats it:</p><pre>{text(result['command'])}</pre>"
    sections = [
        Section("Scores", _scores(result, labels)),
        Section("The same pictures", _pictures(path.parent, result["pictures"], album)),
        Section("Learning curves", _curves(folders, {run["stage"] for run in result["runs"]})),
        Section("The runs", _runs(result["runs"])),
        Section("Data", _data(data)),
    ]
    write_page(
        path,
        title=f"histojax: {len(labels)} runs compared",
        lead=lead,
        sections=sections,
        album=album,
        footer="Made by histojax; the numbers are in comparison.json and comparison.csv.",
    )


def _scores(result: Mapping[str, Any], labels: Sequence[str]) -> str:
    """For each row a table of means, and one of differences from the first run."""
    # Keys of a table are not the runs' names, which might be those of its baselines.
    keys = {label: f"run {number}" for number, label in enumerate(labels)}
    parts = []
    for row, metrics in result["scores"].items():
        columns = {}
        for metric, by_run in metrics.items():
            baseline = result["baselines"].get(row, {}).get(metric)
            columns[metric] = {"baseline": baseline} if baseline else {}
            columns[metric] |= {keys[label]: entry for label, entry in by_run.items()}
        names = {
            "baseline": BASELINES.get(row, ("", ""))[1],
            **{key: one for one, key in keys.items()},
        }
        parts.append(scoreboard.score_table(columns, caption=row_title(row), labels=names))
        parts.append(_differences(result["differences"].get(row) or {}, result["against"], row))
    note = (
        f"{result['data']['images']:,} images. Means with 95 % bootstrap intervals over images in "
        "small print; differences are paired, image by image, and their intervals are of the "
        f"differences. ★ marks the best of each column. {result['test']}"
    )
    return f"{''.join(parts)}<p><small>{text(note)}</small></p>"


def _differences(
    columns: Mapping[str, Mapping[str, Mapping[str, Any]]], against: str, row: str
) -> str:
    if not columns:
        return ""
    labels = list(dict.fromkeys(label for column in columns.values() for label in column))
    head = "".join(scoreboard.heading(metric) for metric in columns)
    body = "".join(
        f'<tr><th scope="row">{text(label)}</th>'
        + "".join(_difference(column.get(label), metric) for metric, column in columns.items())
        + "</tr>"
        for label in labels
    )
    caption = text(f"{row_title(row)}: difference from {against}")
    return (
        f'<div class="scroll"><table class="scores"><caption>{caption}</caption><thead><tr>'
        f'<th scope="col">run</th>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _difference(entry: Mapping[str, Any] | None, metric: str) -> str:
    if entry is None or finite(entry.get("mean")) is None:
        return f'<td class="none">{MISSING}</td>'
    mean, low, high = (score_text(entry[f], metric, signed=True) for f in ("mean", "low", "high"))
    note = f"{entry['n']:,} images"
    if entry.get("left_out"):
        note += f", {entry['left_out']:,} without a finite score left out"
    return (
        f'<td title="{note}">{mean}<small>{low} to {high}</small>'
        f"<small>p {text(p_text(entry['p']))}</small></td>"
    )


def _pictures(folder: Path, names: Sequence[str], album: Album) -> str:
    parts = []
    for path in (folder / name for name in names):
        picture = read_picture(path, f"{path.stem}: the windows with most detail, alike for all.")
        if picture is None:
            parts.append(missing(f"{path.name} cannot be read as a picture."))
        else:
            parts.append(album.place(picture))
    return "".join(parts) or missing("No picture has been drawn.")


def _curves(folders: Mapping[str, Mapping[str, Path]], kinds: set[str]) -> str:
    """What the runs end with, over steps and over time; then the stages they share before.

    Args:
        folders: as in `write`.
        kinds: of stage that the runs end with.
    """
    ends = {label: list(stages)[-1] for label, stages in folders.items()}
    last = {label: folders[label][end] for label, end in ends.items()}
    parts = [_charts(last, "", loss=len(kinds) == 1)]
    earlier = dict.fromkeys(
        stage for label, stages in folders.items() for stage in stages if stage != ends[label]
    )
    for stage in earlier:
        having = {label: stages[stage] for label, stages in folders.items() if stage in stages}
        if len(having) > 1:
            parts.append(_charts(having, f"Stage {stage}, ", loss=True))
    return "".join(parts) or missing("No two runs have recorded a metric in common.")


def _charts(folders: Mapping[str, Path], before: str, *, loss: bool) -> str:
    runs: dict[str, dict[tuple[str, str], Curve]] = {}
    for label, folder in folders.items():
        try:
            runs[label] = read_curves(folder)
        except (OSError, ValueError):
            runs[label] = {}
    parts = []
    for by_time, heading in ((False, "by step"), (True, "by training time")):
        charts = overlaid(runs, loss=loss, by_time=by_time)
        if charts:
            heading = f"{before}{heading}"
            heading = heading[0].upper() + heading[1:]
            parts.append(f'<h3>{text(heading)}</h3><div class="charts">{"".join(charts)}</div>')
    return "".join(parts)


def _runs(runs: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for run in runs:
        seconds = finite(run.get("seconds"))
        minutes = MISSING if seconds is None else f"{seconds / 60:,.1f}"
        shown = (_count(run["steps"]), _count(run["checkpoint_step"]), minutes)
        cells = "".join(f"<td>{cell}</td>" for cell in (*shown, _count(run["parameters"])))
        rows.append(
            f'<tr><th scope="row">{text(run["label"])}<small>{text(run["workdir"])}</small></th>'
            f"<td>{text(run['stage'])}</td>{cells}</tr>"
        )
    heads = ("run", "last stage", "steps", "best at step", "minutes", "parameters")
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    table = (
        f'<div class="scroll"><table class="scores"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )
    return table + "".join(_config_differences(run, runs[0]["label"]) for run in runs[1:])


def _config_differences(run: Mapping[str, Any], first: str) -> str:
    """Fields in which a run's config is another than the first run's, folded away where many."""
    lines = run["differs_in"]
    if not lines:
        return f"<p>{text(run['label'])} has the config of {text(first)}, length apart.</p>"
    shown = "".join(f"{text(line)}\n" for line in lines)
    opened = " open" if len(lines) <= 12 else ""
    return (
        f"<details{opened}><summary>What differs in the config, from {text(first)} to "
        f"{text(run['label'])}</summary><pre>{shown}</pre></details>"
    )


def _count(value: Any) -> str:
    number = finite(value)
    return MISSING if number is None else f"{number:,.0f}"


def _data(data: Mapping[str, Any]) -> str:
    shown = ("source", "split", "images", "fingerprint", "scale", "seed")
    entries: list[tuple[str, object]] = [(field, data[field]) for field in shown]
    return definitions([*entries, ("degradation", data["degradation"]["name"])])
