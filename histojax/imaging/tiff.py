"""TIFF pages: which one is the image, its tiles decoded as they are touched, conversion to RGB.

tifffile lists and decodes pages; the choice among them, a bounded cache and the refusal of files
that end early are added.
"""

import contextlib
import functools
import itertools
import logging
import math
import pathlib
import re
import struct
import threading
from collections.abc import Callable, Sequence
from typing import Any
from xml.etree import ElementTree

import numpy as np
import tifffile
from PIL import Image

from histojax.errors import UserError
from histojax.imaging import formats
from histojax.imaging.conversion import (
    eight_bits,
    flatten,
    log_once,
    refused_if_damaged,
    truncated,
    without_alpha,
)

# What it would log of a malformed file is checked here, and refused in one sentence.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)

# Pages of a slide that show something else than the tissue, as scanners describe them.
_ASIDE = re.compile(
    r"^\W*(label|macro|thumbnail|overview|probability)|<ImageType>(label|overview|thumbnail)",
    re.IGNORECASE | re.MULTILINE,
)
_APERIO_YCBCR_J2K = 33003
JPEG_COMPRESSIONS = {6, 7, 34892, 33007}
# Codecs whose stream names its own colours, so that the decoder has already returned RGB.
_RGB_FROM_YCBCR = JPEG_COMPRESSIONS | {33004, 33005, 34712, 50001, 50002, 52546}
_VIRTUAL_STRIP_BYTES = 2**20
_MOST_TRIED = 1024  # Where 1 % of the segments are opaque, one of them is missed once in 30,000.


class Segments:
    """Tiles or strips of one image, as stored; those decoded last are kept.

    Usable from several threads: reading the file is locked, decoding is not.

    Attributes:
        rows, columns: size of what is decoded at once, px.
        lock: held while the file is read.
    """

    def __init__(
        self,
        path: pathlib.Path,
        tiff: tifffile.TiffFile,
        pages: Sequence[Any],
        *,
        cache_bytes: int = 0,
        background: int = 0,
    ):
        """Several pages, all alike, are the channels of one image.

        Segments that the file leaves out are filled with `background`.
        """
        page = pages[0]
        self._path, self._pages, self._background = path, pages, background
        self._tiff, self.lock = tiff, threading.Lock()
        self._row_bytes = page.imagewidth * page.samplesperpixel if _is_flat(page) else 0
        if page.is_tiled:
            self.rows, self.columns = page.tilelength, page.tilewidth
        else:
            self.rows, self.columns = min(page.rowsperstrip, page.imagelength), page.imagewidth
        if self._row_bytes:
            # Many writers store an uncompressed image as one strip, as large as the image.
            self.rows = min(max(1, _VIRTUAL_STRIP_BYTES // self._row_bytes), page.imagelength)
        self._across = math.ceil(page.imagewidth / self.columns)
        self._down = math.ceil(page.imagelength / self.rows)
        self._samples = page.samplesperpixel * len(pages)
        self._planes = self._samples if page.planarconfig == 2 else len(pages)
        samples = self.rows * self.columns * self._samples // self._planes
        kept = cache_bytes // (samples * page.dtype.itemsize)
        self._segment = functools.lru_cache(maxsize=kept)(self._decode)

    @property
    def decoded(self) -> int:
        """How many segments have been decoded so far."""
        return self._segment.cache_info().misses

    def read(self, y: int, x: int, height: int, width: int) -> np.ndarray:
        """Returns the region's stored samples (height, width, samples)."""
        out = np.empty((height, width, self._samples), self._pages[0].dtype)
        rows = range(y // self.rows, (y + height - 1) // self.rows + 1)
        columns = range(x // self.columns, (x + width - 1) // self.columns + 1)
        for plane, row, column in itertools.product(range(self._planes), rows, columns):
            segment = self._segment((plane * self._down + row) * self._across + column)
            top, left = row * self.rows, column * self.columns
            y0, y1 = max(y, top), min(y + height, top + self.rows)
            x0, x1 = max(x, left), min(x + width, left + self.columns)
            channels = slice(None) if self._planes == 1 else slice(plane, plane + 1)
            part = segment[y0 - top : y1 - top, x0 - left : x1 - left]
            out[y0 - y : y1 - y, x0 - x : x1 - x, channels] = part
        return out

    @functools.cached_property
    def ends_blank(self) -> bool:
        """Whether the last channel is 0 in the whole image, or in _MOST_TRIED random segments."""
        count = self._down * self._across
        tried = np.random.default_rng(0).permutation(count)[:_MOST_TRIED].tolist()
        last = (self._segment(count * (self._planes - 1) + index) for index in tried)
        return not any(segment[..., -1].any() for segment in last)

    def close(self) -> None:
        """Closes the file, and lets go of the segments that are kept."""
        self._segment.cache_clear()
        self._tiff.close()

    def _decode(self, index: int) -> np.ndarray:
        of_page = self._down * self._across * self._planes // len(self._pages)
        page, index = self._pages[index // of_page], index % of_page
        if self._row_bytes:
            top = index * self.rows
            count = min(self.rows, page.imagelength - top) * self._row_bytes
            data = self._bytes(page.dataoffsets[0] + top * self._row_bytes, count)
            return np.frombuffer(data, np.uint8).reshape(-1, page.imagewidth, page.samplesperpixel)
        data = self._bytes(page.dataoffsets[index], page.databytecounts[index])
        decode, checked = page.decode, False
        if page.compression in JPEG_COMPRESSIONS:
            tables = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader}
            decode = functools.partial(page.decode, _fullsize=page.is_tiled, **tables)
            checked = page.is_tiled
            # The JPEG decoder fills what is missing with grey and does not say so.
            ended = b"\xff\xd9" in data[-64:] or not data or formats.jpeg_ends(data)
            if page.jpegheader is None and not ended:
                raise UserError(f"{self._path} is damaged (tile {index} is cut off): copy it again")
        with refused_if_damaged(self._path):
            decoded, _, shape = decode(data or None, index)
            if checked and not formats.jpeg_is_whole(decoded, data, lambda d: decode(d, index)[0]):
                raise UserError(f"{self._path} is damaged (inside tile {index}): copy it again")
        if decoded is None:
            return np.full(shape[1:], self._background, page.dtype)
        segment = decoded.reshape(decoded.shape[-3:])
        if page.compression == _APERIO_YCBCR_J2K:
            size = (segment.shape[1], segment.shape[0])
            segment = np.asarray(Image.frombytes("YCbCr", size, segment.tobytes()).convert("RGB"))
        return segment

    def _bytes(self, offset: int, count: int) -> bytes:
        with self.lock:
            self._tiff.filehandle.seek(offset)
            data = self._tiff.filehandle.read(count)
        if len(data) != count:
            raise truncated(self._path)
        return data


def _is_flat(page: Any) -> bool:
    """Whether the page's rows lie one after another in the file, as plain bytes."""
    plain = {page.compression, page.predictor, page.fillorder, page.planarconfig} == {1}
    if page.is_tiled or not (plain and page.bitspersample == 8 and page.is_contiguous):
        return False
    return sum(page.databytecounts) >= page.imagelength * page.imagewidth * page.samplesperpixel


def open_tiff(path: pathlib.Path) -> tifffile.TiffFile:
    """Opens a TIFF file, or raises UserError."""
    with refused_if_damaged(path):
        # Not as OME-TIFF: tifffile would open the files that its metadata names, also those that a
        # copy or a renaming has left behind, and read one at the offsets of another.
        return tifffile.TiffFile(path, is_ome=False)


def image_pages(path: pathlib.Path, tiff: tifffile.TiffFile) -> list[Any]:
    """Returns the page that is the image, checked to be all there, or three with a colour each.

    It is the page with the most pixels, wherever it stands in the file; never a label, a macro
    image, a mask or a thumbnail. UserError: a stack of planes, or not all of it is there.
    """
    if tiff.is_bif:
        raise UserError(
            f"{path} is a Ventana slide, whose tiles overlap: export it as a pyramidal TIFF"
        )
    pages = _own_pages(path, tiff)
    page = _full_resolution(path, pages)
    alike = [other for other in pages if _kind(other) == _kind(page)]
    levels = [level for series in tiff.series for level in series.levels]
    # Some writers describe a whole stack in its first page.
    within = [level.size // page.size for level in levels if level.keyframe.offset == page.offset]
    planes = max(len(alike), page.imagedepth, *within)
    if (pixels := ome_pixels(tiff, page)) is not None:
        z, t, channels = (int(pixels.get(f"Size{axis}", "1")) for axis in "ZTC")
        planes = max(planes, z * t * channels // page.samplesperpixel)
        # Those of fluorescence have other names.
        names = "".join(e.get("Name", "")[:1] for e in pixels if e.tag.endswith("}Channel"))
        gray = page.samplesperpixel == page.photometric == 1
        if gray and (z * t, channels, len(alike)) == (1, 3, 3) and names.upper() in ("", "RGB"):
            return [_complete(path, tiff, plane) for plane in alike]
    if planes > 1:
        raise UserError(
            f"{path} is an image of {planes} planes, and an image of one is read: export a single "
            "plane, or all as one RGB image"
        )
    return [_complete(path, tiff, page)]


def reductions(path: pathlib.Path, tiff: tifffile.TiffFile, page: Any) -> list[Any]:
    """The pages that show a page's image smaller, flagged or not, largest first.

    A page that is stored otherwise, such as a thumbnail, or not all there is left out.
    """
    found = []
    for other in sorted(_own_pages(path, tiff), key=lambda p: -p.imagelength):
        smaller = other.imagelength * other.imagewidth < page.imagelength * page.imagewidth
        alike = _of_one_shape(page, other, px=2, share=0.0) and not _ASIDE.search(other.description)
        if smaller and alike and _kind(other)[2:5] == _kind(page)[2:5]:
            with contextlib.suppress(UserError):
                found.append(_complete(path, tiff, other))
    return found


def _of_one_shape(page: Any, other: Any, px: int = 1, share: float = 0.05) -> bool:
    height = page.imagelength * other.imagewidth / page.imagewidth
    return abs(height - other.imagelength) <= px + share * other.imagelength


def name_of(tiff: tifffile.TiffFile, pages: Sequence[Any]) -> str:
    """The pages of an image in words, numbered from 1; the first that hangs on page 1 is 1.1."""
    numbers = [".".join(str(i + 1) for i in page.treeindex) for page in pages]
    return f"page{'s' * (len(pages) > 1)} {', '.join(numbers)} of {len(tiff.pages)}"


def _own_pages(path: pathlib.Path, tiff: tifffile.TiffFile) -> list[Any]:
    """The pages of the file itself, those that hang on others included."""
    pages, following = list(tiff.pages), 0
    for page in pages:
        following = _check_tags(path, tiff, page)
    # tifffile ends the list before a page that cannot be read, which may be the image.
    if not pages or following not in (0, *(page.offset for page in pages)):
        raise truncated(path)
    found = [each for page in pages for each in (page, *(page.pages or ()))]
    return [page for page in found if page.imagelength and page.imagewidth]


def _kind(page: Any) -> tuple[Any, ...]:
    """What the planes of a stack have in common; a thumbnail is stored in another way."""
    shape = (page.imagelength, page.imagewidth, page.samplesperpixel)
    return *shape, page.dtype, page.is_tiled, page.subfiletype & 1


def _full_resolution(path: pathlib.Path, pages: Sequence[Any]) -> Any:
    """The page with the most pixels among those that show the tissue."""

    def size(page: Any) -> tuple[int, int]:
        return page.imagelength * page.imagewidth, page.samplesperpixel

    shown = [page for page in pages if not page.subfiletype & 4] or pages  # 4: a mask of another
    plain = [p for p in shown if not (p.subfiletype & 1 or _ASIDE.search(p.description))] or shown
    # Scanners store tissue in tiles, and in strips the macro image, which may have more pixels.
    plain = [page for page in plain if page.is_tiled] or plain
    chosen = max(plain, key=size)
    # Nor is a reduction larger than its image, whatever the two are called.
    chosen = max((page for page in shown if _of_one_shape(page, chosen)), key=size)
    for page in plain:
        reduction = _of_one_shape(page, chosen) and size(page)[0] < size(chosen)[0]
        if not reduction and _kind(page) != _kind(chosen):
            both = [f"{p.imagewidth} x {p.imagelength} px" for p in (chosen, page)]
            log_once(path, f"holds several pictures: of {both[0]}, which is read, and of {both[1]}")
            break
    return chosen


def ome_pixels(tiff: tifffile.TiffFile, page: Any) -> ElementTree.Element | None:
    """The Pixels element (OME 2016-06 schema) of the image of a page's size, or None."""
    text = tiff.pages.first.description or ""
    if not text.rstrip().endswith("OME>"):
        return None
    try:
        found = [e for e in ElementTree.fromstring(text).iter() if e.tag.endswith("}Pixels")]
    except ElementTree.ParseError:
        return None
    size = (str(page.imagewidth), str(page.imagelength))
    return next((e for e in found if (e.get("SizeX"), e.get("SizeY")) == size), None)


def _complete(path: pathlib.Path, tiff: tifffile.TiffFile, page: Any) -> Any:
    """Returns the page, or refuses one whose tiles or strips are not all in the file."""
    down = math.ceil(page.imagelength / (page.tilelength if page.is_tiled else page.rowsperstrip))
    across = math.ceil(page.imagewidth / page.tilewidth) if page.is_tiled else 1
    needed = down * across * (page.samplesperpixel if page.planarconfig == 2 else 1)
    stored = (page.dataoffsets, page.databytecounts)
    offsets, counts = (np.asarray(values[:needed], np.int64) for values in stored)
    known = min(len(offsets), len(counts))
    if known < needed or (offsets + counts).max() > tiff.filehandle.size:
        raise truncated(path)
    left_out = np.count_nonzero(counts == 0)
    if left_out == needed:
        raise UserError(
            f"{path} has {page.imagelength} x {page.imagewidth} px and holds none of its {needed} "
            "tiles or strips: copy or export it again"
        )
    if left_out:
        log_once(path, f"leaves out {left_out} of {needed} tiles: read as background")
    return page


def _check_tags(path: pathlib.Path, tiff: tifffile.TiffFile, page: Any) -> int:
    """Returns where the next page begins (0: none).

    A page whose tags reach beyond the file is refused: tifffile would go by their defaults.
    """
    form, file = tiff.tiff, tiff.filehandle
    if form.is_ndpi:  # its entries are longer than those of the file's version
        return 0
    file.seek(page.offset)
    count = struct.unpack(form.tagnoformat, file.read(form.tagnosize))[0]
    entries = file.read(count * form.tagsize)
    following = file.read(form.offsetsize)
    if not count or len(following) < form.offsetsize:
        raise truncated(path)
    inline = form.tagoffsetthreshold
    for start in range(0, len(entries), form.tagsize):
        entry = entries[start : start + form.tagsize]
        _, kind = struct.unpack(form.tagformat1, entry[:4])
        number, value = struct.unpack(form.tagformat2, entry[4 : 4 + 2 * inline])
        size = number * struct.calcsize(tifffile.TIFF.DATA_FORMATS.get(kind, "0s"))
        if size > inline:
            offset = struct.unpack(form.offsetformat, value[: form.offsetsize])[0]
            if offset + size > file.size:
                raise truncated(path)
    return struct.unpack(form.offsetformat, following)[0]


def orientation_of(page: Any) -> int:
    """Returns the Orientation tag, 1 (upright) where it is absent or out of range."""
    orientation = page.tags.valueof(274, 1)
    return orientation if orientation in range(1, 9) else 1


def rgb_conversion(
    path: pathlib.Path, page: Any, segments: Segments
) -> Callable[[np.ndarray], np.ndarray]:
    """Returns the function from stored samples (h, w, samples) to uint8 RGB (h, w, 3)."""
    bits, photometric = page.bitspersample, page.photometric
    if page.sampleformat != 1 or bits not in (1, 8, 16):
        raise UserError(
            f"{path} holds {page.dtype} samples of {bits} bits, neither 8-bit nor full-range "
            "16-bit: convert it to 8-bit RGB"
        )
    colors = {0: 1, 1: 1, 2: 3, 3: 1, 6: 3}.get(int(photometric))
    if colors is None or (photometric == 6 and page.compression not in _RGB_FROM_YCBCR):
        name = getattr(photometric, "name", photometric)
        raise UserError(
            f"{path} is a {name} TIFF ({getattr(page.compression, 'name', page.compression)}), and "
            "only grey, palette, RGB and JPEG's YCbCr are converted: convert it to 8-bit RGB"
        )
    extras = [int(extra) for extra in page.extrasamples]
    alpha = extras in ([1], [2])
    unspecified = colors == 3 and page.samplesperpixel == 4 and extras in ([], [0])
    if page.samplesperpixel != colors + (alpha or unspecified):
        raise UserError(
            f"{path} holds {page.samplesperpixel} bands, and an image has 1 or 3, and at most one "
            "more that is marked as alpha: export the RGB bands alone"
        )
    if unspecified:
        log_once(path, "has a fourth band of unspecified meaning: left out")

    palette = None
    if photometric == 3:
        # The high byte: writers disagree on whether 8-bit v is stored as 257 v or 256 v. Some store
        # v itself, and then no value has a high byte.
        colormap = page.colormap.T
        palette = (colormap if colormap.max() < 256 else colormap >> 8).astype(np.uint8)

    def convert(raw: np.ndarray) -> np.ndarray:
        if alpha and not raw[..., -1].any() and segments.ends_blank:
            raw = without_alpha(path, raw)
        if palette is not None:
            indexed = palette[raw[..., 0].astype(np.intp)]
            return flatten(path, np.concatenate([indexed, raw[..., 1:].astype(np.uint8)], -1))
        if bits == 1:
            raw = raw.astype(np.uint8) * np.uint8(255)
        if bits == 16:
            raw = eight_bits(path, raw)
        if photometric == 0:
            raw = np.concatenate([255 - raw[..., :1], raw[..., 1:]], -1)
        return flatten(path, raw[..., :3] if unspecified else raw, premultiplied=extras == [1])

    return convert
