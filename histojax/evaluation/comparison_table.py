"""Scores of several runs on the same images, row by row: shared rows, paired differences, tables.

A row names the object of scores. "sr" is the image that a run itself enhances. "sr_to_s", "hr_to_s"
and "bicubic_to_s" are the masks that its segmenter finds in that image, in the real one and in the
bicubic one. Rows of a chain's earlier stages have the names of those stages.
"""

import collections
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from histojax.config import differences as config_differences
from histojax.errors import UserError
from histojax.metrics import intervals, registry
from histojax.report import table
from histojax.report.comparison_page import BASELINES, row_title

Key = tuple[str, str]  # row, metric
Scores = Mapping[Key, np.ndarray]  # a value for each image, in the order of the source
Entry = dict[str, Any]
Shared = Mapping[str, Sequence[str]]  # row -> metrics

# Rows of a run itself; other rows belong to earlier stages of a chain.
OWN_ROWS = ("sr", "sr_to_s", "bicubic_to_s", "hr_to_s")
_NO_RUN = tuple(itertools.chain.from_iterable(BASELINES.values()))


def arranged(rows: Sequence[Mapping[str, Any]], own: str, stage: str) -> tuple[Scores, set[str]]:
    """A run's scores under rows that runs of other names have too, and the metrics left out.

    `rows` are of a per_image.csv, `own` is the name of the (last) stage and `stage` its kind. The
    metrics left out are those in features of the run's own encoder, another measure in each run.
    """
    scores: dict[Key, np.ndarray] = {}
    left_out = set()
    for key, split in registry.split_keys(rows[0]).items():
        if split is None:
            continue
        metric, row = split
        if metric == "feature_distance_segmenter":
            left_out.add(metric)
            continue
        parts = row.split("_to_")
        if stage == "joint":
            if row == own and not table.describe(metric).of_images:
                parts = [own, own]
            elif parts[-1] == "s":
                parts[-1] = "segmentation"
            if parts[-1] == own and len(parts) > 1:
                parts[-1] = "s"
        if parts[0] == own:
            parts[0] = "sr"
        scores["_to_".join(parts), metric] = np.array([image[key] for image in rows])
    return scores, left_out


def shared_rows(scores: Mapping[str, Scores]) -> dict[str, list[str]]:
    """Row -> metrics that two runs or more have, their own rows first."""
    counts = collections.Counter(key for found in scores.values() for key in found)
    rows: dict[str, list[str]] = {row: [] for row in OWN_ROWS}
    for (row, metric), count in counts.items():
        if count > 1 and row not in _NO_RUN:
            rows.setdefault(row, []).append(metric)
    return {row: metrics for row, metrics in rows.items() if metrics}


def _by_row(shared: Shared, entry: Callable[[Key], Entry]) -> dict[str, dict[str, Entry]]:
    """Row -> metric -> what `entry` makes of the two, where it makes anything."""
    found = {
        row: {metric: made for metric in metrics if (made := entry((row, metric)))}
        for row, metrics in shared.items()
    }
    return {row: entries for row, entries in found.items() if entries}


def means(scores: Mapping[str, Scores], shared: Shared) -> dict[str, dict[str, Entry]]:
    """Row -> metric -> run -> mean with its interval."""

    def entry(key: Key) -> Entry:
        having = {label: own[key] for label, own in scores.items() if key in own}
        return {k: intervals.bootstrap_mean(values)._asdict() for k, values in having.items()}

    return _by_row(shared, entry)


def baselines(scores: Mapping[str, Scores], shared: Shared) -> dict[str, dict[str, Entry]]:
    """Row -> metric -> baseline -> score of the baselines that the row is read against."""

    def entry(key: Key) -> Entry:
        keys = {name: (name, key[1]) for name in BASELINES.get(key[0], ())}
        having = {n: [own[k] for own in scores.values() if k in own] for n, k in keys.items()}
        return {n: intervals.bootstrap_mean(v[0])._asdict() for n, v in having.items() if v}

    return _by_row(shared, entry)


def differences(scores: Mapping[str, Scores], shared: Shared) -> dict[str, dict[str, Entry]]:
    """Row -> metric -> run -> paired difference from the first run, with interval and p."""
    first, *others = scores

    def entry(key: Key) -> Entry:
        found = {}
        for label in others:
            if key in scores[first] and key in scores[label]:
                pair = scores[label][key], scores[first][key]
                difference, test = intervals.paired_difference(*pair), intervals.paired_test(*pair)
                found[label] = {**difference._asdict(), "p": test.p, "exact": test.exact}
        return found

    return _by_row(shared, entry)


def flat(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A line for each row, metric and run, as in comparison.csv."""
    lines = []
    for row, metrics in result["scores"].items():
        for metric, by_run in metrics.items():
            others = result["differences"].get(row, {}).get(metric, {})
            for label, entry in by_run.items():
                other = others.get(label, {})
                fields = {f"difference_{f}": other.get(f) for f in ("mean", "low", "high", "n")}
                line = {"row": row, "metric": metric, "run": label, **entry, **fields}
                lines.append({**line, "p": other.get("p")})
    return lines


def table_text(result: Mapping[str, Any]) -> str:
    """The comparison for a terminal: a block for each row and metric, a line for each run."""
    data = result["data"]
    lines = [
        f"{data['images']} images of the {data['split']} split; mean [95 % interval]; "
        f"difference from {result['against']} [95 % interval], p"
    ]
    for row, metrics in result["scores"].items():
        for name, by_run in metrics.items():
            metric = table.describe(name)
            unit = f", {metric.unit}" if metric.unit else ""
            sense = "higher" if metric.higher_is_better else "lower"
            lines += ["", f"{row_title(row)}: {metric.title}{unit} ({sense} is better)"]
            baselines = result["baselines"].get(row, {}).get(name, {})
            others = result["differences"].get(row, {}).get(name, {})
            shown = [(table.row_label(key), entry, None) for key, entry in baselines.items()]
            shown += [(label, entry, others.get(label)) for label, entry in by_run.items()]
            width = max(len(label) for label, _, _ in shown)
            form = "{:>7} [{:>7}, {:>7}]"
            for label, entry, other in shown:
                texts = table.interval_texts(entry, metric, signed=False)
                line = f"  {label:<{width}}  {form.format(*texts)}"
                if other is not None:
                    texts = table.interval_texts(other, metric, signed=True)
                    line += f"   {form.format(*texts)}  p {table.p_text(other['p'])}"
                    line += f"  ({other['n']} images)" if other["n"] < data["images"] else ""
                lines.append(line)
    return "\n".join([*lines, "", result["test"], *result["notes"]])


def about_the_test(images: int) -> str:
    """What p is, for readers, with the smallest that so many images allow."""
    smallest = min(2 / 2**images, 1.0) if images < 15 else 0.0
    bound = f" With {images} images no p can be below {smallest:.2g}." if smallest > 0.001 else ""
    if images < intervals.LEAST_IMAGES:
        bound += " Intervals of so few images show no sign, even where they leave out 0."
    return (
        "p is two-sided, of the paired permutation test of the mean difference over images (all "
        "sign choices up to 14 images, 16,384 drawn beyond), and is not corrected for the number "
        f"of comparisons.{bound}"
    )


def omissions(scores: Mapping[str, Scores], dropped: set[str]) -> list[str]:
    """What the runs' own reports have and the comparison has not."""
    notes = []
    for label, found in scores.items():
        others = {row for other in scores if other != label for row, _ in scores[other]}
        alone = list(dict.fromkeys(row for row, _ in found if row not in {*others, *_NO_RUN}))
        if alone:
            titles = ", ".join(row_title(row) for row in alone)
            notes.append(f"Only {label} has: {titles}.")
    if dropped:
        notes.append(
            "The feature distance in a run's own segmenter is left out: it is another measure in "
            "each run."
        )
    return notes


def same_runs(configs: Mapping[str, Any], scores: Mapping[str, Any]) -> list[str]:
    """A sentence for every two runs of equal scores, as lists, and configs but for the name."""
    return [
        f"{one} and {other} are the same run: they train alike, and their scores are equal."
        for one, other in itertools.combinations(configs, 2)
        if repr(scores[one]) == repr(scores[other])  # in which NaN equals NaN
        and not config_differences({**configs[one], "name": ""}, {**configs[other], "name": ""})
    ]


def check_baselines(scores: Mapping[str, Scores]) -> None:
    """Refuses runs in which bicubic enlargement scores otherwise: their inputs differ."""
    key = ("bicubic", "psnr_rgb")
    having = [label for label, found in scores.items() if key in found]
    for label in having[1:]:
        one, other = scores[having[0]][key], scores[label][key]
        if not np.allclose(other, one, atol=0.01, equal_nan=True):
            raise UserError(
                f"bicubic enlargement scores otherwise in {label} than in {having[0]}, so their "
                "images are not the same; remove the evaluation folder of both and compare again"
            )
