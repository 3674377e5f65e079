"""TIFF pages: tiles and strips decoded as they are touched, conversion to RGB, physical scale.

tifffile finds and decodes pages; a bounded cache and the refusal of files that end early are added.
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
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import numpy as np
import tifffile
from PIL import Image

from histojax.errors import UserError
from histojax.imaging.conversion import eight_bits, flatten, log_once, refused_if_damaged, truncated

# What it would log of a malformed file is checked here, and refused in one sentence.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)

_MPP_RANGE = (0.05, 20.0)
_APERIO_YCBCR_J2K = 33003
JPEG_COMPRESSIONS = {6, 7, 34892, 33007}
# Codecs whose stream names its own colours, so that the decoder has already returned RGB.
_RGB_FROM_YCBCR = JPEG_COMPRESSIONS | {33004, 33005, 34712, 50001, 50002, 52546}
_VIRTUAL_STRIP_BYTES = 2**20


class Segments:
    """Tiles or strips of one TIFF page, as stored; those decoded last are kept.

    Usable from several threads: reading the file is locked, decoding is not.

    Attributes:
        rows, columns: size of what is decoded at once, px.
    """

    def __init__(
        self,
        path: pathlib.Path,
        tiff: tifffile.TiffFile,
        page: Any,
        *,
        cache_bytes: int = 0,
        background: int = 0,
    ):
        """Segments that the file leaves out are filled with `background`."""
        self._path, self._page, self._background = path, page, background
        self._tiff, self._lock = tiff, threading.Lock()
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
        self._planes = page.samplesperpixel if page.planarconfig == 2 else 1
        samples = self.rows * self.columns * page.samplesperpixel // self._planes
        kept = cache_bytes // (samples * page.dtype.itemsize)
        self._segment = functools.lru_cache(maxsize=kept)(self._decode)

    @property
    def decoded(self) -> int:
        """How many segments have been decoded so far."""
        return self._segment.cache_info().misses

    def read(self, y: int, x: int, height: int, width: int) -> np.ndarray:
        """Returns the region's stored samples (height, width, samples)."""
        out = np.empty((height, width, self._page.samplesperpixel), self._page.dtype)
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

    def close(self) -> None:
        """Closes the file, and lets go of the segments that are kept."""
        self._segment.cache_clear()
        self._tiff.close()

    def _decode(self, index: int) -> np.ndarray:
        page = self._page
        if self._row_bytes:
            top = index * self.rows
            count = min(self.rows, page.imagelength - top) * self._row_bytes
            data = self._bytes(page.dataoffsets[0] + top * self._row_bytes, count)
            return np.frombuffer(data, np.uint8).reshape(-1, page.imagewidth, page.samplesperpixel)
        data = self._bytes(page.dataoffsets[index], page.databytecounts[index])
        tables = {}
        if page.compression in JPEG_COMPRESSIONS:
            tables = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader}
            # The JPEG decoder fills what is missing with grey and does not say so.
            if page.jpegheader is None and data and b"\xff\xd9" not in data[-64:]:
                raise UserError(f"{self._path} is damaged (tile {index} is cut off): copy it again")
        with refused_if_damaged(self._path):
            decoded, _, shape = page.decode(data or None, index, **tables)
        if decoded is None:
            return np.full(shape[1:], self._background, page.dtype)
        segment = decoded.reshape(decoded.shape[-3:])
        if page.compression == _APERIO_YCBCR_J2K:
            size = (segment.shape[1], segment.shape[0])
            segment = np.asarray(Image.frombytes("YCbCr", size, segment.tobytes()).convert("RGB"))
        return segment

    def _bytes(self, offset: int, count: int) -> bytes:
        with self._lock:
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
        return tifffile.TiffFile(path)


def full_resolution_page(path: pathlib.Path, tiff: tifffile.TiffFile) -> Any:
    """Returns the full-resolution page of the first image, having checked that it is all there."""
    if not tiff.pages:
        raise truncated(path)
    level = tiff.series[0].levels[0]
    page = level.keyframe
    planes = level.size // page.size
    _check_tags(path, tiff, page)
    if planes != 1 or page.imagedepth != 1:
        raise UserError(
            f"{path} holds {max(planes, page.imagedepth)} planes (axes {level.axes}), and one "
            "image is read: export a single plane"
        )
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


def _check_tags(path: pathlib.Path, tiff: tifffile.TiffFile, page: Any) -> None:
    """Refuses a page whose tags reach beyond the file: tifffile would go by their defaults."""
    form, file = tiff.tiff, tiff.filehandle
    if form.is_ndpi:  # its entries are longer than those of the file's version
        return
    file.seek(page.offset)
    count = struct.unpack(form.tagnoformat, file.read(form.tagnosize))[0]
    entries = file.read(count * form.tagsize)
    if len(entries) < count * form.tagsize:
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


def orientation_of(page: Any) -> int:
    """Returns the Orientation tag, 1 (upright) where it is absent or out of range."""
    orientation = page.tags.valueof(274, 1)
    return orientation if orientation in range(1, 9) else 1


def rgb_conversion(path: pathlib.Path, page: Any) -> Callable[[np.ndarray], np.ndarray]:
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
    if page.samplesperpixel != colors + (extras in ([1], [2])):
        raise UserError(
            f"{path} holds {page.samplesperpixel} bands, and an image has 1 or 3, and at most one "
            "more that is marked as alpha: export the RGB bands alone"
        )

    palette = None
    if photometric == 3:
        # The high byte: writers disagree on whether 8-bit v is stored as 257 v or 256 v.
        palette = (page.colormap.T >> 8).astype(np.uint8)

    def convert(raw: np.ndarray) -> np.ndarray:
        if palette is not None:
            return palette[raw[..., 0].astype(np.intp)]
        if bits == 1:
            raw = raw.astype(np.uint8) * np.uint8(255)
        if bits == 16:
            raw = eight_bits(path, raw)
        if photometric == 0:
            raw = 255 - raw
        return flatten(path, raw, premultiplied=extras == [1])

    return convert


def mpp_of(tiff: tifffile.TiffFile, page: Any) -> float | None:
    """Returns um per px from OME-XML, Aperio's description, ImageJ's unit or resolution tags."""
    description = page.description or ""
    x, y = _ome_mpp(tiff.ome_metadata or "") if tiff.is_ome else (None, None)
    if x is None and (aperio := re.search(r"\bMPP\s*=\s*([0-9.]+)", description)):
        x = y = _number(aperio[1])
    if x is None:
        x, y = _resolution_mpp(tiff, page)
    if x is None or y is None or not all(_MPP_RANGE[0] <= v <= _MPP_RANGE[1] for v in (x, y)):
        return None
    if abs(x - y) > 0.01 * max(x, y):
        path = pathlib.Path(tiff.filehandle.path)
        log_once(path, f"has pixels of {x:.4g} x {y:.4g} um: scale taken as unknown")
        return None
    return float(x)


def _number(text: str) -> float | None:
    with contextlib.suppress(ValueError):
        return float(text)
    return None


def _ome_mpp(xml: str) -> tuple[float | None, float | None]:
    """Returns PhysicalSizeX and Y of the first image, um (OME 2016-06 schema, Pixels)."""
    try:
        pixels = next(e for e in ElementTree.fromstring(xml).iter() if e.tag.endswith("Pixels"))
    except (ElementTree.ParseError, StopIteration):
        return None, None
    sizes = []
    for axis in "XY":
        size = _number(pixels.get(f"PhysicalSize{axis}", ""))
        unit = pixels.get(f"PhysicalSize{axis}Unit", "µm")
        um = {"nm": 1e-3, "µm": 1.0, "μm": 1.0, "um": 1.0, "mm": 1e3, "cm": 1e4}.get(unit)
        sizes.append(size * um if size is not None and um else None)
    return sizes[0], sizes[1] if sizes[1] is not None else sizes[0]


def _resolution_mpp(tiff: tifffile.TiffFile, page: Any) -> tuple[float | None, float | None]:
    unit = {2: 25400.0, 3: 10000.0}.get(int(page.tags.valueof(296, 2)))
    if tiff.is_imagej:
        named = (tiff.imagej_metadata or {}).get("unit", "")
        unit = 1.0 if named in ("micron", "um", "µm", "\\u00B5m") else None
    values = []
    for tag in (282, 283):
        numerator, denominator = page.tags.valueof(tag, (0, 1))
        values.append(unit * denominator / numerator if unit and numerator else None)
    return values[0], values[1]
