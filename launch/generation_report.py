"""How good a pyramid's tissue is, beside tissue that is made more simply: numbers and pictures.

    python -m launch.generation_report --workdir=runs/pyramid --judge=runs/use_net --output=out

Squares of `--size` px out of the pyramid's val images are made anew for their masks: by the
pyramid, by painting them in the mean colours of the training images and in those of one training
square, both with noise like theirs, and by the built-in model of synthetic tissue. What stands
beside them are the real squares themselves, and real squares of the training images.

    KID        to the real squares, by features of the judge's encoder (--features=NAME=WEIGHTS: of
               another network), each standardised by those of the training squares; mean over
               100 subsets, of one size for all, and the error by leaving out image by image
    Dice, AJI  of what the judge, a segmentation run that was trained on real images, finds in them,
               against the masks that they were made for
    nearest    mean distance to the nearest training square, over that of the real squares: far
               below 1 training images come back
    diversity  mean distance between images of one mask and one set of colours, over that between
               real squares

Writes generation.json, generation.html and samples.png to OUTPUT.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from absl import flags

from histojax import cli
from histojax.cli import say
from histojax.data import stain_matching
from histojax.errors import UserError
from histojax.imaging import writers
from histojax.runs import run_data, workdirs
from histojax.synthesis import quality
from histojax.synthesis.tissue import Synthesizer
from launch import generation_measures as measures
from launch.benchmark_tables import aligned

_WORKDIR = flags.DEFINE_string("workdir", None, "Run of a pyramid.")
_JUDGE = flags.DEFINE_string("judge", None, "Segmentation run trained on real images.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder of the report.")
_DATA = flags.DEFINE_string("data", "", "SPEC of other images to compare with.")
_SPLIT = flags.DEFINE_string("split", "val", "Of the images: train, val, test or all.")
_SIZE = flags.DEFINE_integer("size", 256, "Side of the squares, px.", 32)
_COUNT = flags.DEFINE_integer("count", 400, "Squares at most, evenly spread.", 2)
_SUBSET = flags.DEFINE_integer("subset", 50, "Squares of a subset of KID.", 2)
_SEED = flags.DEFINE_integer("seed", 0, "Of what is drawn.", 0)
_FEATURES = flags.DEFINE_string("features", "", "NAME=WEIGHTS: vgg19 or squeezenet1_1.")


def main(argv: Sequence[str]) -> None:
    """Parses flags, makes images, measures and writes."""
    del argv
    output, size, seed = pathlib.Path(_OUTPUT.value), _SIZE.value, _SEED.value
    writers.check_empty(output)
    run, judge = (workdirs.load(pathlib.Path(flag.value)) for flag in (_WORKDIR, _JUDGE))
    if judge.config.stage != "segmentation":
        raise UserError(
            f"--judge={judge.workdir} is a run of stage {judge.config.stage}: name one of stage "
            "segmentation"
        )
    name, network = measures.network_of(judge, _FEATURES.value)
    config = run_data.without_extra(run.config)
    if _DATA.value:
        config.data.source = _DATA.value
    source = run_data.open_split(config, _SPLIT.value, fields=("instances",))
    measures.check_unseen(judge, source)
    train = run_data.labelled_source(run.workdir)
    matching = stain_matching.build(run.config, run.meta)
    if matching is not None:  # what the pyramid makes has its target's stain
        source, train = matching.source(source), matching.source(train)
    real = quality.windows_of(source, size).spread(_COUNT.value)
    train = quality.windows_of(train, size)
    synthesizer = Synthesizer(run)
    say(f"{len(real)} squares of {size} px and {len(train)} of training images: making others")
    images = measures.made(synthesizer, real, train, seed)
    several = measures.remade(synthesizer, real, seed)
    # One size for all sets, or they could not be compared.
    subset = min(_SUBSET.value, len(real), len(train))
    say("measuring")
    rows, diversity, closest = measures.measured(
        judge,
        network,
        real,
        train,
        images,
        several,
        subset=subset,
        seed=seed,
        mpp=source.mpp,
    )
    result = {
        "pyramid": str(run.workdir),
        "step": run.step,
        "judge": str(judge.workdir),
        "features": f"{name}: {', '.join(network.layers)}",
        "data": f"{config.data.source}, {_SPLIT.value}, {len(real)} squares of {size} px",
        "subset": subset,
        "seed": seed,
        "diversity": diversity,
        "table": rows,
    }
    text = f"{aligned([measures.cells(row) for row in rows])}\ndiversity {diversity:.3f}"
    path = measures.write(output, result, text, measures.sheet(real, train, images, closest))
    print(f"{text}\n\n{path}")


if __name__ == "__main__":
    flags.mark_flags_as_required(["workdir", "judge", "output"])
    cli.run(main)
