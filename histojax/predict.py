"""Applies a trained run to images: enhanced image, nuclei and an index of them.

    python -m histojax.predict --workdir=DIR --input=PATH [--input=PATH ...] --output=DIR
    python -m histojax.predict --workdir=runs/joint --input=field.png --mpp=1 --output=out

writes what the run makes of each image NAME, and index.html, and replaces files of these names:

    NAME.sr.tif         the enhanced image
    NAME.labels.tif     the nuclei, numbered from 1
    NAME.classes.tif    the number of each pixel's class

Images are read and written in strips, so the disk bounds their size and memory does not.
"""

import pathlib
from collections.abc import Sequence

from absl import flags

from histojax import cli

_WORKDIR = flags.DEFINE_string("workdir", None, "The folder of a run, or of a chain of runs.")
_INPUT = flags.DEFINE_multi_string(
    "input", None, "An image, or a folder of images, such as --input=field.png"
)
_OUTPUT = flags.DEFINE_string("output", None, "The folder that results are written to.")
_OUTPUTS = flags.DEFINE_list(
    "outputs", None, "What to write, such as sr,labels; by default all that the run makes."
)
_MPP = flags.DEFINE_float(
    "mpp", None, "Micrometres per pixel of the input, such as 0.25; by default the file states it."
)
_RESAMPLE = flags.DEFINE_bool(
    "resample", False, "Resample inputs whose scale is a factor of 2 to 16 off the run's."
)
_MAX_PIXELS = flags.DEFINE_integer(
    "max_pixels",
    2**28,
    "The largest image that is decoded whole, px; a tiled TIFF may have any size.",
    lower_bound=1,
)
_TILE = flags.DEFINE_integer("tile", 1024, "The largest tile, output px; memory follows it.")
_ENSEMBLE = flags.DEFINE_bool(
    "ensemble", False, "Average over the eight flips and rotations: better, 8 times the work."
)


def main(argv: Sequence[str]) -> None:
    """Parses flags and predicts."""
    del argv
    # After the flags, so that --help and wrong flags answer at once.
    from histojax.inference import prediction

    cli.set_up_jax()
    prediction.predict_files(
        pathlib.Path(_WORKDIR.value or ""),
        [pathlib.Path(path) for path in _INPUT.value or ()],
        pathlib.Path(_OUTPUT.value or ""),
        outputs=_OUTPUTS.value,
        mpp=_MPP.value,
        resample=_RESAMPLE.value,
        tile=_TILE.value,
        ensemble=_ENSEMBLE.value,
        max_pixels=_MAX_PIXELS.value,
    )


if __name__ == "__main__":
    flags.mark_flags_as_required(["workdir", "input", "output"])
    cli.run(main)
