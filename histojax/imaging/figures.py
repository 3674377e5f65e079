"""Pictures that a run leaves: samples during training, comparisons and agreement maps after it.

Axes: H, W pixels of the high-resolution side, h = H / r and w = W / r. Sheets are PNG files that
also list what they hold (`read_sheet`), so that a report can caption them.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.PngImagePlugin

from histojax.files import atomic_path
from histojax.imaging.resampling import upsample
from histojax.imaging.writers import overlay, panels

# Okabe and Ito's palette (2008): colour-blind readers can distinguish it, and so can print.
FOUND, EXTRA, MISSED = (64, 64, 64), (230, 159, 0), (0, 114, 178)
AGREEMENT = {"nucleus found": FOUND, "found, not annotated": EXTRA, "annotated, missed": MISSED}
ANNOTATED, PREDICTED = (0, 255, 0), (240, 96, 0)

# Maps other than the mask.
_MAPS = ("marker", "contour", "distance")
_GAP = 6
_SMALLEST = 160
_CELL = 192
_LONGEST_NAME = 28
_NOTES = "histojax"
_Row = list[tuple[str, np.ndarray]]  # captions and pictures


@dataclasses.dataclass(frozen=True)
class Sheet:
    """The notes in the PNG of a sheet of pictures.

    Attributes:
        captions: of its pictures, left to right, of each row; alike rows are named once.
        legend: meaning -> colour "#rrggbb".
    """

    captions: tuple[tuple[str, ...], ...] = ()
    legend: Mapping[str, str] = dataclasses.field(default_factory=dict)


def agreement(
    predicted: np.ndarray, annotated: np.ndarray, image: np.ndarray | None = None
) -> np.ndarray:
    """Where two masks (H, W) agree: FOUND in both, EXTRA predicted only, MISSED annotated only.

    uint8 (H, W, 3); the image, uint8 (H, W, 3), is shown pale and grey beneath, None as white.

    Raises:
        ValueError: for shapes that differ.
    """
    predicted, annotated = np.asarray(predicted) > 0, np.asarray(annotated) > 0
    if predicted.shape != annotated.shape:
        raise ValueError(f"masks of {predicted.shape} and {annotated.shape} cannot be compared")
    if image is None:
        drawn = np.full((*predicted.shape, 3), 255, np.uint8)
    else:
        # The darkest tissue stays lighter than every colour drawn on it.
        gray = 160 + np.asarray(PIL.Image.fromarray(image).convert("L"), np.float32) * (95 / 255)
        drawn = np.repeat(gray.round().astype(np.uint8)[..., None], 3, axis=2)
    drawn[predicted & annotated] = FOUND
    drawn[predicted & ~annotated] = EXTRA
    drawn[~predicted & annotated] = MISSED
    return drawn


def write_samples(
    path: str | Path, rows: Sequence[Mapping[str, np.ndarray]], *, scale: int
) -> None:
    """Writes one PNG with a row for each sample, of the pictures that there are.

    In order: input (pixels enlarged), bicubic, enhanced, original, synthetic, annotated (contours),
    predicted (probability as grey, its contour at 0.5), agreement (`agreement`'s colours), and the
    other predicted maps, as grey.

    Args:
        rows: each with any of "lr" uint8 (h, w, 3), "hr" uint8 (H, W, 3), "mask" integer (H, W),
            "predicted_sr" and "predicted_synthetic" uint8 (H, W, 3); "predicted_mask", "_marker",
            "_contour" and "_distance", float (H, W) or (H, W, 1) in [0, 1].
        scale: r.
    """
    if not rows:
        raise ValueError("no samples to draw")
    drawn = [_sample_row(row, scale) for row in rows]
    if not all(drawn):
        raise ValueError("a sample without lr, hr, mask or prediction cannot be drawn")
    legend = {}
    if any("agreement" in dict(row) for row in drawn):
        legend = {meaning: f"#{bytes(color).hex()}" for meaning, color in AGREEMENT.items()}
    _write(path, drawn, panels(drawn, gap=_GAP), legend=legend)


def write_comparison(
    path: str | Path,
    name: str,
    pictures: Mapping[str, np.ndarray],
    *,
    crops: int = 2,
    size: int = 96,
) -> None:
    """Writes one image's pictures side by side, zoomed in where there is most to see.

    For each crop: where it lies, then the pictures up to "hr"; beneath them those after "hr"
    (masks drawn on what they were found in), "annotation" first.

    Args:
        name: of the image, shown above the overview.
        pictures: caption -> uint8 (H, W, 3), or (h, w, 3), enlarged by a whole r. Crops are chosen
            (`busiest`) in "hr", without it in the last picture of the largest size.
        crops: how many windows, fewer where the image holds no more without overlap.
        size: side of a window, px; the image's shorter side where that is smaller.
    """
    if not pictures:
        raise ValueError("no pictures to compare")
    captions = list(pictures)
    last = max(reversed(captions), key=lambda caption: pictures[caption][..., 0].size)
    reference = pictures.get("hr", pictures[last])
    height, width = reference.shape[:2]
    scales = {
        caption: _ratio(caption, picture, height, width) for caption, picture in pictures.items()
    }
    step = max(scales.values())
    side = max(min(size, height, width) // step * step, step)
    end = captions.index("hr") + 1 if "hr" in pictures else len(captions)
    images, masks = captions[:end], captions[end:]
    masks.sort(key=lambda caption: caption != "annotation")
    shown = name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 3]}..."

    rows = []
    for y, x in busiest(reference, side, count=crops, step=step):

        def cut(caption: str, y: int = y, x: int = x) -> tuple[str, np.ndarray]:
            r = scales[caption]
            part = pictures[caption][y // r : (y + side) // r, x // r : (x + side) // r]
            return caption, _enlarged(part, max(_CELL // side, 1) * r)

        rows.append([(shown, _overview(reference, y, x, side)), *map(cut, images)])
        if masks:
            rows.append([cut(caption) for caption in masks])
    _write(path, rows, panels(rows, cell=max(_CELL, side), gap=_GAP))


def busiest(image: np.ndarray, side: int, *, count: int, step: int = 1) -> list[tuple[int, int]]:
    """Corners (y, x) of the windows with the largest gradient energy, best first, none overlapping.

    At least one and at most `count`, multiples of `step`; of equal windows the first in raster
    order. The image is uint8 (H, W, 3) or (H, W), the side of a window at most H and W px.
    """
    gray = image.astype(np.float64)
    gray = gray.mean(axis=2) if gray.ndim == 3 else gray
    energy = np.zeros(gray.shape)
    energy[:-1] += np.diff(gray, axis=0) ** 2
    energy[:, :-1] += np.diff(gray, axis=1) ** 2
    sums = np.pad(energy.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    windows = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    # Rounded, so that sums taken along different ways do not order equal windows.
    windows = windows[::step, ::step].round(3)
    corners: list[tuple[int, int]] = []
    while len(corners) < count and np.isfinite(windows).any():
        row, column = np.unravel_index(np.nanargmax(windows), windows.shape)
        y, x = int(row) * step, int(column) * step
        corners.append((y, x))
        ys, xs = np.arange(windows.shape[0]) * step, np.arange(windows.shape[1]) * step
        windows[np.ix_(abs(ys - y) < side, abs(xs - x) < side)] = np.nan
    return corners


def read_sheet(image: PIL.Image.Image) -> Sheet:
    """The notes of an opened PNG of this module; an empty Sheet for any other image."""
    try:
        notes = json.loads(getattr(image, "text", {})[_NOTES])
        captions = tuple(tuple(map(str, row)) for row in notes["captions"])
        return Sheet(captions, dict(notes["legend"]))
    except (KeyError, TypeError, ValueError):
        return Sheet()


def _sample_row(row: Mapping[str, np.ndarray], scale: int) -> _Row:
    """The pictures of a sample, all of one size."""
    drawn: _Row = []
    lr, hr, sr = row.get("lr"), row.get("hr"), row.get("predicted_sr")
    mask, probability = row.get("mask"), row.get("predicted_mask")
    sizes = [np.shape(image)[:2] for image in (hr, sr, mask, probability) if image is not None]
    if lr is not None:
        sizes.append((lr.shape[0] * scale, lr.shape[1] * scale))
    if not sizes:
        return []
    height, width = sizes[0]
    factor = -(-_SMALLEST // max(height, width))

    def add(caption: str, picture: np.ndarray, by: int = factor) -> None:
        drawn.append((caption, _enlarged(picture, by)))

    if lr is not None:
        add("input", lr, scale * factor)
        add("bicubic", np.asarray(upsample(lr, scale)))
    whole = {"enhanced": sr, "original": hr, "synthetic": row.get("predicted_synthetic")}
    for caption, picture in whole.items():
        if picture is not None:
            add(caption, picture)
    if mask is not None:
        mask = (np.asarray(mask) > 0).astype(np.uint8)
        beneath = hr if hr is not None else sr
        if beneath is None:
            add("annotated", mask * 255)
        else:
            framed = overlay(_enlarged(beneath, factor), _enlarged(mask, factor), ANNOTATED)
            drawn.append(("annotated", framed))
    if probability is not None:
        probability = np.asarray(probability, np.float32).reshape(height, width)
        gray = np.repeat(_enlarged(_gray(probability), factor)[..., None], 3, axis=2)
        found = (probability >= 0.5).astype(np.uint8)
        drawn.append(("predicted", overlay(gray, _enlarged(found, factor), PREDICTED)))
        if mask is not None:
            add("agreement", agreement(found, mask, sr if sr is not None else hr))
    for name in _MAPS:
        if (values := row.get(f"predicted_{name}")) is not None:
            add(name, _gray(np.asarray(values, np.float32).reshape(height, width)))
    return drawn


def _gray(probability: np.ndarray) -> np.ndarray:
    """A map in [0, 1] as uint8; what is not a number is drawn as 0."""
    return np.nan_to_num(np.clip(probability, 0, 1) * 255).round().astype(np.uint8)


def _overview(image: np.ndarray, y: int, x: int, side: int) -> np.ndarray:
    """The whole image, reduced, with a frame around a window of it."""
    small = PIL.Image.fromarray(image)
    small.thumbnail((_CELL, _CELL), PIL.Image.Resampling.LANCZOS)
    down, across = small.height / image.shape[0], small.width / image.shape[1]
    top, left = int(y * down), int(x * across)
    bottom = max(min(round((y + side) * down), small.height) - 1, top)
    right = max(min(round((x + side) * across), small.width) - 1, left)
    PIL.ImageDraw.Draw(small).rectangle((left, top, right, bottom), outline=(0, 0, 0))
    return np.asarray(small)


def _ratio(caption: str, picture: np.ndarray, height: int, width: int) -> int:
    """How many px of (height, width) a px of the picture covers."""
    ratio = height // max(picture.shape[0], 1)
    if ratio < 1 or (picture.shape[0] * ratio, picture.shape[1] * ratio) != (height, width):
        raise ValueError(
            f"{caption} of {picture.shape[:2]} is no whole fraction of {height, width}"
        )
    return ratio


def _enlarged(picture: np.ndarray, factor: int) -> np.ndarray:
    return np.repeat(np.repeat(picture, factor, axis=0), factor, axis=1)


def _write(path: str | Path, rows: Sequence[_Row], image: np.ndarray, **notes: Any) -> None:
    captions = dict.fromkeys(tuple(caption for caption, _ in row) for row in rows)
    sheet = Sheet(tuple(captions), **notes)
    text = PIL.PngImagePlugin.PngInfo()
    text.add_text(_NOTES, json.dumps(dataclasses.asdict(sheet)))
    with atomic_path(path) as beside:
        PIL.Image.fromarray(image).save(beside, format="PNG", pnginfo=text)
