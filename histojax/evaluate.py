"""Scores a trained run, or a chain of them, on a data set.

    python -m histojax.evaluate --workdir=DIR --data=SPEC

writes metrics.json (means with 95 % intervals), per_image.csv and figures/ to a folder in DIR (val
to evaluation, test to evaluation-test, ...), and prints the table.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from absl import flags

from histojax import cli

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a run, or of a chain of runs.")
_DATA = flags.DEFINE_string(
    "data", None, "SPEC: synthetic, folder:ROOT or a prepared set; default the run's own."
)
_SPLIT = flags.DEFINE_string("split", "val", "train, val, test or all.")
_ENHANCER = flags.DEFINE_string(
    "enhancer", None, "Put before the run's segmenter: bicubic, none, or the folder of a run."
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "Folder of the results; default evaluation, evaluation-test, ... in DIR."
)
_FEATURES = flags.DEFINE_multi_string(
    "features", [], "Feature network for feature_distance_<network>, NAME or NAME=WEIGHTS."
)
_MAX_PIXELS = flags.DEFINE_integer(
    "max_pixels", None, "Largest image of a folder, px; default the run's own.", lower_bound=1
)
_MAX_SHIFT = flags.DEFINE_float(
    "max_shift",
    None,
    "How far a real lr image may lie off its hr image, hr px, 0: no check; default the run's own.",
    lower_bound=0,
)
_ENSEMBLE = flags.DEFINE_bool(
    "ensemble", False, "Average over the eight flips and rotations: better, 8 times the work."
)


def main(argv: Sequence[str]) -> None:
    """Parses flags and evaluates."""
    del argv
    from histojax.evaluation import (
        scores,  # after flags, so that --help and bad flags answer at once
    )

    cli.set_up_jax()
    cli.keep_freed_memory()
    workdir = pathlib.Path(_WORKDIR.value)
    how = {
        "data": _DATA.value,
        "split": _SPLIT.value,
        "enhancer": _ENHANCER.value,
        "ensemble": _ENSEMBLE.value,
    }
    output = pathlib.Path(_OUTPUT.value or scores.own_folder(workdir, **how))
    table = scores.score_workdir(
        workdir,
        **how,
        features=_FEATURES.value,
        max_pixels=_MAX_PIXELS.value,
        max_shift=_MAX_SHIFT.value,
        output=output,
    )
    print(scores.table_text(table["metrics"]))
    for name, m in table["differences"].items():
        print(f"{name}: {scores.interval_text(m, sign='+')}")
    print(f"\n{output}")


if __name__ == "__main__":
    flags.mark_flag_as_required("workdir")
    cli.run(main)
