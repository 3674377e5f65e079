"""Pseudo-labels: masks that a trained run predicts with confidence for images without labels.

With their images they are pairs to train on (Lee 2013).
"""

import functools
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from skimage.segmentation import relabel_sequential

from histojax.cli import say
from histojax.data import identity
from histojax.data.sources.base import Source
from histojax.errors import UserError
from histojax.imaging import tiling, writers
from histojax.inference import labeling, tiled
from histojax.runs import run_data, workdirs
from histojax.stages.base import segments
from histojax.stages.pyramid import Pyramid


def confidence(probability: np.ndarray) -> float:
    """How confident a map (H, W) of foreground probabilities is: mean of |2 p - 1|, 0 to 1."""
    return float(np.mean(np.abs(2.0 * np.asarray(probability, np.float64) - 1.0)))


def unlabelled(run: workdirs.Run, spec: str) -> Source:
    """The images that a run would learn from with data.unlabelled=spec."""
    config = run.config.copy_and_resolve_references()
    config.data.unlabelled = spec
    return run_data.open_unlabelled(config, kept=run.meta["data"]["splits"])


def write_masks(
    run: workdirs.Run,
    source: Source,
    folder: pathlib.Path,
    count: int,
    size: int,
    seed: int,
    *,
    least: float,
    images: bool = False,
) -> int:
    """Writes masks of squares of a source's images as folder/mask00000.tif and so on, uint32.

    Squares of a grid, `size` px a side, are taken where the run's foreground map has the confidence
    `least` (0 to 1) and holds a nucleus. Each image gives about as many, `count` in all at most.
    Labels of the source are not used. folder/predicted.json names the squares. With `images`, masks
    are in folder/instances and their images in folder/images: `folder:FOLDER` reads pairs.
    folder/seen.json names the images that the run has learnt from, and these.

    Returns:
        How many were written.

    Raises:
        UserError: for a folder with files in it, a run without a segmenter, or where no square is
            large and confident enough.
    """
    writers.check_empty(folder)
    place = folder / "instances" if images else folder
    save = functools.partial(writers.stream_tiff, height=size, width=size, mpp=source.mpp)
    written: dict[str, dict[str, Any]] = {}
    for where, image, mask in _confident_squares(run, source, count, size, seed, least):
        name = f"mask{len(written):05d}"
        save(place / f"{name}.tif", [mask.astype(np.uint32)])
        if images:
            save(folder / "images" / f"{name}.tif", [image])
        written[name] = where
    if images:
        known = {} if source.mpp is None else {"mpp": source.mpp}
        writers.write_json(folder / "dataset.json", known)
    writers.write_json(folder / "predicted.json", {"run": str(run.workdir), "squares": written})
    identity.write_seen(folder, run_data.seen_by(run.meta["data"]), identity.entries_of(source))
    say(f"{len(written)} masks in {folder}, predicted in {len(source)} images")
    return len(written)


def _confident_squares(
    run: workdirs.Run, source: Source, count: int, size: int, seed: int, least: float
) -> Iterator[tuple[dict[str, Any], np.ndarray, np.ndarray]]:
    """At most `count` squares of `write_masks`: their places, images and nuclei, labels from 1."""
    _check(run)
    network = tiled.segmenter(run)
    # Fitted parameters have seen labels of the val images, on which later runs may be scored.
    parameters = labeling.parameters_of(run, fitted=False)
    rng = np.random.default_rng(seed)
    taken, highest = 0, -1.0
    for turn, index in enumerate(rng.permutation(len(source))):
        image = source[int(index)]["hr"]
        maps = network(image)
        found = labeling.find(run, maps, parameters, mpp=source.mpp).instances
        # The next images make up for what one image falls short by.
        share = -(-(count - taken) // (len(source) - turn))
        height, width = image.shape[:2]
        squares = tiling.squares(height, width, size)
        for number in rng.permutation(len(squares)):
            part = squares[number]
            sure = confidence(maps["mask"][part][..., 0])
            highest = max(highest, sure)
            if sure < least or not found[part].any():
                continue
            where = {"image": source.names[int(index)], "y": part[0].start, "x": part[1].start}
            yield where, image[part], relabel_sequential(found[part].copy())[0]
            taken, share = taken + 1, share - 1
            if share == 0:
                break
        if taken == count:
            return
    if highest < 0:
        raise UserError(f"no image has {size} x {size} px: ask for smaller masks")
    if not taken:
        raise UserError(
            f"no square of {size} px with nuclei reaches the confidence {least}, {highest:.3f} "
            "being the highest: lower --confidence, or train the run for longer"
        )


def _check(run: workdirs.Run) -> None:
    found, remedy = "", "name a segmentation run, or a pyramid with labels='contour' or 'mask'"
    if not segments(run.stage):
        found = f"is a run of stage {run.config.stage}, which finds no nuclei"
    elif isinstance(run.stage, Pyramid) and run.stage.labels.kind == "classes":
        found = "finds classes, and masks are made of nuclei"
    if found:
        raise UserError(f"{run.workdir} {found}: {remedy}")
