"""The table and the plot of a sweep, from the scores that its runs left in their workdirs."""

import csv
import dataclasses
import itertools
import math
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from histojax.config import read_config
from histojax.data.datasets.organs import organ_of
from histojax.errors import UserError
from histojax.evaluation import comparison_table
from histojax.imaging import enlargement, writers
from histojax.metrics import registry
from histojax.report import charts, document, table

_BASELINES = (*enlargement.ENHANCERS, "classical")
ALL = "all"

Row = dict[str, Any]


def collect(folders: Mapping[tuple[str, int], pathlib.Path]) -> list[Row]:
    """{"run", "seed", "image", "organ" ("" where unknown), metric: value} of every image.

    Args:
        folders: (run's name, seed) -> its workdir, done.

    Raises:
        UserError: for a workdir without scores.
    """
    rows = []
    for (name, seed), folder in folders.items():
        path = folder / "evaluation" / "per_image.csv"
        try:
            with path.open(newline="") as file:
                images = list(csv.DictReader(file))
        except OSError as error:
            raise UserError(
                f"{path} cannot be read ({error.strerror}): score the run again by "
                f"python -m histojax.evaluate --workdir={folder}"
            ) from error
        for image in images:
            stem, _ = image.pop("name"), image.pop("group", None)
            row: Row = {"run": name, "seed": seed, "image": stem, "organ": organ_of(stem) or ""}
            rows.append(row | {key: float(value or "nan") for key, value in image.items()})
    return rows


def same_runs(folders: Mapping[tuple[str, int], pathlib.Path], rows: Sequence[Row]) -> list[str]:
    """A sentence for every two runs that are one, from the `rows` collected of these folders."""
    configs, scores = {}, {}
    for run, folder in folders.items():
        if (folder / "config.json").is_file():
            label = "{}, seed {},".format(*run)
            configs[label] = read_config(folder / "config.json")
            # The names of scores may have that of the run.
            own = [row for row in rows if (row["run"], row["seed"]) == run]
            scores[label] = [list(row.values())[1:] for row in own]
    return comparison_table.same_runs(configs, scores)


def main_metrics(rows: Sequence[Row]) -> list[str]:
    """The scores of main metrics that are not a baseline's, in the order in which they come."""
    splits = registry.split_keys(dict.fromkeys(key for row in rows for key in row))
    known = {key: split for key, split in splits.items() if split is not None}
    return [
        key
        for key, (metric, row) in known.items()
        if table.describe(metric).main and row.split("_to_")[0] not in _BASELINES
    ]


def aggregate(rows: Sequence[Row], keys: Sequence[str]) -> list[Row]:
    """Mean and spread over seeds of the mean over images; over all images and by organ.

    Returns:
        {"run", "organ", "metric", "seeds", "images", "mean", "sd", "low", "high", "by_seed"} each;
        sd is that of a sample, NaN of one seed; by_seed is {seed: its mean}, in their order.
    """
    organs = [ALL, *sorted({row["organ"] for row in rows} - {""})]
    entries = []
    for run, organ, key in itertools.product(dict.fromkeys(r["run"] for r in rows), organs, keys):
        of_run = [row for row in rows if row["run"] == run and organ in (ALL, row["organ"])]
        kept = [row for row in of_run if math.isfinite(row.get(key, math.nan))]
        by_seed = {
            seed: statistics.fmean(row[key] for row in kept if row["seed"] == seed)
            for seed in sorted({row["seed"] for row in kept})
        }
        values = list(by_seed.values())
        if values:
            images = len({row["image"] for row in kept})
            entry = dict(run=run, organ=organ, metric=key, seeds=len(values), images=images)
            entry |= dict(mean=statistics.fmean(values), sd=spread(values))
            entries.append(entry | dict(low=min(values), high=max(values), by_seed=by_seed))
    return entries


def spread(values: Sequence[float]) -> float:
    """Standard deviation of a sample, NaN of fewer than two."""
    return statistics.stdev(values) if len(values) > 1 else math.nan


def sweep_table(entries: Sequence[Row], keys: Sequence[str], organ: str = ALL) -> table.Table:
    """A row for each run, a column for each score: mean ± standard deviation (seeds)."""
    entries = [entry for entry in entries if entry["organ"] == organ]
    splits = registry.split_keys(keys)
    rows = {entry["run"]: dict.fromkeys(keys, table.Cell()) for entry in entries}
    columns = []
    for key in keys:
        name, row = splits[key] or (key, "")
        metric = dataclasses.replace(table.describe(name), decimals=4)
        columns.append(table.column(metric, row))
        found = {entry["run"]: entry for entry in entries if entry["metric"] == key}
        means = {run: entry["mean"] for run, entry in found.items()}
        top = table.best(means, metric) if splits[key] else set()
        for run, entry in found.items():
            rows[run][key] = table.Cell(cell_text(entry), best=run in top)
    lines = [table.Row(run, list(cells.values())) for run, cells in rows.items()]
    return table.Table("run", columns, lines, "" if organ == ALL else organ)


def cell_text(entry: Row) -> str:
    """Mean, standard deviation and number of seeds: "0.6187 ± 0.0042 (3)"."""
    spread = f" ± {entry['sd']:.4f}" if math.isfinite(entry["sd"]) else ""
    return f"{entry['mean']:.4f}{spread} ({entry['seeds']})"


def write(
    output: pathlib.Path, rows: Sequence[Row], keys: Sequence[str] = (), notes: Sequence[str] = ()
) -> str:
    """Writes images.csv, table.csv and sweep.html; returns the table as text, with the notes.

    Raises:
        UserError: for a score that no run has, or where the disk refuses.
    """
    keys = list(keys) or main_metrics(rows)
    every = {key for row in rows for key in row} - {"run", "seed", "image", "organ"}
    for key in keys:
        if key not in every:
            known = ", ".join(sorted(every))
            raise UserError(f"--metrics: no run has {key!r}; choose out of {known}")
    entries = aggregate(rows, keys)
    writers.write_csv(output / "images.csv", rows)
    plain = [{key: v for key, v in entry.items() if key != "by_seed"} for entry in entries]
    writers.write_csv(output / "table.csv", plain)
    organs = dict.fromkeys([ALL, *(entry["organ"] for entry in entries)])
    whole, *by_organ = (sweep_table(entries, keys, organ) for organ in organs)
    dots = []
    for key, column in zip(keys, whole.columns, strict=True):
        of = [entry for entry in entries if (entry["organ"], entry["metric"]) == (ALL, key)]
        seeds = [(entry["run"], list(entry["by_seed"].values())) for entry in of]
        dots.append(charts.dot_chart(seeds, title=column.title))
    sections = [
        document.Section("Mean over seeds", tables=[whole]),
        document.Section("Each seed", charts=dots),
        *([document.Section("By organ", tables=by_organ)] if by_organ else []),
    ]
    runs = len({(row["run"], row["seed"]) for row in rows})
    lead = " ".join([f"{runs} runs; mean ± standard deviation (seeds).", *notes])
    document.write(output / "sweep.html", "sections", title="Sweep", lead=lead, sections=sections)
    return "\n".join([whole.text(), "", *notes, str(output / "sweep.html")])
