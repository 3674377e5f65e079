"""The table and the plot of a sweep, from the scores that its runs left in their workdirs."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import math
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from histojax.data.datasets.organs import organ_of
from histojax.errors import UserError
from histojax.imaging import writers
from histojax.metrics import registry
from histojax.report import charts, document, table

_BASELINES = ("bicubic", "otsu")
ALL = "all"

Row = dict[str, Any]


def collect(folders: Mapping[tuple[str, int], pathlib.Path]) -> list[Row]:
    """The scores of every image of every run.

    Args:
        folders: (run's name, seed) -> its workdir, done.

    Returns:
        {"run", "seed", "image", "organ" ("" where unknown), metric: value} each.

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
            row: Row = {"run": name, "seed": seed, "image": image["name"]}
            row["organ"] = organ_of(image["name"]) or ""
            for metric, value in image.items():
                if metric not in ("name", "group"):
                    row[metric] = float(value) if value else math.nan
            rows.append(row)
    return rows


def main_metrics(rows: Sequence[Row]) -> list[str]:
    """The scores of main metrics that are not a baseline's, in the order in which they come."""
    splits = registry.split_keys(dict.fromkeys(key for row in rows for key in row))
    return [
        key
        for key, split in splits.items()
        if split is not None
        and table.describe(split[0]).main
        and not split[1].startswith(_BASELINES)
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
        kept = [
            row
            for row in rows
            if row["run"] == run
            and organ in (ALL, row["organ"])
            and math.isfinite(row.get(key, math.nan))
        ]
        by_seed = {
            seed: statistics.fmean(row[key] for row in kept if row["seed"] == seed)
            for seed in sorted({row["seed"] for row in kept})
        }
        values = list(by_seed.values())
        if values:
            entries.append(
                {
                    "run": run,
                    "organ": organ,
                    "metric": key,
                    "seeds": len(values),
                    "images": len({row["image"] for row in kept}),
                    "mean": statistics.fmean(values),
                    "sd": spread(values),
                    "low": min(values),
                    "high": max(values),
                    "by_seed": by_seed,
                }
            )
    return entries


def spread(values: Sequence[float]) -> float:
    """Standard deviation of a sample, NaN of fewer than two."""
    return statistics.stdev(values) if len(values) > 1 else math.nan


def sweep_table(entries: Sequence[Row], keys: Sequence[str], organ: str = ALL) -> table.Table:
    """A row for each run, a column for each score: mean ± standard deviation (seeds)."""
    found = {(e["run"], e["metric"]): e for e in entries if e["organ"] == organ}
    splits = registry.split_keys(keys)
    columns, cells = [], {}
    for key in keys:
        name, row = splits[key] or (key, "")
        metric = dataclasses.replace(table.describe(name), decimals=4)
        columns.append(table.column(metric, row))
        means = {run: e["mean"] for (run, of), e in found.items() if of == key}
        top = table.best(means, metric) if splits[key] else set()
        for run in means:
            cells[run, key] = table.Cell(cell_text(found[run, key]), best=run in top)
    return table.Table(
        "run",
        columns,
        [
            table.Row(run, [cells.get((run, key), table.Cell()) for key in keys])
            for run in dict.fromkeys(run for run, _ in found)
        ],
        "" if organ == ALL else organ,
    )


def cell_text(entry: Row) -> str:
    """Mean, standard deviation and number of seeds: "0.6187 ± 0.0042 (3)"."""
    spread = f" ± {entry['sd']:.4f}" if math.isfinite(entry["sd"]) else ""
    return f"{entry['mean']:.4f}{spread} ({entry['seeds']})"


def write(output: pathlib.Path, rows: Sequence[Row], keys: Sequence[str] = ()) -> str:
    """Writes images.csv, table.csv and sweep.html; returns the table as text.

    Raises:
        UserError: for a score that no run has, or where the disk refuses.
    """
    keys = list(keys) or main_metrics(rows)
    every = {key for row in rows for key in row} - {"run", "seed", "image", "organ"}
    for key in keys:
        if key not in every:
            raise UserError(
                f"--metrics: no run has {key!r}; choose out of {', '.join(sorted(every))}"
            )
    entries = aggregate(rows, keys)
    writers.write_csv(output / "images.csv", rows)
    writers.write_csv(
        output / "table.csv", [{k: v for k, v in e.items() if k != "by_seed"} for e in entries]
    )
    whole = sweep_table(entries, keys)
    organs = [organ for organ in dict.fromkeys(e["organ"] for e in entries) if organ != ALL]
    titles = (column.title for column in whole.columns)
    dots = [_dots(entries, key, title) for key, title in zip(keys, titles, strict=True)]
    sections = [
        document.Section("Mean over seeds", tables=[whole]),
        document.Section("Each seed", charts=dots),
    ]
    if organs:
        by_organ = [sweep_table(entries, keys, organ) for organ in organs]
        sections.append(document.Section("By organ", tables=by_organ))
    runs = len({(row["run"], row["seed"]) for row in rows})
    lead = f"{runs} runs; mean ± standard deviation (seeds)."
    document.write(output / "sweep.html", "sections", title="Sweep", lead=lead, sections=sections)
    return f"{whole.text()}\n\n{output / 'sweep.html'}"


def _dots(entries: Sequence[Row], key: str, title: str) -> charts.Chart | None:
    rows = [
        (entry["run"], list(entry["by_seed"].values()))
        for entry in entries
        if entry["organ"] == ALL and entry["metric"] == key
    ]
    return charts.dot_chart(rows, title=title)
