"""What a prediction has made of an image, and its picture on the index."""

import dataclasses
import pathlib
from collections.abc import Mapping

import numpy as np

from histojax.imaging import reader, writers
from histojax.imaging.labels import read_label_region
from histojax.inference.regions.cut import DamagedReader

# What tells how a file's outputs were made is called NAME + this.
RECORD = ".predicted.json"
_PREVIEW = 384


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What was made of one image.

    Attributes:
        name: of the input file, without its ending.
        size: (H, W) of the input, px.
        mpp: um per px of the input, None where unknown.
        scale: px of the enhanced image per px of the input a side, 1 where none is made; of a slide
            that was read at another scale than its own not whole.
        files: by the names of `regions.files.OUTPUTS`, in their order.
        nuclei: how many were found, None where none were looked for.
        note: what was done about the scale, and what was left out, a sentence.
        box: (y, x, height, width) of what was predicted, px of the input.
        area_mm2: its area, of a slide its tissue; None where unknown.
        class_names: of the run, from 0; empty where it predicts no classes.
        before: whether an earlier call made it, by the same model and flags.
    """

    name: str
    size: tuple[int, int]
    mpp: float | None
    scale: float
    files: Mapping[str, pathlib.Path]
    nuclei: int | None
    note: str
    box: tuple[int, int, int, int]
    area_mm2: float | None = None
    class_names: tuple[str, ...] = ()
    before: bool = False


def preview(
    path: pathlib.Path, made: Prediction, *, max_pixels: int = reader.MAX_PIXELS
) -> np.ndarray:
    """Input | enhanced | nuclei | classes at the middle of what was predicted, uint8 (h, w, 3)."""
    top, left, height, width = made.box
    side = max(1, min(int(_PREVIEW / made.scale), height, width))
    y, x = top + (height - side) // 2, left + (width - side) // 2
    with reader.open_image(path, max_pixels=max_pixels) as image:
        shown = DamagedReader(image).read(y, x, side, side)
    row = [("input", shown)]
    fine = [int(made.scale * value) for value in (y - top, x - left, side, side)]
    if "sr" in made.files:
        with reader.open_image(made.files["sr"]) as image:
            shown = image.read(*fine)
        row.append(("enhanced", shown))
    if {"sr", "sr.labels"} <= made.files.keys():
        labels = read_label_region(made.files["sr.labels"], *fine)
        row.append(("nuclei", writers.overlay(shown, labels)))
    elif "labels" in made.files:
        labels = read_label_region(made.files["labels"], y, x, side, side)
        row.append(("nuclei", writers.overlay(row[0][1], labels)))
    if "classes" in made.files:
        numbers = read_label_region(made.files["classes"], y, x, side, side)
        gray = numbers * (255 // (len(made.class_names) - 1))
        row.append(("classes", gray.astype(np.uint8)))
    return writers.panels([row], cell=max(1, round(made.scale * side)))
