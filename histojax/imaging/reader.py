"""Reads images, whole or by region, as uint8 (H, W, 3): RGB with 0 black and 255 white.

What cannot be converted without guessing is refused by name: a file that ends before its pixels
do, samples that are neither 8-bit nor full-range 16-bit, colours other than RGB, grey and palette.
Embedded colour profiles are not applied.

PNG, JPEG and BMP are decoded by Pillow, whole. TIFF (also BigTIFF and pyramids such as .svs, at
their full resolution) is read by tile or strip, so that a region of a slide costs the memory of the
tiles that it touches.
"""

from __future__ import annotations

import os
import pathlib
import threading
from collections.abc import Callable, Sequence

import numpy as np
import tifffile

from histojax.errors import UserError
from histojax.imaging import formats
from histojax.imaging.conversion import (
    check_pixels,
    eight_bits,
    flatten,
    orient,
    oriented_size,
    refused_if_damaged,
)
from histojax.imaging.tiff import (
    Segments,
    full_resolution_page,
    mpp_of,
    open_tiff,
    orientation_of,
    rgb_conversion,
    white_of,
)

# Endings by which folders are searched for images; the first bytes say what a file is.
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".svs")

# The largest image that is decoded at once by default, px: 16,384 x 16,384, 0.8 GiB as RGB.
MAX_PIXELS = 2**28

Path = str | os.PathLike[str]


class RegionReader:
    """An open image whose regions can be read; a context manager, usable from several threads.

    Attributes:
        path: the file.
        height, width: size in pixels, after EXIF or TIFF orientation.
        mpp: micrometres per pixel as the file states it, or None; never guessed.
        orientation: the EXIF or TIFF tag by which the stored pixels were turned, 1 for upright.
        segments_decoded: how many tiles or strips have been decoded so far; a format that is
            decoded whole counts as one.
    """

    def __init__(self, path: pathlib.Path, height: int, width: int, mpp: float | None):
        self.path = path
        self.height = height
        self.width = width
        self.mpp = mpp
        self.orientation = 1
        self.segments_decoded = 0

    def read(self, y: int, x: int, height: int, width: int) -> np.ndarray:
        """Returns the pixels of a region as a new uint8 array (height, width, 3).

        Args:
            y, x: top left corner, px.
            height, width: size of the region, px.

        Raises:
            ValueError: the region is empty or reaches beyond the image.
            UserError: the file is damaged there.
        """
        if not (0 <= y < y + height <= self.height and 0 <= x < x + width <= self.width):
            raise ValueError(
                f"region y={y} x={x} height={height} width={width} is not inside "
                f"{self.path} of {self.height} x {self.width} px"
            )
        return self._region(y, x, height, width)

    def close(self) -> None:
        """Closes the file."""

    def __enter__(self) -> RegionReader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _region(self, y: int, x: int, height: int, width: int) -> np.ndarray:
        raise NotImplementedError


def listed(
    paths: Sequence[Path], flag: str, kind: tuple[str, str], suffixes: tuple[str, ...]
) -> list[pathlib.Path]:
    """The files among files and folders, those of a folder in order of name.

    Args:
        paths: of files, which are taken whatever they end in, and of folders.
        flag: what they were given by, for messages.
        kind: one of them and several in words, such as ("an image", "images").
        suffixes: what is taken of a folder, unless it is hidden.

    Raises:
        UserError: for a path that is not there, or a folder without such files.
    """
    one, several = kind
    files: list[pathlib.Path] = []
    for path in map(pathlib.Path, paths):
        if path.is_dir():
            found = sorted(
                p
                for p in path.iterdir()
                if p.suffix.lower() in suffixes and not p.name.startswith(".") and not p.is_dir()
            )
            if not found:
                raise UserError(
                    f"{flag}={path} is a folder without {several}; {several} end in "
                    f"{', '.join(suffixes)}"
                )
            files += found
        elif path.exists():
            files.append(path)
        else:
            raise UserError(f"{flag}={path} does not exist; name {one} or a folder of {several}")
    return files


def open_image(
    path: Path, *, max_pixels: int = MAX_PIXELS, cache_bytes: int = 2**27
) -> RegionReader:
    """Opens an image for reading by region; only its header is read and checked here.

    TIFF is decoded by tile or strip (uncompressed strips in parts of about 1 MiB); a slide of any
    size can be opened. PNG, JPEG, BMP, 16-bit TIFF (whose range must be seen whole) and TIFF with
    an orientation are decoded whole at the first read and kept until closed.

    Args:
        path: PNG, JPEG, BMP or TIFF file.
        max_pixels: largest image, or largest single strip or tile, that is decoded whole, px.
        cache_bytes: bound on the decoded tiles that are kept for the next region.

    Raises:
        UserError: not a readable image, truncated, of a kind that is not converted, or larger than
            max_pixels where it must be decoded whole.
    """
    path = pathlib.Path(path)
    kind = formats.kind(path)
    if kind != "TIFF":
        return _pillow_image(path, kind, max_pixels)
    tiff = open_tiff(path)
    try:
        with refused_if_damaged(path):
            return _tiff_image(path, tiff, max_pixels, cache_bytes)
    except BaseException:
        tiff.close()
        raise


def read_image(path: Path, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Reads an image whole as uint8 RGB (H, W, 3).

    Grey, 1-bit and palette images become RGB. Transparency is composited over white, with one
    warning in the log; an alpha channel that is opaque everywhere is dropped. 16-bit samples v
    that use the full range become round(v / 257). EXIF orientation is applied. A pyramid is read
    at its full resolution.

    Args:
        path: PNG, JPEG, BMP or TIFF file.
        max_pixels: largest image that is decoded, px.

    Raises:
        UserError: not a readable image, truncated, of a kind that is not converted, or too large.
    """
    with open_image(path, max_pixels=max_pixels, cache_bytes=0) as image:
        check_pixels(image.path, image.height * image.width, max_pixels)
        return image.read(0, 0, image.height, image.width)


def image_size(path: Path) -> tuple[int, int]:
    """Returns (height, width) in px of an image or label map from its header, undecoded.

    Raises:
        UserError: not an image, or truncated as far as the header shows.
    """
    path = pathlib.Path(path)
    kind = formats.kind(path)
    if kind == "TIFF":
        with open_tiff(path) as tiff, refused_if_damaged(path):
            page = full_resolution_page(path, tiff)
            return oriented_size(page.imagelength, page.imagewidth, orientation_of(page))
    with path.open("rb") as stream:
        image = formats.open_pillow(path, kind, stream)
        return oriented_size(image.height, image.width, formats.exif_orientation(image))


class _WholeReader(RegionReader):
    """A format that is decoded once, at the first read."""

    def __init__(
        self,
        path: pathlib.Path,
        height: int,
        width: int,
        mpp: float | None,
        decode: Callable[[], np.ndarray],
        close: Callable[[], None] = lambda: None,
        *,
        orientation: int = 1,
    ):
        super().__init__(path, height, width, mpp)
        self.orientation = orientation
        self._decode = decode
        self._close = close
        self._pixels: np.ndarray | None = None
        self._lock = threading.Lock()

    def _region(self, y: int, x: int, height: int, width: int) -> np.ndarray:
        with self._lock:
            if self._pixels is None:
                self._pixels = self._decode()
                self.segments_decoded = 1
        return self._pixels[y : y + height, x : x + width].copy()

    def close(self) -> None:
        self._pixels = None
        self._close()


class _TiffReader(RegionReader):
    """A TIFF page that is decoded by tile or strip."""

    def __init__(
        self,
        path: pathlib.Path,
        mpp: float | None,
        segments: Segments,
        to_rgb: Callable[[np.ndarray], np.ndarray],
    ):
        super().__init__(path, segments.page.imagelength, segments.page.imagewidth, mpp)
        self._segments = segments
        self._to_rgb = to_rgb

    def _region(self, y: int, x: int, height: int, width: int) -> np.ndarray:
        rgb = self._to_rgb(self._segments.read(y, x, height, width))
        self.segments_decoded = self._segments.decoded
        return rgb

    def close(self) -> None:
        self._segments.close()


def _tiff_image(
    path: pathlib.Path, tiff: tifffile.TiffFile, max_pixels: int, cache_bytes: int
) -> RegionReader:
    page = full_resolution_page(path, tiff)
    to_rgb = rgb_conversion(path, page)
    mpp = mpp_of(tiff, page)
    orientation = orientation_of(page)
    # The range of 16-bit samples is a property of all of them.
    whole = page.bitspersample == 16 or orientation != 1
    segments = Segments(
        path, tiff, page, cache_bytes=0 if whole else cache_bytes, background=white_of(page)
    )
    if not whole:
        check_pixels(path, segments.rows * segments.columns, max_pixels, "a tile or strip of ")
        return _TiffReader(path, mpp, segments, to_rgb)
    check_pixels(path, page.imagelength * page.imagewidth, max_pixels)

    def decode() -> np.ndarray:
        raw = segments.read(0, 0, page.imagelength, page.imagewidth)
        return orient(to_rgb(raw), orientation)

    size = oriented_size(page.imagelength, page.imagewidth, orientation)
    return _WholeReader(path, *size, mpp, decode, tiff.close, orientation=orientation)


def _pillow_image(path: pathlib.Path, kind: str, max_pixels: int) -> RegionReader:
    with path.open("rb") as stream:
        image = formats.open_pillow(path, kind, stream)
        mode = image.mode
        orientation = formats.exif_orientation(image)
        deep = kind == "PNG" and formats.png_header(stream)[0] == 16
    if mode not in ("1", "L", "P", "RGB", "LA", "PA", "RGBA") and not deep:
        raise UserError(
            f"{path} is a {mode} image, and only grey, palette and RGB (with or without alpha) are "
            "converted: convert it to 8-bit RGB"
        )
    check_pixels(path, image.height * image.width, max_pixels)

    def decode() -> np.ndarray:
        with path.open("rb") as again:
            pixels = formats.decode_pillow(path, kind, again, deep)
        if deep:
            pixels = eight_bits(path, pixels)
        return orient(flatten(path, pixels), orientation)

    size = oriented_size(image.height, image.width, orientation)
    return _WholeReader(path, *size, None, decode, orientation=orientation)
