"""Joins overlapping microscope fields, given in any order, into one image.

    python -m histojax.stitch --input=PATH [--input=PATH ...] --output=DIR [--mpp=0.5]
    python -m histojax.stitch --input=fields --output=out

writes into DIR, which has to be empty or new:

    mosaic.tif       the fields joined, RGB; mosaic-2.tif ... for groups that do not touch the first
    placement.csv    where each field lies, how sure that is, and why a field is left out
    index.html       the mosaic with its fields' frames, links and residuals

Fields may differ in size, brightness and sharpness, and be turned; they have one scale.
Fields that fit nowhere are named at the end, with exit status 2; the others are joined.
"""

import pathlib
from collections.abc import Sequence

from absl import flags

from histojax import cli

_INPUT = flags.DEFINE_multi_string(
    "input", None, "A field, or a folder of fields, such as --input=fields."
)
_OUTPUT = flags.DEFINE_string("output", None, "The folder that results are written to.")
_MPP = flags.DEFINE_float(
    "mpp", None, "Micrometres per pixel of the fields, such as 0.5; by default the files state it."
)
_MAX_PIXELS = flags.DEFINE_integer(
    "max_pixels", 2**32, "The largest mosaic, px; larger ones are refused.", lower_bound=1
)


def main(argv: Sequence[str]) -> None:
    """Parses flags and joins."""
    del argv
    from histojax.mosaic import files
    from histojax.report import mosaic_page

    output = pathlib.Path(str(_OUTPUT.value))
    joined = files.stitch_files(
        [pathlib.Path(path) for path in _INPUT.value or ()],
        output,
        mpp=_MPP.value,
        max_pixels=_MAX_PIXELS.value,
        say=cli.say,
    )
    mosaic_page.write(output / "index.html", joined)
    for note in joined.stitched.notes:
        cli.say(note)
    cli.say(str(output / "index.html"))
    joined.check()


if __name__ == "__main__":
    flags.mark_flags_as_required(["input", "output"])
    cli.run(main)
