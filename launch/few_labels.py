"""What synthetic tissue is worth where labels are few: ways to train by share of the labels.

    python -m launch.few_labels --data=folder:$MONUSEG --shares=0.2,0.4 --seeds=0,1,2 \
        --output=runs/few_labels

For each share of the training patients, drawn anew by each seed, the same segmentation network
(`--pupil`, a config of stage segmentation with its overrides) is trained in each of these ways:

    real                 on the labelled images as they are
    augmented            with the pupil's own augmentation, as in all that follow
    synthetic            on these and on synthetic pairs
    synthetic_only       on synthetic pairs alone
    tissue               on these and on the built-in model's tissue for the same masks
    predicted            on these and on the other patients' images, with the masks that the
                         network of `augmented` finds in them where it is sure: pseudo-labels
    synthetic_predicted  on these and on synthetic pairs of a pyramid that has learnt from what
                         `predicted` learns from
    teacher              on these and, by a mean teacher, on the other patients' images

The pairs are made by a pyramid (`--pyramid`), trained on the same share alone but for
`synthetic_predicted`, for `--masks` masks made of the labelled images or, with `--kind=predicted`,
found by the network of `augmented` in the other patients'. They have the colours of the images that
the pyramid was trained on, with `--looks=all` of all patients', as that network's masks tell them,
or with `--looks=own`, where pyramids start from tissue, that tissue's own.
No label beyond the share is looked at: the last step is used, and nothing is fitted to the val
images, on which all are scored.
Fields of the pupil may be given for all ways in `--pupil`, such as --pupil="configs/use_net.py
--config.steps=2000".

What is done is not done again, so that the same command goes on, also with more shares or seeds;
another `--looks` needs another OUTPUT. `--jobs` and `--devices` are those of launch.sweep. OUTPUT
holds pyramids/SHARE/seed_K (and predicted-SHARE), pairs/PYRAMID/FORM-COUNTxSIZE[-LOOKS]/seed_K,
predicted/SHARE/SIZE/seed_K, pupils/WAY-SHARE/seed_K, and labels.csv and labels.html: scores by
share, and what each way adds to augmented images, seed by seed.
"""

from __future__ import annotations

import pathlib
import signal
from collections.abc import Sequence

from absl import flags

from histojax import cli
from launch import few_labels_plan, jobs, sweep_table

_DATA = flags.DEFINE_string("data", None, "SPEC of labelled images with instances.")
_SHARES = flags.DEFINE_list("shares", ["0.2", "0.4", "0.6", "0.8", "1.0"], "Of the patients.")
_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Of shares, pyramids and pupils.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder of all that is made.")
_PUPIL = flags.DEFINE_string("pupil", "configs/segmentation.py", "CONFIG[:SIZE] and overrides.")
_PYRAMID = flags.DEFINE_string("pyramid", "configs/pyramid.py", "CONFIG[:SIZE] and overrides.")
_MASKS = flags.DEFINE_integer("masks", 200, "Synthetic pairs of each pyramid.", 1)
_SIZE = flags.DEFINE_integer("size", 256, "Their side, px.", 1)
_FORM = flags.DEFINE_enum(
    "kind", "replaced", ("turned", "replaced", "predicted"), "How masks are made."
)
_LOOKS = flags.DEFINE_enum(
    "looks",
    few_labels_plan.LABELLED,
    few_labels_plan.LOOKS,
    "Whose colours synthetic images have: the pyramid's training images', the others' too, or the "
    "tissue's that they start from.",
)
_CONFIDENCE = flags.DEFINE_float(
    "confidence", 0.8, "Of predicted masks at least, mean of |2 p - 1|.", 0.0, 1.0
)
_WEIGHT = flags.DEFINE_float("teacher_weight", 1.0, "Of the mean teacher's consistency.")
_JOBS = flags.DEFINE_integer(
    "jobs", 1, "Runs at a time, where no devices are named; they share the cores.", 1
)
_DEVICES = flags.DEFINE_list("devices", [], "Accelerators, each for one run at a time.")
_WAYS = flags.DEFINE_list("ways", list(few_labels_plan.WAYS), "Which of them.")


def main(argv: Sequence[str]) -> None:
    """Parses flags, trains, synthesises and tabulates."""
    del argv
    output = pathlib.Path(_OUTPUT.value)
    plan = few_labels_plan.plan_of(
        _SHARES.value,
        _WAYS.value,
        _DATA.value,
        output,
        count=_MASKS.value,
        size=_SIZE.value,
        kind=_FORM.value,
        pupil=_PUPIL.value,
        pyramid=_PYRAMID.value,
        teacher_weight=_WEIGHT.value,
        looks=_LOOKS.value,
        confidence=_CONFIDENCE.value,
    )
    few_labels_plan.check(plan, _SEEDS.value)
    pupils = jobs.plan(plan.pupil_runs(), _SEEDS.value, [], output / "pupils")
    pyramids = []
    if plan.needs_pairs:
        pyramids = jobs.plan(plan.pyramid_runs(), _SEEDS.value, [], output / "pyramids")
        jobs.claim(pyramids, output / "pyramids")
    every = jobs.claim(pupils, output / "pupils")
    signal.signal(signal.SIGTERM, jobs.raise_interrupt)
    runner = jobs.Runner(jobs.slots(_DEVICES.value, _JOBS.value))
    device = next(iter(_DEVICES.value), None)
    if plan.needs_finder:
        finders = [job for job in pupils if few_labels_plan.predicts(job)]
        jobs.check(runner(finders), finders)
    for share in plan.predicting():
        for seed in _SEEDS.value:
            few_labels_plan.make_predicted(share, int(seed), plan, device=device)
    for share in plan.drawing():
        for seed in _SEEDS.value:
            few_labels_plan.make_tissue(share, int(seed), plan, device=device)
    # What needs no pairs is trained beside the pyramids, so that no device waits.
    first = pyramids + [job for job in pupils if not few_labels_plan.learns_from_pairs(job)]
    failed = runner(first)
    jobs.check([job for job in failed if job in pyramids], pyramids)
    for pyramid in pyramids:
        few_labels_plan.make_pairs(pyramid, plan, device=device)
    failed += runner([job for job in pupils if few_labels_plan.learns_from_pairs(job)])
    rows = sweep_table.collect({(job.name, job.seed): job.folder for job in every if job.done})
    if rows:
        print(few_labels_plan.write(output, few_labels_plan.by_share(rows)))
    jobs.check(failed, pupils)


if __name__ == "__main__":
    flags.mark_flags_as_required(["data", "output"])
    cli.run(main)
