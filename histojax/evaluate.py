"""Scores a trained run, or a chain of them, on a data set.

    python -m histojax.evaluate --workdir=runs/joint --data=folder:DIR --split=test

writes metrics.json (means with 95 % intervals), per_image.csv and figures/ to a folder in the
workdir (val to evaluation, test to evaluation-test, ...), and prints the main results in words.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

from absl import flags

from histojax import cli

_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Folder of a run or chain, or a model, to score. Example: runs/joint or nuclei-40x. Required.",
)
_DATA = flags.DEFINE_string(
    "data", None, "SPEC of the images to score. Example: folder:DIR. Default: the run's own."
)
_SPLIT = flags.DEFINE_string("split", "val", "Split to score: train, val, test or all.")
_ENHANCER = flags.DEFINE_string(
    "enhancer",
    None,
    "Enhancer that the segmenter reads: bicubic, lanczos, back_projection, linear, none (the real "
    "image alone), a run's folder or a model. Example: runs/srgan. Default: all of the workdir.",
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "Folder of the results. Example: out. Default: evaluation... in the workdir."
)
_FEATURES = flags.DEFINE_multi_string(
    "features", [], "Network NAME[=WEIGHTS] of a feature distance; repeatable. Example: vgg19."
)
_MAX_PIXELS = flags.DEFINE_integer(
    "max_pixels",
    None,
    "Largest image of a folder, px. Example: 500000000. Default: the run's.",
    lower_bound=1,
)
_MAX_SHIFT = flags.DEFINE_float(
    "max_shift",
    None,
    "Largest shift of a real lr image, hr px; 0 skips the check. Example: 2. Default: the run's.",
    lower_bound=0,
)
_ALLOW_SEEN = flags.DEFINE_bool(
    "allow_seen", False, "Score images that were seen in training too, marked in all results."
)
_ENSEMBLE = flags.DEFINE_bool(
    "ensemble", False, "Average over the eight flips and rotations: better, 8 times the work."
)


def main(argv: Sequence[str]) -> None:
    """Parses flags and evaluates."""
    del argv
    from histojax import processes  # after flags: --help answers at once
    from histojax.evaluation import scores, words
    from histojax.runs import workdirs

    cli.set_up_jax(together=True)
    cli.keep_freed_memory()
    workdir, split = workdirs.place_of(_WORKDIR.value or ""), _SPLIT.value
    own: dict[str, Any] = {"data": _DATA.value, "enhancer": _ENHANCER.value}
    own |= {"split": split, "ensemble": _ENSEMBLE.value}
    output = pathlib.Path(_OUTPUT.value or scores.own_folder(workdir, **own))
    table = scores.score_workdir(
        workdir,
        output=output,
        features=_FEATURES.value,
        max_pixels=_MAX_PIXELS.value,
        max_shift=_MAX_SHIFT.value,
        allow_seen=_ALLOW_SEEN.value,
        **own,
    )
    if processes.first():
        print(words.after_evaluation(table, workdir, output, split))


if __name__ == "__main__":
    flags.mark_flag_as_required("workdir")
    cli.run(main)
