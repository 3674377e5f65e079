"""How good a pyramid's tissue is, against real tissue and tissue that is made more simply.

    python -m launch.generation_report --workdir=runs/pyramid --judge=runs/use_net --output=out

The pyramid makes squares of `--size` px for masks of its val images. The same masks are also
painted in the mean colours of the training images, painted in the colours of one training square,
both with noise like theirs, and drawn by the built-in model. Real val and training squares complete
the table:

    KID        distance to the real squares by features of the judge's encoder (--features=NAME=
               WEIGHTS: of another network), standardised by the training squares; the mean over 100
               subsets, and its error by leaving out image by image
    dice, aji  of what the judge, a segmentation run on real images, finds in the squares, against
               the masks
    nearest    mean distance to the nearest training square, over that of the real squares; far
               below 1, training images come back
    diversity  mean distance between images of one mask and one set of colours, over that between
               real squares

Writes generation.json and samples.png to OUTPUT and prints the table.
"""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from absl import flags

from histojax import cli
from histojax.cli import say
from histojax.components import content
from histojax.data import stain_matching
from histojax.data.sources.base import Source
from histojax.errors import UserError
from histojax.evaluation import rows as scored
from histojax.imaging import writers
from histojax.metrics import generation
from histojax.report.table import text_table
from histojax.runs import run_data, workdirs
from histojax.synthesis import painting, quality
from histojax.synthesis.tissue import Synthesizer

Images = dict[str, np.ndarray]  # uint8 (N, S, S, 3) of each way to make them
REAL, TRAINING, PYRAMID = "real", "real, of training", "pyramid"
# Masks of which several images are made, images of each, and masks in samples.png.
_MASKS, _NOISES, _SHOWN = 24, 4, 8

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Workdir of the pyramid. Example: --workdir=runs/pyramid"
)
_JUDGE = flags.DEFINE_string(
    "judge", None, "Workdir of a segmenter of real images. Example: --judge=runs/use_net"
)
_OUTPUT = flags.DEFINE_string("output", None, "Empty folder of the report. Example: --output=out")
_DATA = flags.DEFINE_string(
    "data", "", "SPEC of the real images; by default the pyramid's. Example: --data=folder:other"
)
_SPLIT = flags.DEFINE_string(
    "split", "val", "Split of the real images: train, val, test or all. Example: --split=test"
)
_SIZE = flags.DEFINE_integer("size", 256, "Side of the squares, px. Example: --size=128", 32)
_COUNT = flags.DEFINE_integer("count", 400, "Squares at most. Example: --count=100", 2)
_SUBSET = flags.DEFINE_integer("subset", 50, "Squares of a KID subset. Example: --subset=20", 2)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of noise, colours and subsets. Example: --seed=1", 0)
_FEATURES = flags.DEFINE_string(
    "features",
    "",
    "Network NAME[=WEIGHTS] of the features: vgg19, vgg16 or squeezenet1_1; by default the judge's "
    "encoder. Example: --features=squeezenet1_1",
)


def network_of(judge: workdirs.Run, features: str) -> tuple[str, content.FeatureNetwork]:
    """(name, feature network): that of --features, or the judge's encoder.

    Raises:
        UserError: a judge whose encoder reads normalised images, or weights that cannot be read.
    """
    if features:
        name, _, path = features.partition("=")
        return name, content.pretrained_features(name, path=path, path_field=f"--features={name}")
    own = scored.own_features({"judge": judge})
    if not own:
        raise UserError(
            f"--judge={judge.workdir} reads stain-normalised images, so that its encoder does not "
            "see colours: give --features=NAME=WEIGHTS as well, or another judge"
        )
    return f"encoder of {judge.workdir}", own["segmenter"]


def check_unseen(judge: workdirs.Run, source: Source, spec: str) -> None:
    """Refuses a judge that has seen the real images, of a SPEC, in training."""
    one_set = judge.config.data.source == spec
    if seen := run_data.seen_in(source, [judge.workdir], one_set=one_set, allowed=True):
        raise UserError(
            f"--judge={judge.workdir} has learnt from {len(seen)} of the {len(source)} real images "
            f"({', '.join(list(seen)[:3])}): name another judge, --data or --split"
        )


def made(
    run: workdirs.Run, real: quality.Windows, train: quality.Windows, seed: int
) -> tuple[Images, list[np.ndarray]]:
    """Images of the real squares' masks by each way, and several of some by noise.

    Raises:
        UserError: a run that cannot make them, or training squares without nuclei or background.
    """
    pairs = zip(train.images, train.labels, strict=True)
    known = [found for pair in pairs if (found := painting.statistics_of(*pair)) is not None]
    if not known:
        raise UserError("no training square holds both nuclei and background: give a larger --size")
    synthesizer, mean = Synthesizer(run), painting.mean_statistics(known)
    images = {
        PYRAMID: quality.pyramid_images(synthesizer, real.labels, seed=seed),
        "mean colours and noise": quality.painted_images(real.labels, [mean], seed=seed),
        "a square's colours and noise": quality.painted_images(real.labels, known, seed=seed),
        "synthetic tissue": quality.builtin_images(real.labels, seed=seed),
    }
    some, noises = real.spread(_MASKS).labels, range(_NOISES)
    return images, [quality.pyramid_images(synthesizer, some, seed=seed, noise=n) for n in noises]


def measured(
    find: Callable[[np.ndarray], Any],
    network: content.FeatureNetwork,
    real: quality.Windows,
    train: quality.Windows,
    images: Images,
    several: Sequence[np.ndarray],
    *,
    subset: int,
    seed: int,
) -> tuple[list[dict[str, Any]], float, np.ndarray]:
    """The table's rows, the pyramid's diversity, and two training squares nearest to each of its.

    `find` is the judge, image -> its nuclei; `images` and `several` are those of `made`; no set has
    fewer squares than the `subset` of KID.
    """
    pooled = quality.pooling(network)
    raw = pooled(train.images)

    def features(squares: np.ndarray) -> np.ndarray:
        return quality.standardized(pooled(squares), raw)

    def row(name: str, squares: np.ndarray, like: quality.Windows) -> dict[str, Any]:
        found = features(squares)
        distance = generation.kernel_distance(found, wanted, size=subset, seed=seed)
        error = generation.jackknife_error(found, wanted, like.names, real.names)
        scores = quality.fidelity(find, squares, like.labels)
        return {"images": name, "KID": distance, "KID error": error, **scores}

    known, wanted = quality.standardized(raw, raw), features(real.images)
    usual = generation.nearest(wanted, known)[1].mean()
    scores = quality.fidelity(find, real.images, real.labels)
    rows = [{"images": REAL, "KID": None, "KID error": None, **scores, "nearest": 1.0}]
    floor = train.spread(len(real))
    rows.append(row(TRAINING, floor.images, floor))
    closest = {}
    for name, squares in images.items():
        closest[name], distances = generation.nearest(features(squares), known, count=2)
        near = float(distances[:, 0].mean() / usual)
        rows.append({**row(name, squares, real), "nearest": near})
    vary = generation.diversity(np.stack([features(squares) for squares in several], 1))
    return rows, vary / generation.diversity(wanted[None]), closest[PYRAMID]


def sheet(
    real: quality.Windows, train: quality.Windows, images: Images, closest: np.ndarray
) -> np.ndarray:
    """Real squares, their masks, what was made for them, and the nearest training squares."""
    rows = []
    for i in real.evenly(_SHOWN):
        row = [(REAL, real.images[i]), ("mask", writers.overlay(real.images[i], real.labels[i]))]
        row += [(name, squares[i]) for name, squares in images.items()]
        row += [("nearest to the pyramid's", train.images[j]) for j in closest[i]]
        rows.append(row)
    return writers.panels(rows)


def main(argv: Sequence[str]) -> None:
    """Parses flags, makes images, measures and writes."""
    del argv
    output, size, seed = pathlib.Path(_OUTPUT.value), _SIZE.value, _SEED.value
    writers.check_empty(output)
    places = (workdirs.place_of(str(flag.value)) for flag in (_WORKDIR, _JUDGE))
    run, judge = map(workdirs.load, places)
    stage = judge.config.stage
    if stage != "segmentation":
        raise UserError(f"--judge={judge.workdir} is of stage {stage}: name one of segmentation")
    name, network = network_of(judge, _FEATURES.value)
    config = run_data.without_extra(run.config)
    spec = _DATA.value or config.data.source
    kept = run_data.kept_splits(run.workdir) if spec == config.data.source else None
    config.data.source = spec
    source = run_data.open_split(config, _SPLIT.value, fields=("instances",), kept=kept)
    check_unseen(judge, source, spec)
    known = run_data.labelled_source(run.workdir)
    matching = stain_matching.build(run.config, run.meta)
    if matching is not None:  # the pyramid's tissue has the stain of its target
        source, known = matching.source(source), matching.source(known)
    real = quality.windows_of(source, size).spread(_COUNT.value)
    train = quality.windows_of(known, size)
    say(f"making squares of {size} px for {len(real)} masks, with {len(train)} training squares")
    images, several = made(run, real, train, seed)
    say("measuring")
    find = scored.run_segmenter(judge, [(size, size)], mpp=source.mpp)
    subset = min(_SUBSET.value, len(real), len(train))  # of one size for all sets
    sets = (real, train, images, several)
    rows, diversity, closest = measured(find, network, *sets, subset=subset, seed=seed)
    report = {
        "pyramid": run.workdir,
        "step": run.step,
        "judge": judge.workdir,
        "features": f"{name}: {', '.join(network.layers)}",
        "data": f"{spec}, {_SPLIT.value}, {len(real)} squares of {size} px",
        "subset": subset,
        "seed": seed,
        "diversity": diversity,
        "table": rows,
    }
    writers.write_json(output / "generation.json", report)
    writers.write_png(output / "samples.png", sheet(real, train, images, closest))
    print(f"{text_table(rows)}\ndiversity {diversity:.3f}\n\n{output / 'samples.png'}")


if __name__ == "__main__":
    flags.mark_flags_as_required(["workdir", "judge", "output"])
    cli.run(main)
