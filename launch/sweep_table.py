"""The table and the plot of a sweep, from the scores that its runs left in their workdirs."""

from __future__ import annotations

import csv
import math
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from histojax.data.datasets.organs import organ_of
from histojax.errors import UserError
from histojax.imaging import writers
from histojax.report import charts, page

# Scores that the table has unless others are named; not those of baselines.
_MAIN = ("psnr_rgb", "ssim_rgb", "dice", "aji", "pq", "f1", "class_miou", "class_dice")
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
    """Those scores that say how good a run is, in the order in which they come."""
    found = dict.fromkeys(metric for row in rows for metric in row)
    return [
        metric
        for metric in found
        if metric.startswith(tuple(f"{main}_" for main in _MAIN))
        and not metric.startswith("aji_plus_")
        and not any(baseline in metric for baseline in _BASELINES)
    ]


def aggregate(rows: Sequence[Row], metrics: Sequence[str]) -> list[Row]:
    """Mean and spread over seeds of the mean over images; over all images and by organ.

    Returns:
        {"run", "organ", "metric", "seeds", "images", "mean", "sd", "low", "high", "by_seed"} each;
        sd is that of a sample, NaN of one seed; by_seed is {seed: its mean}, in their order.
    """
    organs = [ALL, *sorted({row["organ"] for row in rows} - {""})]
    table = []
    for name in dict.fromkeys(row["run"] for row in rows):
        for organ in organs:
            kept = [r for r in rows if r["run"] == name and organ in (ALL, r["organ"])]
            for metric in metrics:
                by_seed, images = {}, set()
                for seed in sorted({row["seed"] for row in kept}):
                    scores = {
                        r["image"]: r[metric]
                        for r in kept
                        if r["seed"] == seed and math.isfinite(r.get(metric, math.nan))
                    }
                    images |= set(scores)
                    if scores:
                        by_seed[seed] = statistics.fmean(scores.values())
                if not by_seed:
                    continue
                values = list(by_seed.values())
                table.append(
                    {
                        "run": name,
                        "organ": organ,
                        "metric": metric,
                        "seeds": len(values),
                        "images": len(images),
                        "mean": statistics.fmean(values),
                        "sd": spread(values),
                        "low": min(values),
                        "high": max(values),
                        "by_seed": by_seed,
                    }
                )
    return table


def spread(values: Sequence[float]) -> float:
    """Standard deviation of a sample, NaN of fewer than two."""
    return statistics.stdev(values) if len(values) > 1 else math.nan


def cell(entry: Row | None) -> str:
    """ "0.6187 ± 0.0042 (3)": mean, standard deviation and number of seeds; "-" for none."""
    if entry is None:
        return "-"
    spread = f" ± {entry['sd']:.4f}" if math.isfinite(entry["sd"]) else ""
    return f"{entry['mean']:.4f}{spread} ({entry['seeds']})"


def table_text(table: Sequence[Row], metrics: Sequence[str], organ: str = ALL) -> str:
    """A row for each run, a column for each metric."""
    entries = {(e["run"], e["metric"]): e for e in table if e["organ"] == organ}
    names = list(dict.fromkeys(entry["run"] for entry in table))
    lines = [["run", *metrics]]
    lines += [[name, *(cell(entries.get((name, metric))) for metric in metrics)] for name in names]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def write(output: pathlib.Path, rows: Sequence[Row], metrics: Sequence[str] = ()) -> str:
    """Writes images.csv, table.csv and sweep.html; returns the table as text.

    Raises:
        UserError: for a metric that no run has, or where the disk refuses.
    """
    known = main_metrics(rows)
    metrics = list(metrics) or known
    every = {metric for row in rows for metric in row} - {"run", "seed", "image", "organ"}
    for metric in metrics:
        if metric not in every:
            raise UserError(
                f"--metrics: no run has {metric!r}; choose out of {', '.join(sorted(every))}"
            )
    table = aggregate(rows, metrics)
    writers.write_csv(output / "images.csv", rows)
    writers.write_csv(
        output / "table.csv", [{k: v for k, v in e.items() if k != "by_seed"} for e in table]
    )
    organs = list(dict.fromkeys(entry["organ"] for entry in table))
    sections = [
        page.Section("Mean over seeds", _html_table(table, metrics, ALL)),
        page.Section("Each seed", _dots(table, metrics)),
    ]
    if len(organs) > 1:
        body = "".join(
            f"<h3>{page.text(organ)}</h3>{_html_table(table, metrics, organ)}"
            for organ in organs
            if organ != ALL
        )
        sections.append(page.Section("By organ", body))
    runs = len({(row["run"], row["seed"]) for row in rows})
    page.write_page(
        output / "sweep.html",
        title="Sweep",
        lead=f'<p class="lead">{runs} runs; mean ± standard deviation (seeds).</p>',
        sections=sections,
    )
    return f"{table_text(table, metrics)}\n\n{output / 'sweep.html'}"


def _html_table(table: Sequence[Row], metrics: Sequence[str], organ: str) -> str:
    entries = {(e["run"], e["metric"]): e for e in table if e["organ"] == organ}
    names = list(dict.fromkeys(run for run, _ in entries))
    best = {
        m: max((entries[n, m]["mean"] for n in names if (n, m) in entries), default=math.nan)
        for m in metrics
    }
    head = "".join(f"<th>{page.text(metric)}</th>" for metric in metrics)
    body = []
    for name in names:
        cells = []
        for metric in metrics:
            entry = entries.get((name, metric))
            # Of all scores that are tabulated unless asked for otherwise, more is better.
            top = entry and metric.startswith(_MAIN) and entry["mean"] == best[metric]
            shown = page.text(cell(entry))
            cells.append(
                f'<td class="best"><strong>{shown}</strong></td>' if top else f"<td>{shown}</td>"
            )
        body.append(f"<tr><th>{page.text(name)}</th>{''.join(cells)}</tr>")
    return (
        '<div class="scroll"><table class="scores"><thead><tr><th></th>'
        f"{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def _dots(table: Sequence[Row], metrics: Sequence[str]) -> str:
    figures = []
    for metric in metrics:
        rows = [
            (entry["run"], list(entry["by_seed"].values()))
            for entry in table
            if entry["organ"] == ALL and entry["metric"] == metric
        ]
        figures.append(charts.dot_chart(rows, title=metric))
    return f'<div class="charts">{"".join(figures)}</div>'
