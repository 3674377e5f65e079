"""Files that are whole or absent: images, streamed TIFF, JSON, tables, and pictures for reports.

Every file is written beside its final name and renamed, so that a run that is stopped leaves
nothing half-written under that name. Axes: H, W pixels.
"""

import csv
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
import skimage.segmentation
import tifffile

from histojax.errors import UserError
from histojax.files import atomic_path
from histojax.imaging.tiling import recut

TILE = 512


def check_empty(output: Path) -> None:
    """Refuses a folder of results that holds files: they would be taken for results too."""
    # A kill may leave a part of a file, which is no result.
    if output.exists() and any(not fnmatch(path.name, ".*.part") for path in output.iterdir()):
        raise UserError(f"--output={output} is not empty; name another folder, or empty it")


def write_png(path: str | Path, image: np.ndarray) -> None:
    """Writes uint8 (H, W, 3) or (H, W), or integer labels 0 .. 65,535 as uint16 (H, W)."""
    if image.dtype != np.uint8:
        if image.ndim != 2 or image.min() < 0 or image.max() > 65_535:
            raise ValueError(f"a PNG holds labels of 0 to 65,535, not {image.dtype} {image.shape}")
        image = image.astype(np.uint16)
    with atomic_path(path) as beside:
        PIL.Image.fromarray(image).save(beside, format="PNG")


def stream_tiff(
    path: str | Path,
    strips: Iterable[np.ndarray],
    *,
    height: int,
    width: int,
    mpp: float | None = None,
) -> None:
    """Writes a tiled, deflated TIFF from strips, with a row of tiles in memory.

    Args:
        path: final name; BigTIFF beyond 4 GiB of pixels.
        strips: uint8 (rows, W, 3), uint8 (rows, W), or integer labels (rows, W), top to bottom, of
            any heights that sum to H. Labels of any other integer type are written as uint32.
        mpp: um per px, kept in the resolution tags (px per cm).

    Raises:
        ValueError: strips of the wrong width, number of rows or type; a negative label.
    """
    pieces, shape, dtype = tile_rows(strips, height, width)
    bigtiff = math.prod(shape) * dtype.itemsize > 2**32 - 2**25
    with atomic_path(path) as beside, tifffile.TiffWriter(beside, bigtiff=bigtiff) as writer:
        write_page(writer, pieces, shape, dtype, mpp=mpp, metadata=None)


def tile_rows(
    strips: Iterable[np.ndarray], height: int, width: int
) -> tuple[Iterator[np.ndarray], tuple[int, ...], np.dtype]:
    """The strips of `stream_tiff` in pieces of a row of tiles, the image's shape and its dtype."""

    def checked() -> Iterator[np.ndarray]:
        rows = 0
        for strip in strips:
            rgb = strip.dtype == np.uint8 and strip.shape[2:] == (3,)
            if not rgb and (strip.ndim != 2 or not np.issubdtype(strip.dtype, np.integer)):
                raise ValueError(
                    f"strips are uint8 RGB or integer labels, not {strip.dtype} {strip.shape}"
                )
            if strip.shape[1] != width:
                raise ValueError(f"a strip of shape {strip.shape} does not have {width} columns")
            if not rgb and strip.min(initial=0) < 0:
                raise ValueError(f"a label of {strip.min()} is negative")
            rows += len(strip)
            yield strip
        if rows != height:
            raise ValueError(f"the strips have {rows} rows, not {height}")

    pieces = recut(checked(), TILE)
    first = next(pieces, None)
    if first is None:
        raise ValueError("no strips to write")
    dtype = np.dtype(np.uint8 if first.dtype == np.uint8 else np.uint32)
    return itertools.chain([first], pieces), (height, width, *first.shape[2:]), dtype


def write_page(
    writer: tifffile.TiffWriter,
    pieces: Iterator[np.ndarray],
    shape: tuple[int, ...],
    dtype: np.dtype,
    *,
    mpp: float | None,
    **options: Any,
) -> None:
    """Writes `tile_rows` as a page; `mpp` is its own, `options` are further ones of tifffile."""
    width, channels = shape[1], shape[2:]

    def tiles() -> Iterator[np.ndarray]:
        for piece in pieces:
            for x in range(0, width, TILE):
                part = piece[:, x : x + TILE]
                tile = np.zeros((TILE, TILE, *channels), dtype)
                tile[: part.shape[0], : part.shape[1]] = part
                yield tile

    if mpp is not None:
        options |= {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
    writer.write(
        tiles(),
        shape=shape,
        dtype=dtype,
        photometric="rgb" if channels else "minisblack",
        tile=(TILE, TILE),
        compression="adobe_deflate",
        predictor=bool(channels),
        # tifffile encodes this many bytes of tiles before it writes them: one row of tiles.
        buffersize=max(TILE * math.prod(shape[1:]) * dtype.itemsize, 1),
        software="histojax",
        **options,
    )
    # The writer takes the tiles that the shape needs and asks for no more.
    for _ in pieces:
        pass


def _plain(value: Any) -> Any:
    """What JSON has no type for, in its own types."""
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"JSON holds no {type(value).__name__}: {value!r}")


def write_json(path: str | Path, value: Any) -> None:
    """Writes JSON; NumPy values become plain ones, NaN and infinities null. Keys are text."""
    text = json.dumps(value, default=_plain)
    value = json.loads(text, parse_constant=lambda name: None)
    with atomic_path(path) as beside:
        text = json.dumps(value, indent=2, ensure_ascii=False)
        beside.write_text(text + "\n", encoding="utf-8")


def write_csv(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes a table: a column for each key, in order of first appearance.

    A value that a row does not have, None and NaN become empty cells; infinities are "inf".
    """
    rows = list(rows)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with atomic_path(path) as beside, open(beside, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        for row in rows:
            # NaN is the one value that differs from itself.
            writer.writerow({key: "" if value != value else value for key, value in row.items()})


def overlay(
    image: np.ndarray, instances: np.ndarray, color: tuple[int, int, int] = (0, 255, 0)
) -> np.ndarray:
    """A copy of the image with the contour of each instance drawn one pixel wide, inside it.

    The image is uint8 (H, W, 3), instances integer (H, W), 0 background; a {0, 1} mask will do.
    """
    drawn = image.copy()
    # The image is framed by background, so that an instance cut by the border is closed there.
    framed = np.pad(instances, 1)
    contour = skimage.segmentation.find_boundaries(framed, connectivity=1, mode="inner")
    drawn[contour[1:-1, 1:-1]] = color
    return drawn


def _rgb(image: np.ndarray) -> np.ndarray:
    """uint8 RGB for display; bool and {0, 1} masks become black and white."""
    image = np.asarray(image)
    if image.dtype == bool or (image.ndim == 2 and image.size and image.max() <= 1):
        image = image.astype(np.uint8) * 255
    if image.dtype != np.uint8:
        raise ValueError(f"pictures are uint8 or masks, not {image.dtype}")
    return np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image


def panels(
    rows: Sequence[Sequence[tuple[str, np.ndarray]]], *, cell: int | None = None, gap: int = 6
) -> np.ndarray:
    """A sheet of captioned pictures, row by row, dark text on white; uint8 (height, width, 3).

    Args:
        rows: of (caption, picture): uint8 (H, W, 3) or (H, W), or a {0, 1} mask; of any lengths.
        cell: longest side of a picture on the sheet, px; by default that of the largest. Smaller
            pictures are enlarged by whole factors, their pixels kept square; larger are reduced.
        gap: px around each picture.
    """
    pictures = [[(caption, _rgb(image)) for caption, image in row] for row in rows]
    if cell is None:
        cell = max(max(image.shape[:2]) for row in pictures for _, image in row)
    font = PIL.ImageFont.load_default()
    placed, y, sheet_width = [], gap, 0
    for row in pictures:
        x, row_height = gap, 0
        for caption, image in row:
            longest = max(image.shape[:2])
            picture = PIL.Image.fromarray(image)
            if longest <= cell:
                size = tuple(side * (cell // longest) for side in picture.size)
                picture = picture.resize(size, PIL.Image.Resampling.NEAREST)
            else:
                picture.thumbnail((cell, cell), PIL.Image.Resampling.LANCZOS)
            left, top, right, bottom = font.getbbox(caption) if caption else (0, 0, 0, 0)
            placed.append((x, y, caption, picture))
            x += max(picture.width, math.ceil(right - left)) + gap
            row_height = max(row_height, picture.height + math.ceil(bottom) + gap)
        y += row_height + gap
        sheet_width = max(sheet_width, x)
    sheet = PIL.Image.new("RGB", (sheet_width, y), "white")
    draw = PIL.ImageDraw.Draw(sheet)
    for x, top, caption, picture in placed:
        sheet.paste(picture, (x, top))
        draw.text((x, top + picture.height + gap // 2), caption, fill=(30, 30, 30), font=font)
    return np.asarray(sheet)
