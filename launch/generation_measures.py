"""What `launch.generation_report` makes, measures and draws."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from histojax.components import content
from histojax.config import read_config
from histojax.data.sources.base import Source
from histojax.errors import UserError
from histojax.evaluation import rows as methods
from histojax.imaging import writers
from histojax.metrics import generation
from histojax.report import document
from histojax.runs import workdirs
from histojax.synthesis import painting, quality
from histojax.synthesis.tissue import Synthesizer

REAL, TRAINING, PYRAMID = "real", "real, of training", "pyramid"
# Masks of which several images are made, and how many of each.
_MASKS, _NOISES = 24, 4
_SHOWN = 8


def network_of(judge: workdirs.Run, features: str) -> tuple[str, content.FeatureNetwork]:
    """(what it is called, feature network): that of --features, or the judge's encoder.

    Raises:
        UserError: a judge whose encoder reads normalised images, or weights that cannot be had.
    """
    if features:
        name, _, path = features.partition("=")
        return name, content.pretrained_features(name, path=path, path_field=f"--features={name}")
    own = methods.own_features({"judge": judge})
    if not own:
        raise UserError(
            f"--judge={judge.workdir} reads stain-normalised images, so that its encoder does not "
            "see colours: give --features=NAME=WEIGHTS as well, or another judge"
        )
    return f"encoder of {judge.workdir}", own["segmenter"]


def check_unseen(judge: workdirs.Run, source: Source) -> None:
    """Checks that the judge was not trained on the images that it reads masks back from.

    Raises:
        UserError: if it was, as its manifest says; older runs have none.
    """
    path = judge.workdir / "manifest.json"
    if not path.is_file():
        return
    both = sorted(set(read_config(path)["train"]) & set(source.names))
    if both:
        raise UserError(
            f"--judge={judge.workdir} was trained on {both[0]}, which is among the {len(source)} "
            "images: name a judge of the same split, or other images by --data or --split"
        )


def made(
    synthesizer: Synthesizer,
    real: quality.Windows,
    train: quality.Windows,
    seed: int,
) -> dict[str, np.ndarray]:
    """Images, uint8 (N, S, S, 3), of the real squares' masks by every way that there is.

    Raises:
        UserError: a run that cannot make them, or training squares without nuclei or background.
    """
    pairs = zip(train.images, train.labels, strict=True)
    known = [found for pair in pairs if (found := painting.statistics_of(*pair)) is not None]
    if not known:
        raise UserError(
            "no training square holds both nuclei and background, whose colours are painted with: "
            "give a larger --size"
        )
    return {
        PYRAMID: quality.pyramid_images(synthesizer, real.labels, seed=seed),
        "mean colours and noise": quality.painted_images(
            real.labels, [painting.mean_statistics(known)], seed=seed
        ),
        "a square's colours and noise": quality.painted_images(real.labels, known, seed=seed),
        "synthetic tissue": quality.builtin_images(real.labels, seed=seed),
    }


def remade(synthesizer: Synthesizer, real: quality.Windows, seed: int) -> list[np.ndarray]:
    """Images of some of the masks by the pyramid, one set (N, S, S, 3) for each of a few noises."""
    masks = real.spread(_MASKS).labels
    return [
        quality.pyramid_images(synthesizer, masks, seed=seed, noise=noise)
        for noise in range(_NOISES)
    ]


def measured(
    judge: workdirs.Run,
    network: content.FeatureNetwork,
    real: quality.Windows,
    train: quality.Windows,
    images: Mapping[str, np.ndarray],
    several: Sequence[np.ndarray],
    *,
    subset: int,
    seed: int,
    mpp: float | None,
) -> tuple[list[dict[str, Any]], float, np.ndarray]:
    """The table's rows, the pyramid's diversity, and two training squares nearest to each of its.

    Args:
        judge: a segmentation run.
        network: whose features are compared.
        real, train: squares.
        images: of `made`.
        several: of `remade`.
        subset: squares of a subset of KID, as many as there are of any set or fewer.
        seed: of the subsets.
        mpp: um per px of the real squares, None where unknown.
    """
    pooled = quality.pooling(network)
    raw = pooled(train.images)

    def features(squares: np.ndarray) -> np.ndarray:
        return quality.standardized(pooled(squares), raw)

    known, wanted = quality.standardized(raw, raw), features(real.images)
    find = methods.run_segmenter(judge, [real.images.shape[1:3]], mpp=mpp)
    usual = generation.nearest(wanted, known)[1].mean()
    floor = train.spread(len(real))

    def kid(found: np.ndarray, names: tuple[str, ...]) -> tuple[float, float]:
        return (
            generation.kernel_distance(found, wanted, size=subset, seed=seed),
            generation.jackknife_error(found, wanted, names, real.names),
        )

    rows = [
        {"images": REAL, **quality.fidelity(find, real.images, real.labels), "nearest": 1.0},
        {
            "images": TRAINING,
            "kid": kid(features(floor.images), floor.names),
            **quality.fidelity(find, floor.images, floor.labels),
        },
    ]
    closest = np.zeros((0, 2), int)
    for name, squares in images.items():
        found = features(squares)
        near, distances = generation.nearest(found, known, count=min(2, len(known)))
        rows.append(
            {
                "images": name,
                "kid": kid(found, real.names),
                **quality.fidelity(find, squares, real.labels),
                "nearest": float(distances[:, 0].mean() / usual),
            }
        )
        closest = near if name == PYRAMID else closest
    spread = generation.diversity(wanted[None])
    vary = generation.diversity(np.stack([features(squares) for squares in several], 1))
    return rows, vary / spread, closest


def cells(row: Mapping[str, Any]) -> dict[str, str]:
    """A row of the table as text."""
    kid = "{:.3f} ± {:.3f}".format(*row["kid"]) if "kid" in row else "-"
    numbers = {key: row.get(key) for key in (*quality.FIDELITY, "nearest")}
    return {
        "images": row["images"],
        "KID": kid,
        **{key: "-" if value is None else f"{value:.3f}" for key, value in numbers.items()},
    }


def sheet(
    real: quality.Windows,
    train: quality.Windows,
    images: Mapping[str, np.ndarray],
    closest: np.ndarray,
) -> np.ndarray:
    """Real squares, their masks, what was made of them, and the nearest training squares."""
    rows = []
    for i in real.evenly(_SHOWN):
        row = [(REAL, real.images[i]), ("mask", writers.overlay(real.images[i], real.labels[i]))]
        row += [(name, squares[i]) for name, squares in images.items()]
        row += [("nearest to the pyramid's", train.images[j]) for j in closest[i]]
        rows.append(row)
    return writers.panels(rows)


def write(
    output: pathlib.Path, result: Mapping[str, Any], text: str, picture: np.ndarray
) -> pathlib.Path:
    """Writes generation.json, samples.png and generation.html, and returns the last."""
    writers.write_json(output / "generation.json", result)
    writers.write_png(output / "samples.png", picture)
    notes = {key: value for key, value in result.items() if key != "table"}
    path = output / "generation.html"
    squares = document.Picture("Each row is one mask.", picture)
    document.write_sections(
        path,
        title="Synthetic tissue",
        lead=result["pyramid"],
        sections=[
            document.Section("Beside real tissue", text=text),
            document.Section("What was compared", entries=notes),
            document.Section("Squares", pictures=[squares]),
        ],
    )
    return path
