"""The report.html of a run and of a chain of stages, and the index.html of predictions.

A report shows config.json, metrics.jsonl, summary.json, samples/ and evaluation/figures/ of its
workdir, and names those that are missing. UserError where the disk refuses.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from histojax.imaging import enlargement
from histojax.report import curves, document, table
from histojax.report.document import Picture, read_picture
from histojax.report.table import count_text, finite

_FIGURES = 6
_DETAIL = "the windows with most detail, as framed at the left."


def run_report(workdir: str | Path) -> Path:
    """Writes workdir/report.html of one stage's run and returns its path."""
    workdir = Path(workdir)
    config, summary = _read(workdir / "config.json"), _read(workdir / "summary.json")
    folder = {**_training(workdir), "sample": _sample(workdir)}
    return _write(workdir, config, summary, lead=_sentence(config, summary), folder=folder)


def chain_report(workdir: str | Path) -> Path:
    """Writes workdir/report.html of a chain of stages and returns its path."""
    workdir = Path(workdir)
    config, summary = _read(workdir / "config.json"), _read(workdir / "summary.json")
    stages = []
    for name, (folder, own) in _stage_folders(workdir, config, summary).items():
        own = own or _read(folder / "summary.json")
        stages.append(
            {
                "name": name,
                "link": f"{folder.relative_to(workdir).as_posix()}/report.html",
                "sentence": _sentence(_read(folder / "config.json"), own),
                **_training(folder),
                "sample": _sample(folder),
            }
        )
    lead = "A chain of stages; none has been trained yet."
    if stages:
        names = ", ".join(stage["name"] for stage in stages)
        lead = f"A chain of {len(stages)} stages trained one after another: {names}. "
        lead += _scored_on(summary)
    config = {name: value for name, value in config.items() if name != "init_from"}
    return _write(workdir, config, summary, lead=lead, stages=stages)


def prediction_index(
    path: str | Path,
    *,
    workdir: str,
    rows: Sequence[tuple[Any, Any]],
    left: Mapping[str, str] | None = None,
    unsummed: str = "",
) -> None:
    """Writes the index.html of predictions by the run in a workdir, beside their files.

    Rows are (`histojax.inference.prediction.Prediction`, preview uint8 (H, W, 3) or None, which
    leaves it to summary.csv). `left` says why other files were not predicted, `unsummed` why
    numbers of nuclei are not added up.
    """
    counts = [made.nuclei for made, _ in rows if made.nuclei is not None]
    total = f", {sum(counts):,} nucle{'us' if sum(counts) == 1 else 'i'} in all" if counts else ""
    number = "1 image" if len(rows) == 1 else f"{len(rows):,} images"
    shown = [(m, Picture(f"The middle of {m.name}.", p)) for m, p in rows if p is not None]
    first = f" The first {len(shown):,} are shown; summary.csv lists all."
    document.write(
        path,
        "predictions",
        title="histojax: predictions",
        lead=f"{number} predicted by the run in {workdir}{f'; {unsummed}' if unsummed else total}."
        + first * (len(shown) < len(rows)),
        images=shown,
        left=left or {},
        pictures=[picture for _, picture in shown],
    )


def _write(
    workdir: Path,
    config: Mapping[str, Any],
    summary: Mapping[str, Any],
    *,
    lead: str,
    folder: Mapping[str, Any] | None = None,
    stages: Sequence[Mapping[str, Any]] = (),
) -> Path:
    """Writes the page of a run's `folder` or of a chain's `stages`."""
    name = summary.get("name") or config.get("name")
    command = summary.get("command") or config.get("command") or ""
    guess = f"python -m histojax.main --config=configs/{name}.py[:SIZE] --workdir={workdir}"
    scores = table.parse(summary.get("metrics") or {})
    groups = {table.describe(metric).group for metric in scores.masks}
    subject = "Glands" if "glands" in groups else "Nuclei"
    captions = {
        "Enhanced images, against the real high-resolution image": scores.images,
        f"{subject}, against the annotation": scores.masks,
    }
    sheets = sorted((workdir / "evaluation" / "figures").glob("*.png"))
    figures = [read_picture(path, f"{path.stem}: {_DETAIL}") for path in _spread(sheets, _FIGURES)]
    parts = [folder] if folder else stages
    samples = [part["sample"] for part in parts]
    path = workdir / "report.html"
    document.write(
        path,
        "run",
        title=f"histojax: {name or workdir.name}",
        footer="Made by histojax from config.json, metrics.jsonl, summary.json and the pictures of "
        "this folder.",
        pictures=[*samples, *figures] if folder else [*figures, *samples],
        lead=lead,
        repeat=command if isinstance(command, str) else " ".join(map(str, command)),
        guess=guess if name else "",
        tiles=_tiles(scores, str(stages[-1]["name"] if stages else summary.get("name"))),
        scores=[table.score_table(s, caption=caption) for caption, s in captions.items() if s],
        differences=table.difference_table(summary.get("differences") or {}),
        others=scores.others,
        folder=folder,
        stages=stages,
        figures=figures,
        drawn=len(sheets),
        workdir=workdir,
        summary=summary,
        fields=dict(table.flat(config)),
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
    """Stage -> (folder, summary), from the summary, else of the stages that have a folder."""
    stages = summary.get("stages")
    if not stages:
        names = config.get("chain") or []
        stages = {name: {} for name in names if (workdir / name / "config.json").exists()}
    return {
        name: (workdir / stage.get("folder", name), stage.get("summary") or {})
        for name, stage in stages.items()
    }


def _sentence(config: Mapping[str, Any], summary: Mapping[str, Any]) -> Markup:
    """What the run was, in plain words."""
    scored = _scored_on(summary)
    return document.render("sentence", config=config, summary=summary, scored=scored)


def _scored_on(summary: Mapping[str, Any]) -> str:
    data = summary.get("data") or {}
    if not data:
        return ""
    count = finite(data.get("images"))
    images = "images" if count is None else "1 image" if count == 1 else f"{count:,.0f} images"
    return f"Scored on {images} of the {data.get('split', '?')} split."


def _tiles(scores: table.Scores, own: str) -> list[dict[str, str]]:
    """The main numbers, each with its gain over the baseline that it is read against."""
    tiles = []
    for by_metric, name, baselines in (
        (scores.images, "psnr_rgb", ("linear", "bicubic")),
        (scores.images, "ssim_rgb", ("linear", "bicubic")),
        (scores.masks, "dice", ("bicubic_to_s", "classical")),
    ):
        metric, by_row = table.describe(name), by_metric.get(name, {})
        found = {row: finite(entry.get("mean")) for row, entry in by_row.items()}
        means = {row: mean for row, mean in found.items() if mean is not None}
        rivals = [row for row in means if row not in (*baselines, *enlargement.ENHANCERS)]
        if not rivals:
            continue
        ours = [row for row in (own, "", "hr_to_s") if row in rivals]
        ours += [row for row in rivals if name == "dice" and row.startswith("hr_to_")]
        row = ours[0] if ours else max(rivals, key=lambda row: means[row])
        baseline = next((baseline for baseline in baselines if baseline in means), None)
        against = ""
        if baseline is not None:
            gain = table.score_text(means[row] - means[baseline], metric, signed=True)
            against = f"{gain} {metric.unit} over {table.row_label(baseline)}"
        value = f"{table.score_text(means[row], metric)} {metric.unit}"
        title = f"{metric.title}, {table.row_label(row)}"
        tiles.append({"name": title, "value": value, "against": against})
    return tiles


def _training(workdir: Path) -> dict[str, Any]:
    """Charts (None without metrics.jsonl), warnings, and the number of steps skipped."""
    try:
        found, warned = curves.read_curves(workdir)
    except (OSError, ValueError):
        return {"charts": None, "warned": [], "skipped": None}
    counts = found.get(("train", "skipped"), curves.Curve()).values
    charts = curves.training_charts(found, [step for step, _ in warned])
    skipped = next((count_text(n) if n else "" for n in reversed(counts) if n is not None), None)
    return {"charts": charts, "warned": warned, "skipped": skipped}


def _sample(workdir: Path) -> Picture | str | None:
    """The last sheet of samples, or None."""
    sheets = sorted((workdir / "samples").glob("*.png"), key=_step_of)
    if not sheets:
        return None
    return read_picture(sheets[-1], f"Validation crops at step {_step_of(sheets[-1]):,}.")


def _spread(paths: Sequence[Path], count: int) -> list[Path]:
    """`count` of the paths, evenly chosen from the first to the last."""
    places = np.linspace(0, len(paths) - 1, min(count, len(paths))).round().astype(int)
    return [paths[place] for place in places]


def _step_of(path: Path) -> int:
    found = re.search(r"(\d+)$", path.stem)
    return int(found.group(1)) if found else -1
