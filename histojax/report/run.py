"""The report.html that a run leaves, and the index.html of predictions.

A report is made from what its workdir holds (config.json, metrics.jsonl, summary.json, samples/,
evaluation/figures/); what is not there is said in words.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from histojax.report import scoreboard
from histojax.report.charts import Series, line_chart
from histojax.report.curves import Curve, chart_order, chart_title, read_curves, read_warnings
from histojax.report.page import (
    Album,
    Picture,
    Section,
    definitions,
    missing,
    read_focus,
    read_picture,
    text,
    write_page,
)
from histojax.report.scoreboard import MISSING, finite

_FIGURES = 6
_STRIP = 6
_STAGES = {
    "generator": "the super-resolution generator, on a pixel loss",
    "srgan": "the super-resolution generator, on feature and adversarial losses",
    "segmentation": "the nuclei segmenter, on high-resolution images",
    "joint": "generator and segmenter together, from low-resolution image to nuclear mask",
    "pyramid": "a scale of the pyramid, which makes tissue for masks and finds masks in tissue",
}
_NOTE = "Means over whole images with 95 % bootstrap intervals in small print. ★ marks the best of "
_NOTE_ALONE = "each column."
_NOTE_REFERENCES = (
    "each column among the methods that start from the low-resolution image; rows in italics read "
    "the real high-resolution image and are there for reference."
)


def run_report(workdir: str | Path) -> Path:
    """Writes workdir/report.html of one stage's run and returns its path.

    Raises:
        UserError: the disk refuses.
    """
    workdir = Path(workdir)
    config, summary = _read(workdir / "config.json"), _read(workdir / "summary.json")
    name = str(summary.get("name") or config.get("name") or workdir.name)
    album = Album()
    sections = [
        Section("Results", _results(summary)),
        Section("Training", _training(workdir)),
        Section("Samples during training", _samples(workdir, album)),
        Section("Evaluation", _evaluation(workdir, album)),
        Section("The run", _circumstances(summary)),
        Section("Config", _config(config)),
    ]
    lead = f'<p class="lead">{text(_sentence(config, summary))}</p>' + _command(
        config, summary, workdir
    )
    return _finish(workdir, f"histojax: {name}", lead, sections, album)


def chain_report(workdir: str | Path) -> Path:
    """Writes workdir/report.html of a chain of stages and returns its path.

    Raises:
        UserError: the disk refuses.
    """
    workdir = Path(workdir)
    config, summary = _read(workdir / "config.json"), _read(workdir / "summary.json")
    name = str(summary.get("name") or config.get("name") or workdir.name)
    folders = _stage_folders(workdir, config, summary)
    album = Album()
    sections = [
        Section("Results", _results(summary, list(folders))),
        Section("Evaluation", _evaluation(workdir, album)),
    ]
    for stage, (folder, own) in folders.items():
        own = own or _read(folder / "summary.json")
        link = quote(f"{folder.relative_to(workdir).as_posix()}/report.html")
        body = (
            f"<p>{text(_sentence(_read(folder / 'config.json'), own))} "
            f'<a href="{link}">Its own report</a>.</p>'
            + _training(folder)
            + _samples(folder, album, strip=False)
        )
        sections.append(Section(f"Stage: {stage}", body))
    sections += [
        Section("The run", _circumstances(summary)),
        Section("Config", _config({k: v for k, v in config.items() if k != "init_from"})),
    ]
    if folders:
        what = (
            f"A chain of {len(folders)} stages trained one after another: {', '.join(folders)}. "
            + _scored_on(summary)
        )
    else:
        what = "A chain of stages; none has been trained yet."
    lead = f'<p class="lead">{text(what)}</p>' + _command(config, summary, workdir)
    return _finish(workdir, f"histojax: {name}", lead, sections, album)


def prediction_index(path: str | Path, *, workdir: str, rows: Sequence[tuple[Any, Any]]) -> None:
    """Writes the index.html of predictions.

    Args:
        path: final name, in the folder that holds the predictions' files.
        workdir: of the run that made them.
        rows: (prediction, preview uint8 (H, W, 3)); a prediction has name, size (H, W), mpp,
            files (paths by name), nuclei (count or None), note and class_names.

    Raises:
        UserError: the disk refuses.
    """
    album = Album()
    counts = [made.nuclei for made, _ in rows if made.nuclei is not None]
    total = f", {sum(counts):,} nuclei in all" if counts else ""
    sections = []
    for made, preview in rows:
        height, width = made.size
        entries = [("size", f"{width:,} × {height:,} px")]
        entries.append(("scale", f"{made.mpp:.4g} µm/px" if made.mpp else "unknown"))
        if made.nuclei is not None:
            entries.append(("nuclei", f"{made.nuclei:,}"))
            if made.mpp:
                area = height * width * made.mpp**2 / 1e6
                entries.append(("density", f"{made.nuclei / area:,.0f} per mm²"))
        if made.class_names:
            numbered = (f"{number} {name}" for number, name in enumerate(made.class_names))
            entries.append(("classes", ", ".join(numbered)))
        entries.append(("note", made.note))
        files = ", ".join(
            f'<a href="{quote(file.name)}">{text(file.name)}</a>' for file in made.files.values()
        )
        sections.append(
            Section(
                made.name,
                definitions(entries)
                + (f"<p>Files: {files}</p>" if files else "")
                + album.place(Picture(f"The middle of {made.name}.", preview)),
            )
        )
    images = "1 image" if len(rows) == 1 else f"{len(rows):,} images"
    lead = f'<p class="lead">{text(f"{images} predicted by the run in {workdir}{total}.")}</p>'
    if not sections:
        sections = [Section("Images", missing("No image has been predicted."))]
    write_page(
        path,
        title="histojax: predictions",
        lead=lead,
        sections=sections,
        album=album,
        footer="Made by histojax.",
    )


def _finish(
    workdir: Path, title: str, lead: str, sections: Sequence[Section], album: Album
) -> Path:
    path = workdir / "report.html"
    write_page(
        path,
        title=title,
        lead=lead,
        sections=sections,
        album=album,
        footer="Made by histojax from config.json, metrics.jsonl, summary.json and the pictures of "
        "this folder.",
    )
    return path


def _read(path: Path) -> dict[str, Any]:
    """A JSON object, empty where the file is missing or holds none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _stage_folders(
    workdir: Path, config: Mapping[str, Any], summary: Mapping[str, Any]
) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Stage -> (folder, summary), from the summary, or else what stages have begun."""
    stages = summary.get("stages") or {}
    if stages:
        return {
            name: (workdir / stage.get("folder", name), stage.get("summary") or {})
            for name, stage in stages.items()
        }
    return {
        name: (workdir / name, {})
        for name in config.get("chain") or []
        if (workdir / name / "config.json").exists()
    }


def _sentence(config: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    """What the run was, in plain words."""
    stage = summary.get("stage") or config.get("stage")
    steps = finite(summary.get("steps") or config.get("steps"))
    data = config.get("data") or {}
    parts = [f"This run trains {_STAGES.get(stage, f'stage {stage}') if stage else 'a network'}"]
    if data.get("scale") and stage not in ("segmentation", "pyramid"):
        parts[0] += f", at x{data['scale']}"
    if steps is not None:
        parts[0] += ","
        parts.append(f"for {steps:,.0f} steps")
    if data.get("batch_size"):
        parts.append(f"of {data['batch_size']} crops")
    if data.get("source"):
        synthetic = data["source"] == "synthetic"
        parts.append("of synthetic tissue" if synthetic else f"of {data['source']}")
    sentence = " ".join(parts) + "."
    seconds = finite(summary.get("seconds"))
    if seconds is not None:
        sentence += f" It took {_duration(seconds)}."
    at = finite(summary.get("checkpoint_step"))
    if at is not None and at != steps:
        sentence += f" The checkpoint used is that of step {at:,.0f}."
    return f"{sentence} {_scored_on(summary)}".strip()


def _scored_on(summary: Mapping[str, Any]) -> str:
    data = summary.get("data") or {}
    if not data:
        return ""
    count = finite(data.get("images"))
    images = "images" if count is None else "1 image" if count == 1 else f"{count:,.0f} images"
    return f"Scored on {images} of the {data.get('split', '?')} split."


def _command(config: Mapping[str, Any], summary: Mapping[str, Any], workdir: Path) -> str:
    """The command that repeats the run, as it was recorded, else how it is made."""
    given = summary.get("command") or config.get("command")
    if given:
        command = given if isinstance(given, str) else " ".join(map(str, given))
        return f"<p>The command that repeats it:</p><pre>{text(command)}</pre>"
    name = config.get("name") or summary.get("name")
    if not name:
        return missing("There is no config.json here, so the command that repeats it is not known.")
    command = f"python -m histojax.main --config=configs/{name}.py[:SIZE] --workdir={workdir}"
    return (
        "<p>The command that repeats it, with the size and the overrides that give the values "
        f"under Config:</p><pre>{text(command)}</pre>"
    )


def _results(summary: Mapping[str, Any], stages: Sequence[str] = ()) -> str:
    """Headline numbers, tables of methods and metrics, and paired differences."""
    metrics = summary.get("metrics") or {}
    if not metrics:
        return missing(
            "There are no scores yet: summary.json is written once training is done and evaluated."
        )
    scores = scoreboard.parse(metrics)
    own = str((stages[-1] if stages else summary.get("name")) or "")
    parts = [_tiles(scores, own)]
    for columns, caption in (
        (scores.images, "Enhanced images, against the real high-resolution image"),
        (scores.masks, "Nuclei, against the annotation"),
    ):
        table = scoreboard.score_table(columns, caption=caption)
        if table:
            kinds = {scoreboard.is_reference(m) for column in columns.values() for m in column}
            note = _NOTE + (_NOTE_REFERENCES if len(kinds) > 1 else _NOTE_ALONE)
            parts.append(f"{table}<p><small>{note}</small></p>")
    parts.append(scoreboard.difference_table(summary.get("differences") or {}))
    parts.append(scoreboard.other_table(scores.others))
    return "".join(parts)


def _tiles(scores: scoreboard.Scores, own: str) -> str:
    """The main numbers, each beside the baseline that it is to be read against."""
    tiles = []
    for table, metric, baselines in (
        (scores.images, "psnr_rgb", ("bicubic",)),
        (scores.images, "ssim_rgb", ("bicubic",)),
        (scores.masks, "dice", ("bicubic_to_s", "otsu")),
    ):
        column = table.get(metric, {})
        means = {method: finite(entry.get("mean")) for method, entry in column.items()}
        rivals = [m for m in means if m not in baselines and means[m] is not None]
        ours = [m for m in (own, "", "hr_to_s") if m in rivals]
        if not ours and metric == "dice":
            ours = [m for m in rivals if m.startswith("hr_to_")]
        if not ours and rivals:
            ours = [max(rivals, key=lambda m: means[m])]
        if not ours:
            continue
        shown, value = scoreboard.describe(metric), means[ours[0]]
        against = ""
        for baseline in baselines:
            if means.get(baseline) is not None:
                gain = scoreboard.score_text(value - means[baseline], metric, signed=True)
                against = f"{gain} {shown.unit} over {scoreboard.method_label(baseline)}"
                break
        tiles.append(
            f"<li><span>{text(shown.label)}, {text(scoreboard.method_label(ours[0]))}</span>"
            f"<b>{scoreboard.score_text(value, metric)} {shown.unit}</b>"
            f"<small>{text(against)}</small></li>"
        )
    return f'<ul class="tiles">{"".join(tiles)}</ul>' if tiles else ""


def _training(workdir: Path) -> str:
    """Warnings and curves of metrics.jsonl."""
    try:
        curves, warned = read_curves(workdir), read_warnings(workdir)
    except (OSError, ValueError):
        return missing("There is no metrics.jsonl here, so there are no curves to show.")
    if not curves:
        return missing("metrics.jsonl holds no metrics yet, so there are no curves to show.")
    skipped = curves.pop(("train", "skipped"), Curve())
    charts: dict[str, list[Series]] = {}
    for (split, name), curve in sorted(curves.items(), key=lambda item: chart_order(item[0])):
        title = chart_title(split, name)
        label = name if title.startswith(("Loss", "Gradient")) else f"{name} ({split})"
        series = Series(_short_name(label, title), curve.steps, curve.values)
        charts.setdefault(title, []).append(series)
    drawn = [line_chart(series, title=title) for title, series in charts.items()]
    counts = [y for y in skipped.values if y is not None]
    if counts and counts[-1] > 0:
        series = Series("skipped", skipped.steps, skipped.values)
        drawn.append(line_chart([series], title="Steps skipped", log=False))
        note = f"<p>{counts[-1]:,.0f} steps were not finite and were skipped.</p>"
    else:
        note = "<p><small>No step was skipped for not being finite.</small></p>" if counts else ""
    items = "".join(f"<li>Step {step:,}: {text(words)}.</li>" for step, words in warned)
    words = f"<p>Warnings during training:</p><ul>{items}</ul>" if items else ""
    return f'{words}<div class="charts">{"".join(drawn)}</div>{note}'


def _short_name(label: str, title: str) -> str:
    if title.startswith("Gradient"):
        return label.removeprefix("gradient_norm_")
    if title.startswith("Loss and"):
        return "total" if label == "loss" else label.removeprefix("loss_").replace("_", " ")
    return label.removeprefix("loss_").replace("_", " ")


def _step_of(path: Path) -> int:
    found = re.search(r"(\d+)$", path.stem)
    return int(found.group(1)) if found else -1


def _samples(workdir: Path, album: Album, *, strip: bool = True) -> str:
    """The last sheet of samples, and how its predictions came about."""
    sheets = sorted((workdir / "samples").glob("*.png"), key=_step_of)
    if not sheets:
        return missing("There are no sample pictures yet; they are drawn at every evaluation.")
    last = read_picture(sheets[-1], f"Validation crops at step {_step_of(sheets[-1]):,}.")
    if last is None:
        return missing(f"{sheets[-1].name} cannot be read as a picture.")
    parts = [album.place(last)]
    if strip and len(sheets) > 1:
        places = sorted({round(i * (len(sheets) - 1) / (_STRIP - 1)) for i in range(_STRIP)})
        stages = []
        for sheet in (sheets[place] for place in places):
            focus = read_focus(sheet)
            if focus is not None:
                stages.append(album.place(Picture(f"step {_step_of(sheet):,}", focus)))
        if stages:
            parts.append(
                f'<h3>One crop as training went on</h3><div class="strip">{"".join(stages)}</div>'
            )
    return "".join(parts)


def _evaluation(workdir: Path, album: Album) -> str:
    """Figures of the evaluation on whole images, evenly chosen where there are many."""
    folder = workdir / "evaluation" / "figures"
    figures = sorted(folder.glob("*.png"))
    if not figures:
        return missing(
            "There are no evaluation figures yet; python -m histojax.evaluate "
            f"--workdir={workdir} draws them."
        )
    count = min(_FIGURES, len(figures))
    places = sorted({round(i * (len(figures) - 1) / max(count - 1, 1)) for i in range(count)})
    parts = []
    if count < len(figures):
        parts.append(
            f"<p>{count} of {len(figures):,} images, the others in "
            f"<code>evaluation/figures</code>.</p>"
        )
    for place in places:
        path = figures[place]
        picture = read_picture(
            path, f"{path.stem}: the windows with most detail, as framed at the left."
        )
        parts.append(
            album.place(picture)
            if picture is not None
            else missing(f"{path.name} cannot be read as a picture.")
        )
    return "".join(parts)


def _circumstances(summary: Mapping[str, Any]) -> str:
    """Data, parameters, durations, hardware and versions."""
    if not summary:
        return missing("Hardware, versions and duration are recorded once the run is done.")
    entries: list[tuple[str, object]] = []
    for field, label in (("seconds", "wall time"), ("training_seconds", "training, all stages")):
        seconds = finite(summary.get(field))
        if seconds is not None:
            entries.append((label, _duration(seconds)))
    for field, label in (("steps", "steps"), ("checkpoint_step", "checkpoint at step")):
        if finite(summary.get(field)) is not None:
            entries.append((label, f"{summary[field]:,.0f}"))
    for field in ("parameters", "data", "hardware", "versions"):
        value = summary.get(field)
        if value is not None:
            entries.append((field, _plain(value)))
    return definitions(entries)


def _config(config: Mapping[str, Any]) -> str:
    """All fields, flattened, folded away."""
    fields = list(_flat(config))
    if not fields:
        return missing("There is no readable config.json here.")
    rows = "".join(
        f'<tr><th scope="row">{text(name)}</th><td>{text(_plain(value))}</td></tr>'
        for name, value in fields
    )
    return (
        f"<details><summary>{len(fields)} fields</summary>"
        f'<div class="scroll"><table class="config"><tbody>{rows}</tbody></table></div></details>'
    )


def _flat(values: Mapping[str, Any], prefix: str = "") -> Sequence[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            found += _flat(value, f"{prefix}{name}.")
        else:
            found.append((f"{prefix}{name}", value))
    return found


def _plain(value: Any) -> str:
    """A JSON value for readers; null as a dash."""
    if value is None:
        return MISSING
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(item)}" for name, item in _flat(value)) or MISSING
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_plain, value)) or "none"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10_000:
        return f"{value:,}"
    return str(value) if value != "" else '""'


def _duration(seconds: float) -> str:
    """Seconds as "12 s", "3 min 20 s" or "2 h 05 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
