"""Applies a trained run to images: enhanced image, nuclei and an index of them.

    python -m histojax.predict --model=NAME --input=PATH [--input=PATH ...] --output=DIR
    python -m histojax.predict --model=nuclei-40x --input=sample --output=out
    python -m histojax.predict --workdir=runs/joint --input=field.png --mpp=1 --output=out

writes what the run makes of each image NAME, and index.html, and replaces files of these names:

    NAME.sr.tif             the enhanced image
    NAME.labels.tif         the nuclei over the image, numbered from 1
    NAME.sr.labels.tif      the same nuclei over the enhanced image
    NAME.classes.tif        the number of each pixel's class
    NAME.csv                a line of measurements for each nucleus (docs/reference/measurements.md)
    NAME.geojson            the outlines of the nuclei, for QuPath
    NAME.sr.geojson         the same in px of the enhanced image
    NAME.html               a page: places with outlines, density, distributions, times
    NAME.predicted.json     what they were made of: an image is predicted once by a model

Nuclei are looked for at the scale that the run was trained for. Images go region by region, and
what was done is not done again after a stop. A tiled TIFF or a slide may have any size.
Slides go without their glass; their outlines are compressed, as NAME.geojson.gz.
With --mosaic the images are overlapping fields: they are joined first, as histojax.stitch does.
"""

import pathlib
from collections.abc import Sequence

from absl import flags

from histojax import cli
from histojax.errors import UserError

_WORKDIR = flags.DEFINE_string("workdir", None, "The folder of a run, or of a chain of runs.")
_MODEL = flags.DEFINE_string(
    "model", None, "A model in the box, such as nuclei-40x, or a model's file; list names them all."
)
_CARD = flags.DEFINE_bool("card", False, "Print the card of --model and do nothing else.")
_INPUT = flags.DEFINE_multi_string(
    "input",
    None,
    "An image, or a folder of images, such as --input=field.png; sample is fields in the box.",
)
_OUTPUT = flags.DEFINE_string("output", None, "The folder that results are written to.")
_OUTPUTS = flags.DEFINE_list(
    "outputs",
    None,
    "What to write, such as sr,labels; by default all that the run makes but parquet.",
)
_MPP = flags.DEFINE_float(
    "mpp", None, "Micrometres per pixel of the input, such as 0.25; by default the file states it."
)
_DIAMETER = flags.DEFINE_float(
    "nucleus_diameter", None, "Median diameter of the input's nuclei, px, where mpp is unknown."
)
_OVERWRITE = flags.DEFINE_bool(
    "overwrite", False, "Predict images again that this model has predicted with the same flags."
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
_ENHANCE = flags.DEFINE_bool(
    "enhance", False, "Write the enhanced image of a slide too, by a run that also finds nuclei."
)
_REGION = flags.DEFINE_list(
    "region",
    None,
    "The part of a slide that is predicted, X,Y,WIDTH,HEIGHT in px of its full resolution, such "
    "as --region=1000,2000,4096,4096; by default all of it.",
)
_READ_MPP = flags.DEFINE_float(
    "read_mpp",
    None,
    "Micrometres per pixel at which a slide is read to be enhanced, such as 1; by default an "
    "enhancer reads the full resolution, and a run that also finds nuclei that of its training.",
)
_WINDOW = flags.DEFINE_integer(
    "window", 3072, "Side of the regions of an image, px; a few of them are in memory at once.", 384
)
_BATCH = flags.DEFINE_integer("batch", 1, "Tiles that each device sees at once.", 1)
_WORKERS = flags.DEFINE_integer(
    "workers", 2, "Regions that are post-processed while the network goes on.", 1
)
_EXPANSION = flags.DEFINE_float(
    "cell_expansion",
    5.0,
    "Micrometres by which cells reach beyond their nuclei; 0 leaves cells out.",
    0.0,
)
_MAX_OUTPUT = flags.DEFINE_integer("max_output_pixels", 2**31, "The largest enhanced image, px.", 1)
_SKIP_GLASS = flags.DEFINE_bool(
    "skip_glass", True, "Leave out what shows no tissue; --noskip_glass predicts all of a slide."
)
_MOSAIC = flags.DEFINE_bool(
    "mosaic",
    False,
    "Join the images, overlapping fields in any order, and predict the mosaic; each nucleus "
    "counts once.",
)
_PARTS = flags.DEFINE_integer(
    "num_parts", 1, "Processes that share the images, such as the tasks of a SLURM array.", 1
)
_PART = flags.DEFINE_integer(
    "part", 0, "Which share of the images this process predicts, from 0 to num_parts - 1.", 0
)


def main(argv: Sequence[str]) -> None:
    """Parses flags and predicts."""
    del argv
    # After the flags, so that --help and wrong flags answer at once.
    from histojax.zoo import registry

    if _MODEL.value == "list":
        print(registry.listing())
        return
    if _CARD.value:
        if not _MODEL.value:
            raise UserError("--card prints the card of a model: name it by --model=NAME")
        print(registry.card_of(_MODEL.value))
        return
    if bool(_MODEL.value) == bool(_WORKDIR.value):
        raise UserError("--model=NAME or --workdir=DIR says what predicts: give one of the two")
    if _PART.value >= _PARTS.value:
        raise UserError(
            f"--part={_PART.value} is not below --num_parts={_PARTS.value}: parts count from 0"
        )
    if _MOSAIC.value and _PARTS.value > 1:
        raise UserError("--mosaic joins all fields into one image: leave --num_parts out")
    inputs, output = _INPUT.value, _OUTPUT.value
    if not (inputs and output):
        missing = "output" if inputs else "input"
        raise UserError(f"--{missing} is missing, and has no default; give it as --{missing}=...")
    from histojax.inference import batch
    from histojax.inference.regions.view import Options
    from histojax.runs import workdirs

    cli.set_up_jax()
    # As names of models: ./sample is a folder of the user's own.
    in_box = {"sample": registry.SAMPLES}
    batch.predict_files(
        workdirs.place_of(_MODEL.value or str(_WORKDIR.value)),
        [in_box.get(path, pathlib.Path(path)) for path in inputs],
        pathlib.Path(output),
        outputs=_OUTPUTS.value,
        mpp=_MPP.value,
        nucleus_diameter=_DIAMETER.value,
        tile=_TILE.value,
        ensemble=_ENSEMBLE.value,
        max_pixels=_MAX_PIXELS.value,
        overwrite=_OVERWRITE.value,
        options=Options(
            enhance=_ENHANCE.value,
            region=_box(_REGION.value),
            read_mpp=_READ_MPP.value,
            window=_WINDOW.value,
            batch=_BATCH.value,
            workers=_WORKERS.value,
            cell_expansion=_EXPANSION.value,
            max_output_pixels=_MAX_OUTPUT.value,
            skip_glass=_SKIP_GLASS.value,
        ),
        part=(_PART.value, _PARTS.value),
        mosaic=_MOSAIC.value,
    )


def _box(texts: Sequence[str] | None) -> tuple[int, int, int, int] | None:
    """--region as numbers."""
    if texts is None:
        return None
    try:
        x, y, width, height = map(int, texts)
    except ValueError:
        raise UserError(
            f"--region={','.join(texts)} is not four whole numbers: give X,Y,WIDTH,HEIGHT in px"
        ) from None
    return x, y, width, height


if __name__ == "__main__":
    cli.run(main)
