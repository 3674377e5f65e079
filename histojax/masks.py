"""Makes label images to synthesise tissue from, of the labelled images of a data set.

    python -m histojax.masks --workdir=RUN --output=DIR [--kind=replaced] [--count=100]

takes the labelled images that RUN was trained on, and no other; `--data=SPEC` names other images.

    python -m histojax.masks --workdir=RUN --kind=predicted --output=DIR [--images=SPEC]

takes the nuclei that RUN, a pyramid or a segmenter, finds with confidence in images without labels.
`--with_images` writes the images too, as pairs that `folder:DIR` reads, such as for data.extra.
"""

import pathlib
from collections.abc import Sequence

from absl import flags

from histojax import cli
from histojax.errors import UserError

_WORKDIR = flags.DEFINE_string("workdir", None, "Run whose training images are used.")
_DATA = flags.DEFINE_string("data", None, "SPEC of labelled images to use, such as folder:DATA.")
_SPLIT = flags.DEFINE_string("split", "train", "Split of --data: train, val, test or all.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder that the masks are written to.")
_KIND = flags.DEFINE_enum(
    "kind",
    "replaced",
    ("turned", "replaced", "predicted"),
    "Kind of masks: turned windows of labelled images, their nuclei replaced, or predicted.",
)
_IMAGES = flags.DEFINE_string(
    "images", "rest", "SPEC of images to predict in; rest: training patients without labels."
)
_CONFIDENCE = flags.DEFINE_float(
    "confidence", 0.8, "Least confidence of predicted masks, mean of |2 p - 1|.", 0.0, 1.0
)
_WITH_IMAGES = flags.DEFINE_bool("with_images", False, "Writes predicted masks with their images.")
_COUNT = flags.DEFINE_integer("count", 100, "Number of masks.", lower_bound=1)
_SIZE = flags.DEFINE_integer("size", 256, "Side of a mask, px.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the random draws.", lower_bound=0)


def main(argv: Sequence[str]) -> None:
    """Parses flags and makes masks."""
    del argv
    predicted, workdir, data = _KIND.value == "predicted", _WORKDIR.value, _DATA.value
    if predicted and workdir is None:
        raise UserError("--kind=predicted needs --workdir=RUN, which finds the nuclei: give it")
    if predicted and data is not None:
        raise UserError("--kind=predicted reads --images=SPEC: give that instead of --data")
    if _WITH_IMAGES.value and not predicted:
        raise UserError("--with_images is for --kind=predicted: other masks belong to no image")
    if (workdir is None) == (data is None):
        raise UserError("masks are made of --workdir=RUN or of --data=SPEC: give one of the two")
    output, size = pathlib.Path(str(_OUTPUT.value)), (_COUNT.value, _SIZE.value, _SEED.value)
    # After the flags, so that --help and bad flags answer at once.
    from histojax.data.sources import specs
    from histojax.runs import run_data, workdirs
    from histojax.synthesis import mask_bank, pseudo_labels

    if predicted:
        cli.set_up_jax()
        run = workdirs.load(workdirs.place_of(str(workdir)))
        source = pseudo_labels.unlabelled(run, _IMAGES.value)
        least, images = _CONFIDENCE.value, _WITH_IMAGES.value
        pseudo_labels.write_masks(run, source, output, *size, least=least, images=images)
        return
    if workdir is None:
        source = specs.open_source(str(data), split=_SPLIT.value)
    else:
        source = run_data.labelled_source(workdirs.place_of(workdir))
    mask_bank.write_masks(source, output, _KIND.value, *size)


if __name__ == "__main__":
    flags.mark_flags_as_required(["output"])
    cli.run(main)
