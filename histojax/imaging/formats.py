"""What an image file is by its first bytes, and its samples decoded by Pillow.

A file that ends before its pixels do is refused; Pillow would fill in what is missing.
"""

import os
import pathlib
import re
import struct
from collections.abc import Callable
from typing import BinaryIO

import imagecodecs
import numpy as np
from PIL import BmpImagePlugin, Image, JpegImagePlugin, PngImagePlugin

from histojax.errors import UserError
from histojax.imaging.conversion import refused_if_damaged, truncated

# Pillow's own plugin classes rather than Image.open: its guard against huge images is a fixed
# number of pixels and a warning, ours (max_pixels) is the caller's and is made on the header.
_PLUGINS: dict[str, Callable[[BinaryIO], Image.Image]] = {
    "PNG": PngImagePlugin.PngImageFile,
    "JPEG": JpegImagePlugin.JpegImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
}
# Of JPEG: entropy-coded bytes FF are followed by 00 or by the number of a restart.
_MARKER = re.compile(rb"\xff+([^\x00\x01\xd0-\xd8\xff])", re.DOTALL)
# What ends a JPEG's pixels, bytes for some blocks of 8 x 8 px, and columns from which a tile has
# more.
_END_OF_PIXELS = re.compile(rb"\xff[^\x00\xff]")
_MORE_BYTES, _FEWER_BYTES, _LEAST_COLUMNS = b"\x5a\xa7\x3c\xd1" * 4, 4, 64
_MAGIC: dict[str, tuple[bytes, ...]] = {
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "JPEG": (b"\xff\xd8\xff",),
    "BMP": (b"BM",),
    "TIFF": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
}


def kind(path: pathlib.Path) -> str:
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
    for kind, magic in _MAGIC.items():
        if head.startswith(magic):
            return kind
    raise UserError(
        f"{path} is not a PNG, JPEG, BMP or TIFF image (it starts with {head!r}): "
        "convert it to one of these"
    )


def open_pillow(path: pathlib.Path, kind: str, stream: BinaryIO) -> Image.Image:
    _check_complete(path, kind, stream)
    stream.seek(0)
    with refused_if_damaged(path):
        return _PLUGINS[kind](stream)


def _check_complete(path: pathlib.Path, kind: str, stream: BinaryIO) -> None:
    """Refuses a PNG without its last chunk, and a JPEG without its end marker, undecoded."""
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
        stream.seek(max(0, size - 2))
        # Where other bytes follow (of a video, of a block of the disk), the whole file is searched.
        if stream.read() != b"\xff\xd9":
            stream.seek(0)
            if not jpeg_ends(stream.read()):
                raise truncated(path)


def jpeg_ends(data: bytes) -> bool:
    """Whether a JPEG stream holds the end of its own image, whatever follows (ITU T.81, B.1.1).

    The end of a thumbnail, which lies in a segment of its header, does not count.
    """
    position = 0
    while found := _MARKER.search(data, position):
        if found[1] == b"\xd9":
            return True
        position = found.end() + int.from_bytes(data[found.end() : found.end() + 2])
    return False


def jpeg_is_whole(tile: np.ndarray, data: bytes, decode: Callable[[bytes], np.ndarray]) -> bool:
    """Whether a baseline JPEG ends where its tile (..., H, W, C) does; others are not tried.

    Damage inside makes the decoder run out of bytes or leave some over, and it says neither. So it
    decodes again with more bytes, which a whole tile has no use for, and without the last ones,
    which a whole tile needs, unless it ends in the grey that the decoder fills in.
    """
    if b"\xff\xc0" not in data or tile.shape[-2] < _LEAST_COLUMNS:
        return True
    found = _END_OF_PIXELS.search(data, data.find(b"\xff\xda") + 2)
    end = found.start() if found else len(data)
    if not np.array_equal(decode(data[:end] + _MORE_BYTES + data[end:]), tile):
        return False
    gray = (tile[..., -8:, -8:, :] == 128).all()
    return bool(gray or not np.array_equal(decode(data[: end - _FEWER_BYTES] + data[end:]), tile))


def header(path: pathlib.Path, kind: str) -> tuple[Image.Image, int, int, int]:
    """Returns (image, EXIF orientation, bit depth, PNG's colour type) of a file, undecoded.

    The image is closed. Bit depth and colour type (PNG specification, section 11.2.2) are 8 and 0
    for other formats.
    """
    with path.open("rb") as stream:
        image = open_pillow(path, kind, stream)
        # The base class's method: that of PNG decodes the image to look for a late chunk.
        orientation = Image.Image.getexif(image).get(274, 1)
        stream.seek(24)
        depth, color = stream.read(2) if kind == "PNG" else (8, 0)
    return image, orientation if orientation in range(1, 9) else 1, depth, color


def decode_pillow(path: pathlib.Path, kind: str, deep: bool, labels: bool = False) -> np.ndarray:
    """Returns the samples: uint8 (or uint16, if deep), grey, grey + alpha, RGB or RGBA."""
    with path.open("rb") as stream, refused_if_damaged(path):
        if deep:
            # Pillow drops the low byte of 16-bit colours without a word.
            return imagecodecs.png_decode(stream.read())
        image = open_pillow(path, kind, stream)
        image.load()
        if labels:
            return np.asarray(image)
        if image.mode == "1":
            return np.asarray(image.convert("L"))
        if "transparency" in image.info or image.mode == "PA":
            return np.asarray(image.convert("RGBA"))
        return np.asarray(image.convert("RGB") if image.mode == "P" else image)
