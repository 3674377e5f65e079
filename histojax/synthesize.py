"""Synthesises tissue for masks, by a trained pyramid.

    python -m histojax.synthesize --workdir=RUN --masks=PATH [--masks=PATH ...] --output=DIR
    python -m histojax.synthesize --builtin --masks=PATH [--masks=PATH ...] --output=DIR

PATH is a label image (0 is background; PNG or TIFF) or a folder of them. DIR is then a folder of
image and mask pairs that `folder:DIR` reads. Images are made and written in strips, of any size;
those of a pyramid that starts from tissue (pyramid.base) up to 8192 px on each side.

With `--builtin` the tissue is the built-in model's, which needs no training, around the same
nuclei; images are then drawn whole, in memory, and `--tile` says nothing.

A pyramid's image has the colours that labels have in one of the training images, or in one of those
that `--looks=SPEC` names: images with labels, given or predicted (`histojax.masks
--form=predicted --with_images`), such as of another scanner; `training` stands for the former.
Where the pyramid starts from tissue, `--looks=own` leaves this in the colours that it is drawn in.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from absl import flags

from histojax import cli
from histojax.errors import UserError

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a pyramid's run.")
_BUILTIN = flags.DEFINE_bool("builtin", False, "Draws tissue by the built-in model instead.")
_MASKS = flags.DEFINE_multi_string(
    "masks", None, "Label image, or folder of them; repeat for more."
)
_OUTPUT = flags.DEFINE_string("output", None, "Folder of the pairs.")
_LOOKS = flags.DEFINE_multi_string(
    "looks", [], "SPEC of images whose colours are drawn, training, or own; repeat for more."
)
_SEED = flags.DEFINE_integer("seed", 0, "Of noise, colours and tissue.", lower_bound=0)
_COUNT = flags.DEFINE_integer("count", 1, "Images for each mask, by other noise.", lower_bound=1)
_TILE = flags.DEFINE_integer("tile", 512, "Largest tile, px; memory follows it.", lower_bound=1)
_MAX_PIXELS = flags.DEFINE_integer(
    "max_pixels", 2**28, "Largest mask that is decoded, px.", lower_bound=1
)


def main(argv: Sequence[str]) -> None:
    """Parses flags and synthesises."""
    del argv
    from histojax.synthesis import (
        painter,  # after flags, so that --help and bad flags answer at once
    )

    if _BUILTIN.value == (_WORKDIR.value is not None):
        raise UserError(
            "tissue is made by --workdir=RUN, a pyramid, or by --builtin: give one of the two"
        )
    if _BUILTIN.value:
        if _LOOKS.value:
            raise UserError(
                f"--looks={_LOOKS.value[0]} is for a pyramid, and --builtin draws colours of its "
                "own: leave it out"
            )
        painter.draw_files(
            [pathlib.Path(path) for path in _MASKS.value],
            pathlib.Path(_OUTPUT.value),
            seed=_SEED.value,
            count=_COUNT.value,
            max_pixels=_MAX_PIXELS.value,
        )
        return
    cli.set_up_jax()
    painter.synthesize_files(
        pathlib.Path(_WORKDIR.value),
        [pathlib.Path(path) for path in _MASKS.value],
        pathlib.Path(_OUTPUT.value),
        seed=_SEED.value,
        count=_COUNT.value,
        tile=_TILE.value,
        max_pixels=_MAX_PIXELS.value,
        looks=_LOOKS.value,
    )


if __name__ == "__main__":
    flags.mark_flags_as_required(["masks", "output"])
    cli.run(main)
