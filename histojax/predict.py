"""Applies a trained run to images: enhanced image, nuclei and an index of them.

    python -m histojax.predict --workdir=DIR --input=PATH [--input=PATH ...] --output=DIR

writes NAME.sr.tif, NAME.labels.tif and NAME.classes.tif (the number of each pixel's class), as far
as the run makes them, and index.html. Images are read and written in strips, so their size is
bounded by the disk and not by memory.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from absl import flags

from histojax import cli

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a run, or of a chain of runs.")
_INPUT = flags.DEFINE_multi_string("input", None, "Image, or folder of images; may be repeated.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder of the results.")
_MPP = flags.DEFINE_float(
    "mpp", None, "Micrometres per pixel of the input, where the file does not say or is wrong."
)
_RESAMPLE = flags.DEFINE_bool(
    "resample", False, "Resample inputs whose scale is more than a factor of 2 off the run's."
)
_MAX_PIXELS = flags.DEFINE_integer(
    "max_pixels",
    2**28,
    "Largest image that is decoded whole, px; tiled TIFF is read by region, at any size.",
    lower_bound=1,
)
_TILE = flags.DEFINE_integer("tile", 1024, "Largest tile, output px; memory follows it.")

_ENSEMBLE = flags.DEFINE_bool(
    "ensemble", False, "Average over the eight flips and rotations: better, 8 times the work."
)


def main(argv: Sequence[str]) -> None:
    """Parses flags and predicts."""
    del argv
    from histojax.inference import (
        files_in,  # after flags, so that --help and bad flags answer at once
    )

    cli.set_up_jax()
    files_in.predict_files(
        pathlib.Path(_WORKDIR.value),
        [pathlib.Path(path) for path in _INPUT.value],
        pathlib.Path(_OUTPUT.value),
        mpp=_MPP.value,
        resample=_RESAMPLE.value,
        tile=_TILE.value,
        ensemble=_ENSEMBLE.value,
        max_pixels=_MAX_PIXELS.value,
    )


if __name__ == "__main__":
    flags.mark_flags_as_required(["workdir", "input", "output"])
    cli.run(main)
