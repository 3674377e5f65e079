"""Reads images and label maps, whole or by region, into the two forms that histojax works with.

An image becomes uint8 (H, W, 3), RGB with 0 black and 255 white; a label map becomes int32 (H, W),
0 for background. What cannot be converted without guessing is refused by name: a file that ends
before its pixels do, samples that are neither 8-bit nor full-range 16-bit, colours other than RGB,
grey and palette. Embedded colour profiles are not applied.

PNG, JPEG and BMP are decoded by Pillow, whole. TIFF (also BigTIFF and pyramids such as .svs, at
their full resolution) is read by tile or strip, so that a region of a slide costs the memory of the
tiles that it touches.
"""

from __future__ import annotations

import os
import pathlib
import struct
import threading
from collections.abc import Callable, Sequence
from typing import BinaryIO

import imagecodecs
import numpy as np
import tifffile
from PIL import BmpImagePlugin, Image, JpegImagePlugin, PngImagePlugin

from histojax.errors import UserError
from histojax.imaging.conversion import (
    check_pixels,
    eight_bits,
    flatten,
    orient,
    oriented_size,
    refused_if_damaged,
    truncated,
    whole_numbers,
)
from histojax.imaging.tiff import (
    JPEG_COMPRESSIONS,
    Segments,
    full_resolution_page,
    mpp_of,
    open_tiff,
    orientation_of,
    rgb_conversion,
    white_of,
)

# Pillow's own plugin classes rather than Image.open: its guard against huge images is a fixed
# number of pixels and a warning, ours (max_pixels) is the caller's and is made on the header.
_PLUGINS = {
    "PNG": PngImagePlugin.PngImageFile,
    "JPEG": JpegImagePlugin.JpegImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
}
_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
)

# Endings by which folders are searched for images; what a file is, its first bytes say.
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".svs")

# What is decoded at once by default, px: 16,384 x 16,384, which takes 0.8 GiB as RGB.
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
    kind = _kind(path)
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

    Grey, 1-bit and palette images become RGB. Transparency is composited over white (and said
    once in the log); an alpha channel that is opaque everywhere is dropped. 16-bit samples v that
    use the full range become round(v / 257). EXIF orientation is applied. A pyramid is read at
    its full resolution.

    Args:
      path: PNG, JPEG, BMP or TIFF file.
      max_pixels: largest image that is decoded, px.

    Raises:
      UserError: not a readable image, truncated, of a kind that is not converted, or too large.
    """
    with open_image(path, max_pixels=max_pixels, cache_bytes=0) as image:
        check_pixels(image.path, image.height * image.width, max_pixels)
        return image.read(0, 0, image.height, image.width)


def read_labels(path: Path, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Reads a label map or mask as int32 (H, W); the values are those of the file, unchanged.

    Takes 1, 2, 4, 8 and 16-bit grey PNG, palette PNG (its indices), BMP, integer TIFF, float TIFF
    whose values are whole numbers, and RGB whose three channels are equal.

    Args:
      path: PNG, BMP or TIFF file.
      max_pixels: largest map that is decoded, px.

    Raises:
      UserError: not a readable image, lossy (JPEG), of several different channels, of fractions,
        negative, beyond int32 (or beyond the whole numbers that its float type tells apart), or
        too large.
    """
    path = pathlib.Path(path)
    kind = _kind(path)
    if kind == "JPEG":
        raise _lossy(path)
    if kind == "TIFF":
        with open_tiff(path) as tiff, refused_if_damaged(path):
            page = _label_page(path, tiff)
            check_pixels(path, page.imagelength * page.imagewidth, max_pixels)
            segments = Segments(path, tiff, page, cache_bytes=0)
            raw = segments.read(0, 0, page.imagelength, page.imagewidth)
            values = orient(whole_numbers(path, raw), orientation_of(page))
    else:
        values = _pillow_labels(path, kind, max_pixels)
    if values.ndim == 3:
        values = values[..., :3] if values.shape[2] in (3, 4) else values
        if (values != values[..., :1]).any():
            raise UserError(
                f"{path} holds {values.shape[2]} different channels, and a label map has one: save "
                "the numbers of the labels as uint16 PNG or uint32 TIFF, not their colours"
            )
        values = values[..., 0]
    if values.min() < 0 or values.max() > np.iinfo(np.int32).max:
        raise UserError(
            f"{path} holds labels from {values.min()} to {values.max()}, and labels run from 0 to "
            "2147483647: number them anew"
        )
    return np.ascontiguousarray(values, dtype=np.int32)


def read_label_region(path: Path, y: int, x: int, height: int, width: int) -> np.ndarray:
    """Reads a region of a label map in TIFF as int32 (height, width), in the memory of its tiles.

    Args:
      path: TIFF of one channel, not rotated by an orientation tag, as `writers.stream_tiff` makes.
      y, x: top left corner, px.
      height, width: size of the region, px.

    Raises:
      UserError: not a TIFF, damaged, lossy, or of samples that are not whole numbers.
      ValueError: the region is empty or reaches beyond the image.
    """
    path = pathlib.Path(path)
    if _kind(path) != "TIFF":
        raise UserError(f"{path} is not a TIFF: regions of labels are read from TIFF alone")
    with open_tiff(path) as tiff:
        with refused_if_damaged(path):
            page = _label_page(path, tiff)
        if page.samplesperpixel != 1 or orientation_of(page) != 1:
            raise UserError(f"{path} is not an upright label map of one channel: read it whole")
        if not (0 <= y < y + height <= page.imagelength and 0 <= x < x + width <= page.imagewidth):
            raise ValueError(f"region y={y} x={x} of {height} x {width} px is not inside {path}")
        with refused_if_damaged(path):
            raw = Segments(path, tiff, page, cache_bytes=0).read(y, x, height, width)
            raw = whole_numbers(path, raw)
    return raw[..., 0].astype(np.int32)


def read_label_mpp(path: Path) -> float | None:
    """Returns the um per px that a label map's file states; None where it does not, or is no TIFF.

    Raises:
      UserError: not an image, damaged, lossy, or of samples that are not whole numbers.
    """
    path = pathlib.Path(path)
    if _kind(path) != "TIFF":
        return None
    with open_tiff(path) as tiff, refused_if_damaged(path):
        return mpp_of(tiff, _label_page(path, tiff))


def _label_page(path: pathlib.Path, tiff: tifffile.TiffFile) -> tifffile.TiffPage:
    page = full_resolution_page(path, tiff)
    if page.dtype is None or page.dtype.kind not in "buif":
        raise UserError(
            f"{path} holds {page.dtype} samples, and labels are whole numbers: save them "
            "as uint16 PNG or uint32 TIFF"
        )
    if page.compression in JPEG_COMPRESSIONS:
        raise _lossy(path)
    return page


def image_size(path: Path) -> tuple[int, int]:
    """Returns (height, width) in px of an image or label map from its header, undecoded.

    Raises:
      UserError: not an image, or truncated as far as the header shows.
    """
    path = pathlib.Path(path)
    kind = _kind(path)
    if kind == "TIFF":
        with open_tiff(path) as tiff, refused_if_damaged(path):
            page = full_resolution_page(path, tiff)
            return oriented_size(page.imagelength, page.imagewidth, orientation_of(page))
    with path.open("rb") as stream:
        image = _open_pillow(path, kind, stream)
        return oriented_size(image.height, image.width, _exif_orientation(image))


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


def _kind(path: pathlib.Path) -> str:
    """Returns the format that the first bytes of a file declare."""
    if path.is_dir():
        raise UserError(f"{path} is a folder, not an image: name one image file in it")
    try:
        with path.open("rb") as stream:
            head = stream.read(8)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: give the path of an image file") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): check the file") from error
    if not head:
        raise UserError(f"{path} is empty (0 bytes): copy or export it again")
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    raise UserError(
        f"{path} is not a PNG, JPEG, BMP or TIFF image (it starts with {head!r}): "
        "convert it to one of these"
    )


def _lossy(path: pathlib.Path) -> UserError:
    return UserError(
        f"{path} is compressed as JPEG, which changes label values: save labels as uint16 PNG or "
        "uint32 TIFF"
    )


def _open_pillow(path: pathlib.Path, kind: str, stream: BinaryIO) -> Image.Image:
    _check_complete(path, kind, stream)
    stream.seek(0)
    with refused_if_damaged(path):
        return _PLUGINS[kind](stream)


def _check_complete(path: pathlib.Path, kind: str, stream: BinaryIO) -> None:
    """Refuses a PNG without its last chunk, and a JPEG without an end marker, undecoded."""
    size = stream.seek(0, os.SEEK_END)
    if kind == "PNG":
        position, chunk = 8, b""
        while chunk != b"IEND":
            stream.seek(position)
            head = stream.read(8)
            if len(head) < 8:
                raise truncated(path)
            length, chunk = struct.unpack(">I4s", head)
            position += 12 + length
        if position > size:
            raise truncated(path)
    elif kind == "JPEG":
        stream.seek(max(0, size - 2**16))
        if b"\xff\xd9" not in stream.read():
            raise truncated(path)


def _exif_orientation(image: Image.Image) -> int:
    # The base class's method: that of PNG decodes the image to look for a late chunk.
    orientation = Image.Image.getexif(image).get(274, 1)
    return orientation if orientation in range(1, 9) else 1


def _png_header(stream: BinaryIO) -> tuple[int, int]:
    """Returns (bit depth, colour type) of a PNG (section 11.2.2 of the specification)."""
    stream.seek(24)
    depth, color = stream.read(2)
    return depth, color


def _pillow_image(path: pathlib.Path, kind: str, max_pixels: int) -> RegionReader:
    with path.open("rb") as stream:
        image = _open_pillow(path, kind, stream)
        mode = image.mode
        orientation = _exif_orientation(image)
        deep = kind == "PNG" and _png_header(stream)[0] == 16
    if mode not in ("1", "L", "P", "RGB", "LA", "PA", "RGBA") and not deep:
        raise UserError(
            f"{path} is a {mode} image, and only grey, palette and RGB (with or without alpha) are "
            "converted: convert it to 8-bit RGB"
        )
    check_pixels(path, image.height * image.width, max_pixels)

    def decode() -> np.ndarray:
        with path.open("rb") as again:
            pixels = _decode_pillow(path, kind, again, deep)
        if deep:
            pixels = eight_bits(path, pixels)
        return orient(flatten(path, pixels), orientation)

    size = oriented_size(image.height, image.width, orientation)
    return _WholeReader(path, *size, None, decode, orientation=orientation)


def _decode_pillow(
    path: pathlib.Path, kind: str, stream: BinaryIO, deep: bool, labels: bool = False
) -> np.ndarray:
    """Returns the samples: uint8 (or uint16, if deep), grey, grey + alpha, RGB or RGBA."""
    with refused_if_damaged(path):
        if deep:
            # Pillow drops the low byte of 16-bit colours without a word.
            return imagecodecs.png_decode(stream.read())
        image = _open_pillow(path, kind, stream)
        image.load()
        if labels:
            return np.asarray(image)
        if image.mode == "1":
            return np.asarray(image.convert("L"))
        if "transparency" in image.info or image.mode == "PA":
            return np.asarray(image.convert("RGBA"))
        return np.asarray(image.convert("RGB") if image.mode == "P" else image)


def _pillow_labels(path: pathlib.Path, kind: str, max_pixels: int) -> np.ndarray:
    with path.open("rb") as stream:
        image = _open_pillow(path, kind, stream)
        check_pixels(path, image.height * image.width, max_pixels)
        depth, color = _png_header(stream) if kind == "PNG" else (8, 0)
        stream.seek(0)
        values = _decode_pillow(path, kind, stream, depth == 16, labels=True)
    if kind == "PNG" and color == 0 and depth in (2, 4):
        # Pillow spreads 2 and 4-bit grey over 0..255; labels are the numbers that were stored.
        values = values // (255 // (2**depth - 1))
    if color == 4:
        values = values[..., 0]
    return orient(values, _exif_orientation(image))
