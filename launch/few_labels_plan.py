"""Ways to train where labels are few: what is run for each, pairs, and the table of their scores.

See `launch.few_labels`.
"""

from __future__ import annotations

import contextlib
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
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from histojax.cli import say
from histojax.components import scales
from histojax.data.sources import subsets
from histojax.errors import UserError
from histojax.imaging import writers
from histojax.report import charts, document
from histojax.runs import run_data
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
WAYS = (
    "real",
    "augmented",
    "synthetic",
    "synthetic_only",
    "tissue",
    "predicted",
    "synthetic_predicted",
    "teacher",
)
# Those that learn from the other patients' images too, of which share 1 leaves none.
_OF_THE_REST = ("predicted", "synthetic_predicted", "teacher")
# Whose run knows the labelled images, and whose network finds the nuclei of the others.
_FINDER = "augmented"
# Of the labelled images, of the other patients' too, or of the tissue that is started from.
LABELLED, ALL, OWN = LOOKS = ("labelled", "all", "own")
# All sure squares are taken.
_ALL = 1_000_000


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
        looks: whose colours synthetic images have, of LOOKS.
        confidence: from which predicted masks are taken.
    """

    shares: tuple[str, ...]
    ways: tuple[str, ...]
    data: str
    output: pathlib.Path
    count: int
    size: int
    kind: str
    pupil: str
    pyramid: str
    teacher_weight: float
    looks: str
    confidence: float

    def pairs(self, pyramid: str) -> pathlib.Path:
        """Folder of a pyramid's pairs, by seed: others for other numbers."""
        kind = f"predicted{self.confidence:g}" if self.kind == "predicted" else self.kind
        name, share = f"{kind}-{self.count}x{self.size}", pyramid.rpartition("-")[2]
        if self._other_looks(share) and not pyramid.baseswith("tissue"):
            name += f"-looks{self.confidence:g}"
        if self.looks == OWN and not pyramid.baseswith("tissue"):
            name += "-own"
        return self.output / "pairs" / pyramid / name

    def predicted(self, share: str) -> pathlib.Path:
        """Folder of the other patients' images with predicted masks, by seed."""
        return self.output / "predicted" / share / f"{self.size}-{self.confidence:g}"

    def finder(self, share: str, seed: int) -> pathlib.Path:
        """Workdir of the network that predicts masks for a share."""
        return self.output / "pupils" / f"{_FINDER}-{share}" / f"seed_{seed}"

    def colors(self, share: str, seed: int) -> tuple[str, ...]:
        """Words of synthesis that say whose colours images have."""
        if self.looks == OWN:
            return ("--looks=own",)
        if not self._other_looks(share):
            return ()
        others = self.predicted(share) / f"seed_{seed}"
        return ("--looks=training", f"--looks=folder:{others}")

    def _other_looks(self, share: str) -> bool:
        return self.looks == ALL and float(share) < 1

    @property
    def needs_pairs(self) -> bool:
        """Whether pyramids are needed at all."""
        return bool(self.pyramid_runs())

    @property
    def needs_finder(self) -> bool:
        """Whether something is made by a pupil, which has to be trained first."""
        of_pairs = self.kind == "predicted" or self.looks == ALL
        ways = {"tissue", "predicted", "synthetic_predicted"}
        return bool(ways & set(self.ways)) or (self.needs_pairs and of_pairs)

    def drawing(self) -> list[str]:
        """Shares for whose masks tissue is drawn by the built-in model."""
        return [share for share in self.shares if "tissue" in self.ways]

    def predicting(self) -> list[str]:
        """Shares that leave images of which masks are predicted as pairs."""
        needed = {"predicted", "synthetic_predicted"} & set(self.ways)
        needed = needed or (self.needs_pairs and self.looks == ALL)
        return [share for share in self.shares if needed and float(share) < 1]

    def pyramid_runs(self) -> list[str]:
        """The pyramids, as sweep's --run: of the labelled images alone, and of predicted pairs."""
        found = []
        for share in self.shares:
            words = self._words(self.pyramid, share)
            if "synthetic" in self.ways or "synthetic_only" in self.ways:
                found.append(f"{share}: {words}")
            if "synthetic_predicted" in self.ways and float(share) < 1:
                extra = shlex.quote(self._extra(self.predicted(share)))
                found.append(f"predicted-{share}: {words} {extra}")
        return found

    def pupil_runs(self) -> list[str]:
        """The pupils, as sweep's --run; all images are labelled in share 1, which has no rest."""
        return [
            f"{way}-{share}: {self._words(self.pupil, share)} {shlex.join(self._way(way, share))}"
            for share in self.shares
            for way in self.ways
            if not (way in _OF_THE_REST and float(share) == 1)
        ]

    def _extra(self, folder: pathlib.Path) -> str:
        return f"--config.data.extra=folder:{folder.resolve()}/seed_{{seed}}"

    def _words(self, run: str, share: str) -> str:
        own = (
            f"--config.data.source={self.data}",
            f"--config.data.labelled={share}",
            "--config.checkpoint.best=last",
            "--config.instances.fit=False",
        )
        return f"{run} {shlex.join(own)}"

    def _way(self, way: str, share: str) -> tuple[str, ...]:
        extra = self._extra(self.pairs(share))
        return {
            "real": _PLAIN,
            "augmented": (),
            "synthetic": (extra,),
            "synthetic_only": (extra, "--config.data.extra_weight=1.0"),
            "tissue": (self._extra(self.pairs(f"tissue-{share}")),),
            "predicted": (self._extra(self.predicted(share)),),
            "synthetic_predicted": (self._extra(self.pairs(f"predicted-{share}")),),
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


def predicts(pupil: jobs.Job) -> bool:
    """Whether masks are predicted by this pupil."""
    return pupil.name.startswith(f"{_FINDER}-")


def learns_from_pairs(pupil: jobs.Job) -> bool:
    """Whether this pupil needs what a pyramid makes."""
    return pupil.name.startswith("synthetic")


def config_of(run: str) -> ConfigDict:
    """The config that a run names, with its crop and start if given; other overrides left out.

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
        if field == "--config.pyramid.base" and "pyramid" in found:
            found.pyramid.base = value
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
    crop = pupil.data.crop
    if plan.needs_pairs:
        pyramid = config_of(plan.pyramid)
        if pyramid.stage != "pyramid":
            raise UserError(
                f"--pyramid={plan.pyramid!r} is of stage {pyramid.stage!r}: name a config of stage "
                "'pyramid'"
            )
        scales.check_base(pyramid)
        if plan.looks == OWN and pyramid.pyramid.base != "tissue":
            raise UserError(
                f"--looks={OWN} is for pyramids that start from tissue, and --pyramid="
                f"{plan.pyramid!r} starts from {pyramid.pyramid.base}: add "
                "--config.pyramid.base=tissue"
            )
        crop = max(crop, pyramid.data.crop)
    further = plan.needs_pairs or {"tissue", "predicted"} & set(plan.ways)
    if further and plan.size < crop:
        raise UserError(
            f"--size={plan.size} is smaller than the crops of {crop} px that pupil or pyramid "
            f"are trained on: ask for pairs of {crop} px or more"
        )
    if plan.needs_finder and _FINDER not in plan.ways:
        raise UserError(
            f"--ways={','.join(plan.ways)} needs masks that the run of the way {_FINDER!r} makes "
            "or finds: name that way too"
        )
    predicted = plan.kind == "predicted" and (plan.needs_pairs or "tissue" in plan.ways)
    if not predicted and not set(_OF_THE_REST) & set(plan.ways) and plan.looks != ALL:
        return
    pupil.data.source = plan.data
    for seed in seeds:
        pupil.seed = int(seed) if seed.isdecimal() else 0
        train = run_data.open_split(pupil, "train")
        for share in plan.shares:
            rest = subsets.left_out(train, float(share), pupil.seed)
            # Of share 1 there are no such ways to begin with.
            if (float(share) < 1 or predicted) and not len(rest):
                raise UserError(
                    f"--shares: {share} of the {len(set(train.groups))} training patients are all "
                    "of them, and a mean teacher and predicted masks need the others: choose a "
                    "lower share, or do without them"
                )


def make_pairs(pyramid: jobs.Job, plan: Plan, *, device: str | None = None) -> None:
    """Masks, and tissue for them by a pyramid, where there are none yet.

    Args:
        pyramid: trained.
        plan: says how many, of what, and where.
        device: accelerator that is used, of those there are; None: any.

    Raises:
        UserError: if one of the two commands fails.
    """
    output = plan.pairs(pyramid.name) / f"seed_{pyramid.seed}"
    share = pyramid.name.rpartition("-")[2]
    of = plan.finder(share, pyramid.seed) if plan.kind == "predicted" else pyramid.folder
    with _made_whole(output) as beside:
        if beside is not None:
            words = (f"--workdir={pyramid.folder}", *plan.colors(share, pyramid.seed))
            _make(plan, of, beside, words, pyramid.seed, device)


def make_tissue(share: str, seed: int, plan: Plan, *, device: str | None = None) -> None:
    """The masks that a pyramid of a share would be given, and the built-in model's tissue for them.

    Args:
        share: of the patients.
        seed: of the run.
        plan: says how many, of what, and where.
        device: accelerator that is used, of those there are; None: any.

    Raises:
        UserError: if one of the two commands fails.
    """
    with _made_whole(plan.pairs(f"tissue-{share}") / f"seed_{seed}") as beside:
        if beside is not None:
            _make(plan, plan.finder(share, seed), beside, ("--builtin",), seed, device)


def _make(
    plan: Plan,
    of: pathlib.Path,
    beside: pathlib.Path,
    by: Sequence[str],
    seed: int,
    device: str | None,
) -> None:
    """Masks made by the run `of`, and tissue for them by what the words `by` say."""
    masks, common = beside / "from", f"--seed={seed}"
    numbers = (
        f"--count={plan.count}",
        f"--size={plan.size}",
        f"--kind={plan.kind}",
        f"--confidence={plan.confidence:g}",
    )
    made = ("histojax.masks", f"--workdir={of}", f"--output={masks}", *numbers, common)
    _run(*made, device=device)
    output = f"--output={beside / 'made'}"
    _run("histojax.synthesize", *by, f"--masks={masks}", output, common, device=device)


def make_predicted(share: str, seed: int, plan: Plan, *, device: str | None = None) -> None:
    """The other patients' images with the masks that a share's network finds, where it is sure.

    Args:
        share: of the patients.
        seed: of the run.
        plan: says of what size, and where.
        device: accelerator that is used, of those there are; None: any.

    Raises:
        UserError: if the command fails.
    """
    with _made_whole(plan.predicted(share) / f"seed_{seed}") as beside:
        if beside is None:
            return
        _run(
            "histojax.masks",
            f"--workdir={plan.finder(share, seed)}",
            f"--output={beside / 'made'}",
            f"--count={_ALL}",
            f"--size={plan.size}",
            "--kind=predicted",
            f"--confidence={plan.confidence:g}",
            "--with_images",
            f"--seed={seed}",
            device=device,
        )


@contextlib.contextmanager
def _made_whole(output: pathlib.Path) -> Iterator[pathlib.Path | None]:
    """A folder in whose `made` a folder is made, whole or not there; None where it is there."""
    if output.is_dir():
        yield None
        return
    # What a command that was stopped has left is made again.
    beside = output.with_name(f".{output.name}")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    yield beside
    os.replace(beside / "made", output)
    shutil.rmtree(beside)


def _run(*words: str, device: str | None) -> None:
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
        raise UserError(f"{said} failed: {jobs.last_line(done.stderr)}")


def by_share(rows: Sequence[sweep_table.Row]) -> list[dict[str, Any]]:
    """{"share", "way", "metric", "seeds", "mean", "sd", "more", "more_sd"} each.

    A seed's score is the mean over images; "more" is what a way scores above augmented images of
    the same share and seed. NaN is what there is none of.
    """
    entries = [
        (*_way_and_share(entry["run"]), entry)
        for entry in sweep_table.aggregate(rows, sweep_table.main_metrics(rows))
        if entry["organ"] == sweep_table.ALL
    ]
    augmented = {
        (share, entry["metric"]): entry["by_seed"]
        for way, share, entry in entries
        if way == "augmented"
    }
    table = []
    for way, share, entry in entries:
        base = augmented.get((share, entry["metric"]), {}) if way != "augmented" else {}
        more = [score - base[seed] for seed, score in entry["by_seed"].items() if seed in base]
        table.append(
            {
                "share": share,
                "way": way,
                **{field: entry[field] for field in ("metric", "seeds", "mean", "sd")},
                "more": statistics.fmean(more) if more else math.nan,
                "more_sd": sweep_table.spread(more),
            }
        )
    return sorted(table, key=lambda e: (e["metric"], e["share"], WAYS.index(e["way"])))


def _way_and_share(run: str) -> tuple[str, float]:
    way, _, share = run.rpartition("-")
    return way, float(share)


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
    drawn = [_curves(table, metric) for metric in dict.fromkeys(e["metric"] for e in table)]
    sections = [document.Section("By share", text=text)]
    if any(drawn):
        sections.append(document.Section("Curves", charts=drawn))
    document.write_sections(
        output / "labels.html",
        title="Few labels",
        lead="Mean ± standard deviation over seeds.",
        sections=sections,
    )
    return f"{text}\n\n{output / 'labels.html'}"


def _curves(table: Sequence[Mapping[str, Any]], metric: str) -> charts.Chart | None:
    """A chart of a metric by share; None where there is but one, which makes no curve."""
    if len({entry["share"] for entry in table if entry["metric"] == metric}) < 2:
        return None
    series = []
    for way in WAYS:
        points = [e for e in table if (e["metric"], e["way"]) == (metric, way)]
        if points:
            series.append(
                charts.Series(way, [e["share"] for e in points], [e["mean"] for e in points])
            )
    return charts.line_chart(series, title=metric, log=False, axis="share of patients")
