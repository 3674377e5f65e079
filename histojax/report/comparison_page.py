"""The report.html that compares several runs, from the content of comparison.json."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from histojax.imaging.enlargement import ENHANCERS
from histojax.report import curves, document, table
from histojax.report.charts import Chart
from histojax.report.table import Table

# Row -> the rows that it is read against, which belong to no run.
BASELINES = {"sr": tuple(ENHANCERS), "hr_to_s": ("classical",)}
_DETAIL = "the windows with most detail, alike for all."


def row_title(row: str) -> str:
    """What the scores of a row are of; rows of earlier stages have the stages' names."""
    images, _, segmenter = row.partition("_to_")
    if not segmenter:
        known = {"sr": "Enhanced image", "hr": "Real image"}
        return known.get(row, f"Image enhanced by the {images} stage")
    seen = {"bicubic": "bicubic", "hr": "real", "sr": "enhanced"}.get(images, f"{images} stage's")
    own = "" if segmenter == "s" else f", by the {segmenter} stage"
    return f"Nuclei in the {seen} image{own}"


def write(path: Path, result: Mapping[str, Any], folders: Mapping[str, Mapping[str, Path]]) -> None:
    """Writes the page of a result of `histojax.evaluation.comparison.compare`, beside its pictures.

    Folders are label -> stage's name -> that of its metrics.jsonl; the last is the run's own.
    """
    data, runs, against = result["data"], result["runs"], result["against"]
    names = ", ".join(run["label"] for run in runs)
    places = [path.parent / name for name in result["pictures"]]
    pictures = [document.read_picture(place, f"{place.stem}: {_DETAIL}") for place in places]
    shown = {name: data[name] for name in ("source", "split", "images", "fingerprint", "scale")}
    document.write(
        path,
        "comparison",
        title=f"histojax: {len(runs)} runs compared",
        footer="Made by histojax; the numbers are in comparison.json and comparison.csv.",
        pictures=pictures,
        lead=f"{names}, scored on the same {data['images']:,} images of the {data['split']} split; "
        f"differences are from {against}.",
        notes=result["notes"],
        repeat=result["command"],
        scores=_scores(result),
        test=result["test"],
        curves=_curves(folders, {run["stage"] for run in runs}),
        runs=runs,
        against=against,
        data={**shown, "seed": data["seed"], "degradation": data["degradation"]["name"]},
    )


def _scores(result: Mapping[str, Any]) -> list[Table]:
    """A table of means for each row, followed by one of differences from the first run."""
    # A run may have the name of its baseline, so the rows of a table have keys of their own.
    keys = {run["label"]: f"run {number}" for number, run in enumerate(result["runs"])}
    labels = {key: label for label, key in keys.items()}
    tables = []
    for row, metrics in result["scores"].items():
        scores, differences = {}, {}
        for metric, by_run in metrics.items():
            baselines = result["baselines"].get(row, {}).get(metric, {})
            scores[metric] = baselines | {keys[label]: entry for label, entry in by_run.items()}
        for metric, by_run in result["differences"].get(row, {}).items():
            differences[metric] = {keys[label]: entry for label, entry in by_run.items()}
        names = {name: table.row_label(name) for name in BASELINES.get(row, ())} | labels
        title = row_title(row)
        tables.append(table.score_table(scores, caption=title, labels=names))
        caption = f"{title}: difference from {result['against']}"
        tables.append(table.score_table(differences, caption=caption, labels=names, signed=True))
    return tables


def _curves(folders: Mapping[str, Mapping[str, Path]], kinds: set[str]) -> dict[str, list[Chart]]:
    """Heading -> charts of the runs' last stages, then of the earlier stages that they share."""
    lasts = {label: list(stages)[-1] for label, stages in folders.items()}
    groups = {"": {label: folders[label][last] for label, last in lasts.items()}}
    for stage in (s for label, stages in folders.items() for s in stages if s != lasts[label]):
        having = {label: stages[stage] for label, stages in folders.items() if stage in stages}
        groups[f"Stage {stage}, "] = having
    found = {}
    for before, group in groups.items():
        runs = {label: _read(folder) for label, folder in group.items()}
        for by_time, heading in ((False, "by step"), (True, "by training time")):
            loss = bool(before) or len(kinds) == 1
            charts = curves.overlaid(runs, loss=loss, by_time=by_time) if len(runs) > 1 else []
            if charts:
                found[before + heading if before else heading.capitalize()] = charts
    return found


def _read(folder: Path) -> curves.Curves:
    try:
        return curves.read_curves(folder)[0]
    except (OSError, ValueError):
        return {}
