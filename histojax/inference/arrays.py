"""Prediction in Python: an array in, arrays out, no files."""

import dataclasses
import pathlib
import tempfile

import numpy as np

from histojax.imaging import resampling, tiling
from histojax.inference import scale, tiled
from histojax.inference.regions import files, image_nuclei
from histojax.inference.regions.cut import DamagedReader
from histojax.inference.regions.tissue_mask import whole_mask
from histojax.inference.regions.view import Options, View, scale_factor
from histojax.nuclei import measurements, outlines
from histojax.runs import workdirs
from histojax.stages.base import enhances, segments


@dataclasses.dataclass(frozen=True)
class Arrays:
    """What was made of an image.

    Attributes:
        enhanced: uint8 (r H, r W, 3), None where the model does not enhance.
        labels: int32 (H, W), the nuclei numbered from 1, None where the model finds none.
        table: of the nuclei, a column each (docs/reference/measurements.md); places are px of the
            image. Empty where the model finds none.
        outlines: of the nuclei, px of the image (exports.geojson writes them), or None.
        note: what was done about the scale, a sentence.
    """

    enhanced: np.ndarray | None
    labels: np.ndarray | None
    table: measurements.Table
    outlines: outlines.Outlines | None
    note: str


def predict_array(
    image: np.ndarray,
    model: str | pathlib.Path | workdirs.Run,
    *,
    mpp: float | None = None,
    cell_expansion: float = 5.0,
    tile: int = tiled.LARGEST_TILE,
) -> Arrays:
    """Enhances an image, finds its nuclei and measures them, as far as a model does.

    Args:
        image: uint8 RGB (H, W, 3).
        model: a model in the box, a workdir, a model file, or a run that `workdirs.load` has read.
        mpp: um per px of the image; None: unknown, and estimated by the size of the nuclei.
        cell_expansion: how far a cell reaches beyond its nucleus, um; 0 leaves cells out.
        tile: largest tile, output px; memory follows it.

    Raises:
        UserError: no such model, or a scale that does not fit it.
        ValueError: another array.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(f"an image is uint8 (H, W, 3), not {image.dtype} {image.shape}")
    run = model if isinstance(model, workdirs.Run) else workdirs.load(workdirs.place_of(str(model)))
    network = tiled.predictor(run, largest=tile)
    whole = tiling.ArrayReader(image)
    estimate = None
    if segments(run.stage) and mpp is None:
        estimate = scale.estimator(run)(whole)
    enhancer, segmenter = network.parts or (network, network)
    fine = enhances(run.stage)
    factor, note = scale_factor(run, network.scale, mpp, estimate, enhanced=fine)
    enhanced = enhancer(image)["sr"] if fine else None
    if not segments(run.stage):
        return Arrays(enhanced, None, {}, None, note)
    size = image.shape[:2]
    box = (0, 0, *size)
    reader, mask = DamagedReader(whole), whole_mask(whole)
    given = View(pathlib.Path("image"), size, mpp, reader, 1.0, mask, box, box, slide=False)
    read = whole if enhanced is None else tiling.ArrayReader(enhanced)
    seen = given.enhanced(read, network.scale, factor)
    at = run.meta["mpp_out"] if estimate is not None and estimate.sure else None
    if mpp is not None:
        at = mpp / seen.factor
    options = Options(cell_expansion=cell_expansion)
    with tempfile.TemporaryDirectory() as parts:
        found = image_nuclei.find(
            *(run, segmenter, seen, pathlib.Path(parts), options, {}), mpp=at, file=seen.image
        )
    grid = resampling.NearestRows(found.size, size)
    strips = [piece for strip in found.label_strips() for piece in grid.pieces(strip)]
    rings = found.nuclei.outlines
    rings = dataclasses.replace(rings, points=rings.points / found.per_px[::-1])
    table = files.in_px(found.nuclei.table, found.per_px, mpp)
    return Arrays(enhanced, np.concatenate(strips).astype(np.int32), table, rings, note)
