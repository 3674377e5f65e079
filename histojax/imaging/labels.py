"""Label maps and masks, whole or by region: int32 (H, W), 0 for background.

The values are those of the file, unchanged. What cannot be a label is refused by name: lossy
compression, channels that differ, fractions, numbers beyond int32.
"""

import pathlib
from typing import Any

import numpy as np
import tifffile

from histojax.errors import UserError
from histojax.imaging import formats, tiff
from histojax.imaging.conversion import check_pixels, orient, refused_if_damaged, whole_numbers
from histojax.imaging.mpp import first_plausible, stated_in_tiff
from histojax.imaging.reader import MAX_PIXELS, Path

_REMEDY = "save labels as uint16 PNG or uint32 TIFF"


def read_labels(path: Path, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Reads a label map or mask as int32 (H, W); the values are those of the file, unchanged.

    Takes 1, 2, 4, 8 and 16-bit grey PNG, palette PNG (its indices), BMP, integer TIFF, float TIFF
    whose values are whole numbers, and RGB whose three channels are equal, of `max_pixels` or less.

    Raises:
        UserError: not a readable image, lossy (JPEG), of several different channels, of fractions,
            negative, beyond int32 or the exact range of its float type, or too large.
    """
    path = pathlib.Path(path)
    kind = formats.kind(path)
    if kind == "JPEG":
        raise _lossy(path)
    if kind == "TIFF":
        with tiff.open_tiff(path) as file, refused_if_damaged(path):
            pages = _label_pages(path, file)
            page = pages[0]
            check_pixels(path, page.imagelength * page.imagewidth, max_pixels)
            raw = tiff.Segments(path, file, pages).read(0, 0, page.imagelength, page.imagewidth)
            values = orient(whole_numbers(path, raw), tiff.orientation_of(page))
    else:
        values = _pillow_labels(path, kind, max_pixels)
    if values.ndim == 3:
        if values.shape[2] == 4:
            values = values[..., :3]
        if (values != values[..., :1]).any():
            raise UserError(
                f"{path} holds {values.shape[2]} different channels, and a label map has one: save "
                "the numbers of the labels as uint16 PNG or uint32 TIFF, not their colours"
            )
        values = values[..., 0]
    if values.min() < 0 or values.max() > np.iinfo(np.int32).max:
        raise UserError(
            f"{path} holds labels from {values.min()} to {values.max()}, and labels run from 0 to "
            "2147483647: renumber them"
        )
    return np.ascontiguousarray(values, dtype=np.int32)


def read_label_region(path: Path, y: int, x: int, height: int, width: int) -> np.ndarray:
    """Reads a region of a label map in TIFF as int32 (height, width), in the memory of its tiles.

    The TIFF is upright and of one channel, as `writers.stream_tiff` makes it.

    Raises:
        ValueError: where the region is empty or reaches beyond the image.
    """
    path = pathlib.Path(path)
    if formats.kind(path) != "TIFF":
        raise UserError(f"{path} is not a TIFF: regions of labels are read from TIFF alone")
    with tiff.open_tiff(path) as file:
        with refused_if_damaged(path):
            pages = _label_pages(path, file)
        page = pages[0]
        if page.samplesperpixel * len(pages) != 1 or tiff.orientation_of(page) != 1:
            raise UserError(f"{path} is not an upright label map of one channel: read it whole")
        if not (0 <= y < y + height <= page.imagelength and 0 <= x < x + width <= page.imagewidth):
            raise ValueError(f"region y={y} x={x} of {height} x {width} px is not inside {path}")
        with refused_if_damaged(path):
            raw = tiff.Segments(path, file, pages).read(y, x, height, width)
            return whole_numbers(path, raw)[..., 0].astype(np.int32)


def read_label_mpp(path: Path) -> float | None:
    """The um per px that a label map's file states; None where it does not, or is no TIFF."""
    path = pathlib.Path(path)
    if formats.kind(path) != "TIFF":
        return None
    with tiff.open_tiff(path) as file, refused_if_damaged(path):
        stated = stated_in_tiff(file, _label_pages(path, file)[0])
        return first_plausible(path, stated)[0]


def _label_pages(path: pathlib.Path, file: tifffile.TiffFile) -> list[Any]:
    pages = tiff.image_pages(path, file)
    page = pages[0]
    if page.dtype is None or page.dtype.kind not in "buif":
        raise UserError(
            f"{path} holds {page.dtype} samples, and labels are whole numbers: {_REMEDY}"
        )
    if page.compression in tiff.JPEG_COMPRESSIONS:
        raise _lossy(path)
    return pages


def _pillow_labels(path: pathlib.Path, kind: str, max_pixels: int) -> np.ndarray:
    image, orientation, depth, color = formats.header(path, kind)
    check_pixels(path, image.height * image.width, max_pixels)
    values = formats.decode_pillow(path, kind, depth == 16, labels=True)
    if color == 0 and depth in (2, 4):
        # Pillow spreads 2 and 4-bit grey over 0..255; labels are the numbers that were stored.
        values = values // (255 // (2**depth - 1))
    if color == 4:
        values = values[..., 0]
    return orient(values, orientation)


def _lossy(path: pathlib.Path) -> UserError:
    return UserError(f"{path} is compressed as JPEG, which changes label values: {_REMEDY}")
