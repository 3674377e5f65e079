"""Makes label images to synthesise tissue from, of the labelled images of a data set.

    python -m histojax.masks --workdir=RUN --output=DIR [--kind=replaced] [--count=100]

makes them of what RUN was trained on, and of no other image: with data.labelled below 1, of that
share of the patients. `--data=SPEC` is for the training split of other data. See
`histojax.synthesis.mask_bank` for the forms.

    python -m histojax.masks --workdir=RUN --kind=predicted --output=DIR [--images=SPEC]

makes them of what RUN, a pyramid or a segmenter, finds in images without labels, where it is sure:
by default in those of the training patients that data.labelled leaves out. With `--with_images`
these are written beside the masks, as pairs that `folder:DIR` reads, such as for data.extra.

The masks are DIR/NAME.tif (DIR/instances/NAME.tif beside images), uint32, 0 is background; `python
-m histojax.synthesize --masks=DIR` makes tissue for them.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from absl import flags

from histojax import cli
from histojax.cli import say
from histojax.data.sources import specs
from histojax.errors import UserError
from histojax.synthesis import mask_bank

_PREDICTED = "predicted"

_WORKDIR = flags.DEFINE_string("workdir", None, "Run whose training images are used.")
_DATA = flags.DEFINE_string("data", None, "SPEC of labelled images, instead.")
_SPLIT = flags.DEFINE_string("split", "train", "Of --data: train, val, test or all.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder of the masks.")
_FORM = flags.DEFINE_enum(
    "kind",
    "replaced",
    (*mask_bank.KINDS, _PREDICTED),
    "Windows turned about, nuclei placed anew, or predicted for images without labels.",
)
_IMAGES = flags.DEFINE_string("images", "rest", "SPEC of images without labels, for predicted.")
_CONFIDENCE = flags.DEFINE_float(
    "confidence", 0.8, "Of predicted masks at least, mean of |2 p - 1|.", 0.0, 1.0
)
_WITH_IMAGES = flags.DEFINE_bool(
    "with_images", False, "Whether predicted masks are written beside their images, as pairs."
)
_COUNT = flags.DEFINE_integer("count", 100, "How many masks.", lower_bound=1)
_SIZE = flags.DEFINE_integer("size", 256, "Their side, px.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Of what is drawn.", lower_bound=0)


def main(argv: Sequence[str]) -> None:
    """Parses flags and makes masks."""
    del argv
    from histojax.runs import run_data  # after flags, so that --help and bad flags answer at once

    output = pathlib.Path(_OUTPUT.value)
    if _FORM.value == _PREDICTED:
        predict(output)
        return
    if _WITH_IMAGES.value:
        raise UserError(
            "--with_images is for --kind=predicted: masks of the other forms belong to no image"
        )
    if (_WORKDIR.value is None) == (_DATA.value is None):
        raise UserError(
            "masks are made of --workdir=RUN, what it was trained on, or of --data=SPEC: give one "
            "of the two"
        )
    if _DATA.value is not None:
        source = specs.open_source(_DATA.value, split=_SPLIT.value)
    else:
        source = run_data.labelled_source(pathlib.Path(_WORKDIR.value))
    mask_bank.write_masks(
        source, output, kind=_FORM.value, count=_COUNT.value, size=_SIZE.value, seed=_SEED.value
    )
    say(f"{_COUNT.value} masks in {output}, of {len(source)} images")


def predict(output: pathlib.Path) -> None:
    """Makes masks of what a run finds in images without labels."""
    from histojax.runs import run_data, workdirs
    from histojax.synthesis import pseudo_labels

    if _WORKDIR.value is None:
        raise UserError("--kind=predicted needs --workdir=RUN, which finds the nuclei: give it")
    if _DATA.value is not None:
        raise UserError("--kind=predicted is made of --images=SPEC: give that instead of --data")
    cli.set_up_jax()
    run = workdirs.load(pathlib.Path(_WORKDIR.value))
    config = run.config.copy_and_resolve_references()
    with config.data.unlocked():  # runs from before there was one lack it
        config.data.unlabelled = _IMAGES.value
    source = run_data.open_unlabelled(config)
    count = pseudo_labels.write_masks(
        run,
        source,
        output,
        count=_COUNT.value,
        size=_SIZE.value,
        least=_CONFIDENCE.value,
        seed=_SEED.value,
        images=_WITH_IMAGES.value,
    )
    say(f"{count} masks in {output}, predicted in {len(source)} images")


if __name__ == "__main__":
    flags.mark_flags_as_required(["output"])
    cli.run(main)
