"""Ways to train a segmenter where labels are few, as sweeps over shares of the labels and seeds.

    python -m launch.few_labels --data=folder:$MONUSEG --shares=0.2 --seeds=0,1,2 \\
        --output=runs/few_labels --pupil="configs/segmentation.py --config.steps=1500"

For each share of the training patients and each seed, which chooses the patients, the pupil trains

    augmented      on the labelled images
    tissue         on these and the built-in model's tissue for --masks masks of their nuclei
    pyramid        on these and tissue of a pyramid, trained on the same images, for the same masks
    pseudo_labels  on these and the other patients' images, with the masks that `augmented` finds
    teacher        on these and, as a mean teacher's pupil, the other patients' images

No label beyond the share is used: the last step counts, and no threshold is fitted.
OUTPUT holds pyramids/, pairs/ and pupils/, which is a sweep with a table of its own (launch.sweep
--table_only --output=OUTPUT/pupils adds metrics). The last table printed is each way's score less
that of `augmented`, seed by seed. The same command continues what was stopped.
"""

import math
import os
import pathlib
import re
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags
from ml_collections import config_flags

from histojax import cli
from histojax.cli import say
from histojax.errors import UserError
from histojax.report.table import text_table
from launch import jobs, sweep_table

BASELINE = "augmented"
_PAIRS = "--config.data.extra=folder:{pairs}/seed_{{seed}}"
# What each way adds to the pupil's words.
WAYS = {
    BASELINE: "",
    "tissue": _PAIRS,
    "pyramid": _PAIRS,
    "pseudo_labels": _PAIRS,
    "teacher": "--config.data.unlabelled=rest --config.teacher.weight=1.0",
}
_LAST_STEP = "--config.checkpoint.best=last --config.instances.fit=False"
_START = re.compile(r"--config\..*init_from\.\w+=")

_DATA = flags.DEFINE_string(
    "data", None, "SPEC of images with instances. Example: --data=folder:/data/monuseg"
)
_SHARES = flags.DEFINE_list(
    "shares", ["0.2"], "Shares of the patients whose labels are used. Example: --shares=0.2,1"
)
_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of all runs. Example: --seeds=0,1,2")
_OUTPUT = flags.DEFINE_string("output", None, "Folder of the study. Example: --output=runs/few")
_PUPIL = flags.DEFINE_string(
    "pupil",
    "configs/segmentation.py",
    'The pupil\'s config and overrides. Example: --pupil="configs/unet.py --config.steps=900"',
)
_PYRAMID = flags.DEFINE_string(
    "pyramid",
    "configs/pyramid.py",
    "The pyramid's config and overrides. Example: --pyramid=configs/pyramid.py:smoke",
)
_MASKS = flags.DEFINE_integer("masks", 200, "Masks of each seed. Example: --masks=50", 1)
_SIZE = flags.DEFINE_integer("size", 256, "Side of the masks, px. Example: --size=128", 1)
_CONFIDENCE = flags.DEFINE_float(
    "confidence", 0.8, "Least confidence of pseudo-labels, 0 to 1. Example: --confidence=0.5", 0, 1
)
_WAYS = flags.DEFINE_list("ways", list(WAYS), "Ways to compare. Example: --ways=augmented,teacher")
_JOBS = flags.DEFINE_integer(
    "jobs",
    1,
    "Runs at a time where --devices names none; they share the cores. Example: --jobs=2",
    1,
)
_DEVICES = flags.DEFINE_list(
    "devices",
    [],
    "Accelerators, each for one run at a time; by default a run uses all. Example: --devices=0,1",
)


def study(output: pathlib.Path, shares: Sequence[str]) -> tuple[list[jobs.Job], list[jobs.Job]]:
    """The pyramids and the pupils of the study.

    Raises:
        UserError: for what would stop the study after hours: a share, way or config that cannot be
            used, or masks smaller than a crop.
    """
    ways = list(dict.fromkeys([BASELINE, *_WAYS.value]))
    for way in ways:
        if way not in WAYS:
            raise UserError(f"--ways has {way!r}, which is none of {', '.join(WAYS)}")
    pyramids, pupils = [], []
    for share in shares:
        try:
            rest = 1 - float(share)
        except ValueError:
            rest = math.nan
        if not 0 <= rest < 1:
            raise UserError(f"--shares: {share!r} has to be a number above 0, up to 1")
        source = shlex.quote(f"--config.data.source={_DATA.value}")
        common = f"{source} --config.data.labelled={share} {_LAST_STEP}"
        pyramids.append(f"{share}: {_PYRAMID.value} {common}")
        for way in ways:
            if rest or way not in ("pseudo_labels", "teacher"):  # which need the other patients
                folder = shlex.quote(str(output.resolve() / "pairs" / f"{way}-{share}"))
                own = WAYS[way].format(pairs=folder)
                pupils.append(f"{way}-{share}: {_PUPIL.value} {common} {own}")
    _check_config("pyramid", _PYRAMID.value, "pyramid")
    _check_config("pupil", _PUPIL.value, "segmentation")
    made = jobs.plan(pyramids, _SEEDS.value, [], output / "pyramids")
    pupil_jobs = jobs.plan(pupils, _SEEDS.value, [], output / "pupils")
    return made if "pyramid" in ways else [], pupil_jobs


def _check_config(flag: str, run: str, stage: str) -> None:
    # Folders to start from are read by histojax.cli alone, and change nothing here.
    words = [word for word in jobs.named(f"{flag}: {run}")[1] if not _START.match(word)]
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=words)
    try:
        config = values(["", *words]) and values.config
    except Exception as error:  # a config file is a program, and may raise anything
        raise UserError(f"--{flag}: the config cannot be made: {error}") from error
    if config.stage != stage:
        raise UserError(f"--{flag} is of stage {config.stage!r}; name a config of {stage!r}")
    size, crop = _SIZE.value, config.data.crop
    if size < crop:
        raise UserError(
            f"--size={size} is smaller than the crops of --{flag}: give {crop} px or more"
        )


def make_pairs(output: pathlib.Path, pupil: jobs.Job) -> None:
    """Makes the pairs that a pupil learns from, whole or not at all, where there are none yet.

    Raises:
        UserError: if one of the commands fails.
    """
    way, _, share = pupil.name.rpartition("-")
    seed = f"seed_{pupil.seed}"
    pairs = output / "pairs" / pupil.name / seed
    if WAYS[way] != _PAIRS or pairs.is_dir():
        return
    beside = pairs.with_name(f".{seed}")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    common = (f"--seed={pupil.seed}", f"--output={beside / 'pairs'}")
    finder = output / "pupils" / f"{BASELINE}-{share}" / seed
    masks = ("histojax.masks", f"--workdir={finder}", f"--size={_SIZE.value}")
    if way == "pseudo_labels":  # as many as there are
        sure = ("--kind=predicted", "--with_images", f"--confidence={_CONFIDENCE.value:g}")
        _command(*masks, *sure, "--count=1000000", *common)
    else:
        folder = beside / "masks"
        _command(*masks, f"--count={_MASKS.value}", common[0], f"--output={folder}")
        pyramid = f"--workdir={output / 'pyramids' / share / seed}"
        by = "--builtin" if way == "tissue" else pyramid
        _command("histojax.synthesize", by, f"--masks={folder}", *common)
    os.replace(beside / "pairs", pairs)
    shutil.rmtree(beside)


def _command(*words: str) -> None:
    written = shlex.join(["python", "-m", *words])
    say(written)
    device = next(iter(_DEVICES.value), None)
    command = [sys.executable, "-m", *words, "--num_processes=1"]
    done = subprocess.run(
        command, env=jobs.environment(device), stderr=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise UserError(f"{written} failed: {jobs.last_line(done.stderr)}")


def differences(rows: Sequence[sweep_table.Row]) -> list[dict[str, Any]]:
    """The scores of each way above those of the baseline, seed by seed: mean and deviation."""
    scores = {
        (entry["metric"], *entry["run"].rsplit("-", 1)): entry["by_seed"]
        for entry in sweep_table.aggregate(rows, sweep_table.main_metrics(rows))
        if entry["organ"] == sweep_table.ALL
    }
    table = []
    for (metric, way, share), by_seed in scores.items():
        base = scores.get((metric, BASELINE, share), {})
        more = [score - base[seed] for seed, score in by_seed.items() if seed in base]
        if way != BASELINE and more:
            row = {"way": way, "share": share, "metric": metric, "seeds": len(more)}
            mean = statistics.fmean(more)
            table.append({**row, "more": mean, "sd": sweep_table.spread(more)})
    return table


def main(argv: Sequence[str]) -> None:
    """Parses flags, trains, makes pairs and tabulates."""
    del argv
    output, slots = pathlib.Path(_OUTPUT.value), (_DEVICES.value, _JOBS.value)
    pyramids, pupils = study(output, _SHARES.value)
    jobs.claim(pyramids, output / "pyramids")
    jobs.claim(pupils, output / "pupils")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    later = [job for job in pupils if WAYS[job.name.rpartition("-")[0]] == _PAIRS]
    first = [*pyramids, *(job for job in pupils if job not in later)]
    jobs.check(jobs.run_all(first, *slots), first)
    for pupil in later:
        make_pairs(output, pupil)
    failed = jobs.run_all(later, *slots)
    rows = sweep_table.collect(jobs.finished(output / "pupils"))
    print(sweep_table.write(output / "pupils", rows))
    print(f"\nmore than {BASELINE}, seed by seed\n{text_table(differences(rows))}")
    jobs.check(failed, pupils)


if __name__ == "__main__":
    flags.mark_flags_as_required(["data", "output"])
    cli.run(main)
