"""Synthesises tissue for masks, by a trained pyramid.

    python -m histojax.synthesize --workdir=RUN --masks=PATH [--masks=PATH ...] --output=DIR
    python -m histojax.synthesize --builtin --masks=PATH [--masks=PATH ...] --output=DIR

PATH is a label image (0 is background; PNG or TIFF) or a folder of them. DIR is then a folder of
image and mask pairs that `folder:DIR` reads. Images are made and written in strips, of any size;
a pyramid with pyramid.base='tissue' makes up to 8192 px on each side.

`--builtin` draws the built-in model's tissue, which needs no training, around the same nuclei. It
draws images whole, in memory, and ignores `--tile`.

A pyramid's image has the colours that labels have in one of its training images.
"""

import pathlib
from collections.abc import Sequence

from absl import flags

from histojax import cli
from histojax.errors import UserError

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a pyramid's run.")
_BUILTIN = flags.DEFINE_bool("builtin", False, "Draws the built-in model's tissue instead.")
_MASKS = flags.DEFINE_multi_string(
    "masks", None, "Label image, or folder of them; repeat for more."
)
_OUTPUT = flags.DEFINE_string("output", None, "Folder that the pairs are written to.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of noise, colours and tissue.", lower_bound=0)
_COUNT = flags.DEFINE_integer("count", 1, "Images for each mask, of other noise.", lower_bound=1)
_TILE = flags.DEFINE_integer("tile", 512, "Largest tile, px; sets the memory.", lower_bound=1)
_MAX_PIXELS = flags.DEFINE_integer(
    "max_pixels", 2**28, "Largest mask that is decoded, px.", lower_bound=1
)


def main(argv: Sequence[str]) -> None:
    """Parses flags and synthesises."""
    del argv
    workdir = _WORKDIR.value
    if _BUILTIN.value == (workdir is not None):
        raise UserError(
            "tissue is made by --workdir=RUN, a pyramid, or by --builtin: give one of the two"
        )
    # After the flags, so that --help and bad flags answer at once.
    from histojax.data.sources.base import Entry
    from histojax.runs import run_data, workdirs
    from histojax.synthesis import builtin, files, tissue

    masks = files.mask_files([pathlib.Path(path) for path in _MASKS.value or ()])
    maker: files.TissueMaker
    seen: list[Entry] = []
    if workdir is None:
        maker = builtin.BuiltinTissue(files.common_mpp(masks))
    else:
        cli.set_up_jax()
        run = workdirs.load(workdirs.place_of(workdir))
        maker = tissue.Synthesizer(run, tile=_TILE.value)
        seen = run_data.seen_by(run.meta["data"])
    output, seed, count = pathlib.Path(str(_OUTPUT.value)), _SEED.value, _COUNT.value
    options = {"seed": seed, "count": count, "max_pixels": _MAX_PIXELS.value}
    files.write_pairs(maker, masks, output, **options, seen=seen)


if __name__ == "__main__":
    flags.mark_flags_as_required(["masks", "output"])
    cli.run(main)
