"""Masks of images without labels, as a trained run predicts them, where it is sure of them.

Beside their images they are pairs to train on: pseudo-labels (Lee 2013).
"""

from __future__ import annotations

import pathlib

import numpy as np

from histojax.data.sources.base import Source
from histojax.errors import UserError
from histojax.imaging import tiling, writers
from histojax.inference import labeling, tiled
from histojax.runs import workdirs
from histojax.stages.base import segments
from histojax.synthesis.mask_bank import renumbered


def confidence(probability: np.ndarray) -> float:
    """How sure a map (H, W) of foreground probabilities is: mean of |2 p - 1|, 0 to 1."""
    return float(np.mean(np.abs(2.0 * np.asarray(probability, np.float64) - 1.0)))


def write_masks(
    run: workdirs.Run,
    source: Source,
    folder: pathlib.Path,
    *,
    count: int,
    size: int,
    least: float,
    seed: int,
    images: bool = False,
) -> int:
    """Writes masks of squares of a source's images as folder/mask00000.tif and so on, uint32.

    With their images they are in folder/instances, and these in folder/images. Squares of a grid
    are taken where the run's foreground map is sure and there is a nucleus, about as many of each
    image. Which these are is in folder/predicted.json.

    Args:
      run: with a segmenter; its labels alone are looked at, none of the source's.
      source: images.
      folder: empty or not there.
      count: masks at most.
      size: their side, px.
      least: confidence from which a square is taken, 0 to 1.
      seed: of which squares.
      images: whether the images' own squares are written too, so that `folder:FOLDER` reads pairs.

    Returns:
      How many were written.

    Raises:
      UserError: for a folder with files in it, a run without a segmenter, or where no square is
        large and sure enough.
    """
    writers.check_empty(folder)
    if not segments(run.stage):
        raise UserError(
            f"{run.workdir} is a run of stage {run.config.stage}, which finds no nuclei: name a "
            "pyramid or a segmentation run"
        )
    labels = getattr(run.stage, "labels", None)
    if labels is not None and labels.kind == "classes":
        raise UserError(
            f"{run.workdir} tells classes apart and not nuclei, whose masks are made here: name a "
            "pyramid with pyramid.labels='contour' or 'mask', or a segmentation run"
        )
    network = tiled.segmenter(run)
    # What was fitted has seen labels of the val images, on which pupils may be scored.
    parameters = labeling.parameters_of(run, fitted=False)
    rng = np.random.default_rng(seed)
    written, highest = {}, None
    for turn, index in enumerate(rng.permutation(len(source))):
        image = source[int(index)]["hr"]
        maps = network(image)
        found = labeling.find(run, maps, parameters, mpp=source.mpp).instances
        # What one image falls short by, the next ones make up for.
        share = -(-(count - len(written)) // (len(source) - turn))
        squares = tiling.squares(*image.shape[:2], size)
        for number in rng.permutation(len(squares)):
            part = squares[number]
            sure = confidence(maps["mask"][part][..., 0])
            highest = sure if highest is None else max(highest, sure)
            if sure < least or not found[part].any():
                continue
            name = f"mask{len(written):05d}"
            mask = renumbered(found[part]).astype(np.uint32)
            place = folder / "instances" if images else folder
            writers.stream_tiff(
                place / f"{name}.tif", [mask], height=size, width=size, mpp=source.mpp
            )
            if images:
                path = folder / "images" / f"{name}.tif"
                writers.stream_tiff(path, [image[part]], height=size, width=size, mpp=source.mpp)
            written[name] = {
                "image": source.names[int(index)],
                "y": part[0].start,
                "x": part[1].start,
            }
            share -= 1
            if share == 0:
                break
        if len(written) == count:
            break
    if highest is None:
        raise UserError(f"no image has {size} x {size} px: ask for smaller masks")
    if not written:
        raise UserError(
            f"in no square of {size} px with nuclei is the run {least} sure or more, {highest:.3f} "
            "being the highest: lower --confidence, or train it for longer"
        )
    if images:
        known = {} if source.mpp is None else {"mpp": source.mpp}
        writers.write_json(folder / "dataset.json", known)
    writers.write_json(folder / "predicted.json", {"run": str(run.workdir), "squares": written})
    return len(written)
