"""Ways to train where labels are few: what is run for each, pairs, and the table of their scores.

See `launch.few_labels`.
"""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
import runpy
import shlex
import shutil
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from histojax import runs
from histojax.data import labelled
from histojax.errors import UserError
from histojax.imaging import charts, page, writers
from histojax.progress import say
from launch import jobs, sweep_table
from launch.benchmark_tables import aligned

# Of segmentation networks: images as they are.
_PLAIN = tuple(
    f"--config.data.augmentation.{field}"
    for field in (
        "flips=False",
        "vertical_flips=False",
        "rotations=False",
        "stain_sigma=0.0",
        "stain_bias=0.0",
        "own_stains=False",
        "brightness=0.0",
        "contrast=0.0",
        "zoom=(1.0,1.0)",
        "rotate=0.0",
        "translate=0.0",
    )
)
WAYS = ("real", "augmented", "synthetic", "synthetic_only", "teacher")


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is to be run.

    Attributes:
        shares: of the patients, as written.
        ways: of WAYS.
        data: SPEC.
        output: folder.
        count, size, form: of the masks of each pyramid's pairs.
        pupil, pyramid: config and overrides, as sweep's --run has them.
        teacher_weight: of the mean teacher.
    """

    shares: tuple[str, ...]
    ways: tuple[str, ...]
    data: str
    output: pathlib.Path
    count: int
    size: int
    form: str
    pupil: str
    pyramid: str
    teacher_weight: float

    def pairs(self, share: str) -> pathlib.Path:
        """Folder of the pairs of a share, by seed: others for other numbers."""
        return self.output / "pairs" / share / f"{self.form}-{self.count}x{self.size}"

    @property
    def needs_pairs(self) -> bool:
        """Whether pyramids are needed at all."""
        return any(way.startswith("synthetic") for way in self.ways)

    def pyramid_runs(self) -> list[str]:
        """The pyramids, as sweep's --run."""
        return [f"{share}: {self._words(self.pyramid, share)}" for share in self.shares]

    def pupil_runs(self) -> list[str]:
        """The pupils, as sweep's --run; all images are labelled in share 1, which has no rest."""
        return [
            f"{way}-{share}: {self._words(self.pupil, share)} {shlex.join(self._way(way, share))}"
            for share in self.shares
            for way in self.ways
            if not (way == "teacher" and float(share) == 1)
        ]

    def _words(self, run: str, share: str) -> str:
        own = (
            f"--config.data.source={self.data}",
            f"--config.data.labelled={share}",
            "--config.checkpoint.best=last",
            "--config.instances.fit=False",
        )
        return f"{run} {shlex.join(own)}"

    def _way(self, way: str, share: str) -> tuple[str, ...]:
        extra = f"--config.data.extra=folder:{self.pairs(share).resolve()}/seed_{{seed}}"
        return {
            "real": _PLAIN,
            "augmented": (),
            "synthetic": (extra,),
            "synthetic_only": (extra, "--config.data.extra_weight=1.0"),
            "teacher": (
                "--config.data.unlabelled=rest",
                f"--config.teacher.weight={self.teacher_weight}",
            ),
        }[way]


def plan_of(
    shares: Sequence[str], ways: Sequence[str], data: str, output: pathlib.Path, **fields: object
) -> Plan:
    """A checked plan; `fields` are the further ones of `Plan`.

    Raises:
        UserError: for a share or way that cannot be used, or one named twice.
    """
    written = []
    for share in shares:
        try:
            number = float(share)
        except ValueError:
            number = math.nan
        if not 0 < round(number, 6) <= 1:
            raise UserError(f"--shares: {share!r} has to be a number above 0, up to 1")
        # One way to write each, in names of folders.
        written.append(f"{number:.6f}".rstrip("0").rstrip("."))
    for way in ways:
        if way not in WAYS:
            raise UserError(f"--ways: {way!r} is not known; choose out of {', '.join(WAYS)}")
    for name, values in (("shares", written), ("ways", ways)):
        if not values or len(set(values)) < len(values):
            raise UserError(f"--{name}={','.join(values)} has to name {name}, each once")
    return Plan(tuple(written), tuple(ways), data, output, **fields)


def config_of(run: str) -> ConfigDict:
    """The config that a run names, with its crop where that is given; other overrides left out.

    Raises:
        UserError: for what is no run, or a size that the file does not have.
    """
    config, *overrides = jobs.named(f"run: {run}")[1]
    file, _, size = config.removeprefix("--config=").partition(":")
    try:
        found = runpy.run_path(file)["get_config"](size)
    except (KeyError, ValueError) as error:
        raise UserError(f"{run!r} names no config that can be read: {error}") from error
    for word in overrides:
        field, _, value = word.partition("=")
        if field == "--config.data.crop" and value.isdecimal():
            found.data.crop = int(value)
    return found


def check(plan: Plan, seeds: Sequence[str]) -> None:
    """Checks, before anything is trained, what would stop the plan after hours.

    Raises:
        UserError: for a pupil or pyramid of another stage, pairs smaller than a crop, or a share
            that leaves no patient for the teacher or for predicted masks.
    """
    pupil = config_of(plan.pupil)
    if pupil.stage != "segmentation":
        raise UserError(
            f"--pupil={plan.pupil!r} is of stage {pupil.stage!r}: name a config of stage "
            "'segmentation'"
        )
    if plan.needs_pairs:
        pyramid = config_of(plan.pyramid)
        if pyramid.stage != "pyramid":
            raise UserError(
                f"--pyramid={plan.pyramid!r} is of stage {pyramid.stage!r}: name a config of stage "
                "'pyramid'"
            )
        crop = max(pupil.data.crop, pyramid.data.crop)
        if plan.size < crop:
            raise UserError(
                f"--size={plan.size} is smaller than the crops of {crop} px that pupil or pyramid "
                f"are trained on: ask for pairs of {crop} px or more"
            )
    predicted = plan.needs_pairs and plan.form == "predicted"
    if "teacher" not in plan.ways and not predicted:
        return
    pupil.data.source = plan.data
    for seed in seeds:
        pupil.seed = int(seed) if seed.isdecimal() else 0
        groups = runs.open_split(pupil, "train").groups
        for share in plan.shares:
            kept = labelled.labelled_groups(groups, float(share), pupil.seed)
            # Of share 1 there is no teacher to begin with.
            if (float(share) < 1 or predicted) and len(kept) == len(set(groups)):
                raise UserError(
                    f"--shares: {share} of the {len(kept)} training patients are all of them, and "
                    "a mean teacher and predicted masks need the others: choose a lower share, or "
                    "do without them"
                )


def make_pairs(pyramid: jobs.Job, plan: Plan, *, device: str | None = None) -> None:
    """Masks of a pyramid's labelled images, and tissue for them, where there are none yet.

    Args:
        pyramid: trained.
        plan: says how many, and where.
        device: accelerator that is used, of those there are; None: any.

    Raises:
        UserError: if one of the two commands fails.
    """
    output = plan.pairs(pyramid.name) / f"seed_{pyramid.seed}"
    if output.is_dir():
        return
    # Whole or not there: what a command that was stopped has left is made again.
    beside = output.with_name(f".{output.name}")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    numbers = (
        f"--count={plan.count}",
        f"--size={plan.size}",
        f"--form={plan.form}",
        f"--seed={pyramid.seed}",
    )
    workdir = f"--workdir={pyramid.folder}"
    for words in (
        ("histojax.data.masks", workdir, f"--output={beside / 'from'}", *numbers),
        (
            "histojax.synthesize",
            workdir,
            f"--masks={beside / 'from'}",
            f"--output={beside / 'pairs'}",
            f"--seed={pyramid.seed}",
        ),
    ):
        said = shlex.join(["python", "-m", *words])
        say(said)
        done = subprocess.run(
            [sys.executable, "-m", *words],
            env=jobs.environment(device),
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode:
            lines = done.stderr.strip().splitlines()
            raise UserError(f"{said} failed: {lines[-1] if lines else 'it said nothing'}")
    os.replace(beside / "pairs", output)
    shutil.rmtree(beside)


def by_share(rows: Sequence[sweep_table.Row]) -> list[dict[str, Any]]:
    """{"share", "way", "metric", "seeds", "mean", "sd", "more", "more_sd"} each.

    A seed's score is the mean over images; "more" is what a way scores above augmented images of
    the same share and seed. NaN is what there is none of.
    """
    scores: dict[tuple[str, float, str], dict[int, list[float]]] = {}
    for row in rows:
        way, _, share = row["run"].rpartition("-")
        for metric in sweep_table.main_metrics(rows):
            if math.isfinite(value := row.get(metric, math.nan)):
                seeds = scores.setdefault((way, float(share), metric), {})
                seeds.setdefault(row["seed"], []).append(value)
    means = {
        key: {seed: statistics.fmean(values) for seed, values in seeds.items()}
        for key, seeds in scores.items()
    }
    table = []
    for (way, share, metric), seeds in means.items():
        base = means.get(("augmented", share, metric), {}) if way != "augmented" else {}
        more = [seeds[seed] - base[seed] for seed in seeds if seed in base]
        table.append(
            {
                "share": share,
                "way": way,
                "metric": metric,
                "seeds": len(seeds),
                **_summary("mean", "sd", list(seeds.values())),
                **_summary("more", "more_sd", more),
            }
        )
    return sorted(table, key=lambda e: (e["metric"], e["share"], WAYS.index(e["way"])))


def _summary(mean: str, spread: str, values: Sequence[float]) -> dict[str, float]:
    return {
        mean: statistics.fmean(values) if values else math.nan,
        spread: statistics.stdev(values) if len(values) > 1 else math.nan,
    }


def _number(mean: float, spread: float, *, sign: str = "") -> str:
    if math.isnan(mean):
        return "-"
    return f"{mean:{sign}.4f}" + ("" if math.isnan(spread) else f" ± {spread:.4f}")


def cells(entry: Mapping[str, Any]) -> dict[str, str]:
    """A row of the table as text."""
    return {
        "metric": entry["metric"],
        "share": f"{entry['share']:g}",
        "way": entry["way"],
        "mean": _number(entry["mean"], entry["sd"]),
        "more than augmented": _number(entry["more"], entry["more_sd"], sign="+"),
        "seeds": str(entry["seeds"]),
    }


def write(output: pathlib.Path, table: Sequence[Mapping[str, Any]]) -> str:
    """Writes labels.csv and labels.html; returns the table as text."""
    text = aligned([cells(entry) for entry in table])
    writers.write_csv(output / "labels.csv", table)
    figures = []
    for metric in dict.fromkeys(entry["metric"] for entry in table):
        series = []
        for way in WAYS:
            points = [e for e in table if (e["metric"], e["way"]) == (metric, way)]
            if points:
                series.append(
                    charts.Series(way, [e["share"] for e in points], [e["mean"] for e in points])
                )
        figures.append(charts.line_chart(series, title=metric, log=False, axis="share of patients"))
    page.write_page(
        output / "labels.html",
        title="Few labels",
        lead='<p class="lead">Mean ± standard deviation over seeds.</p>',
        sections=[
            page.Section("By share", f"<pre>{page.text(text)}</pre>"),
            page.Section("Curves", f'<div class="charts">{"".join(figures)}</div>'),
        ],
    )
    return f"{text}\n\n{output / 'labels.html'}"
