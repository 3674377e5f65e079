"""Reads images, whole or by region, as uint8 (H, W, 3): RGB with 0 black and 255 white.

A file that ends early, samples that are neither 8-bit nor full-range 16-bit, and colours other than
RGB, grey and palette are refused by name. Embedded colour profiles are not applied.

Pillow decodes PNG, JPEG and BMP whole. TIFF (also BigTIFF and pyramids such as .svs) is read by
tile or strip: a region costs the memory of the tiles that it touches. OpenSlide reads the slides of
other scanners.
"""

import contextlib
import functools
import logging
import math
import os
import pathlib
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
import tifffile

from histojax.errors import UserError
from histojax.imaging import conversion, formats, mpp, openslide_file, tiff, tiling

# Endings by which folders are searched for images; the first bytes say what a file is.
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".svs", *openslide_file.SUFFIXES)
SLIDE_SUFFIXES = openslide_file.SUFFIXES

# The largest image that is decoded at once by default, px: 16,384 x 16,384, 0.8 GiB as RGB.
MAX_PIXELS = 2**28
# Lanczos3 as Pillow has it reaches 3 source px beyond a region, times the reduction.
_SUPPORT = 3
# Source pixels that are resampled at once; a strong reduction of one tile reads a thousand tiles.
_AT_ONCE = 2**26
# Share by which a level may be too small for what is asked for.
_ROUNDED = 1e-3

Path = str | os.PathLike[str]
_Region = Callable[[int, int, int, int], np.ndarray]


class Reduction(NamedTuple):
    """A level of a pyramid: its size, px, and what reads regions of it, as a reader does."""

    height: int
    width: int
    read: _Region


class RegionReader(contextlib.ExitStack):
    """An open image whose regions can be read; a context manager, usable from several threads.

    Attributes:
        path: the file.
        height, width: size in pixels, after EXIF or TIFF orientation.
        page: which of the file's pages is the image, such as "page 2 of 3".
        mpp: micrometres per pixel as the file states it, or None; never guessed.
        mpp_from: where it is stated: "OME", "Aperio", "ImageJ" or "resolution tags"; else "none",
            with the reason in brackets where what is stated is not taken.
        orientation: the EXIF or TIFF tag by which the stored pixels were turned, 1 for upright.
        reductions: the smaller levels of a pyramid, largest first.
        bounds: y, x, height, width of what was scanned, px.
        power: magnification of a slide's objective, or None.
        whole: whether it is decoded whole, so that damage leaves nothing of it.
        segments: of a TIFF, closed with it.
    """

    def __init__(
        self,
        path: pathlib.Path,
        size: tuple[int, int],
        region: _Region,
        *,
        page: str = "page 1 of 1",
        scale: tuple[float | None, str] = (None, "none"),
        orientation: int = 1,
        segments: tiff.Segments | None = None,
        reductions: Sequence[Reduction] = (),
    ):
        super().__init__()
        self.path, (self.height, self.width), self.page = path, size, page
        self.mpp, self.mpp_from = scale
        self.orientation, self.segments = orientation, segments
        self.reductions = tuple(reductions)
        self.bounds: tuple[int, int, int, int] = (0, 0, *size)
        self.power: float | None = None
        self.whole = True
        self._region = region
        if segments is not None:
            self.callback(segments.close)
        known = f"{self.mpp:.4g} um/px from {self.mpp_from}" if self.mpp else "unknown"
        what = f"is read: {page}, {self.width} x {self.height} px, scale {known}"
        reason = "" if self.mpp else self.mpp_from.removeprefix("none")
        conversion.log_once(path, what + reason, logging.INFO)

    def read(self, y: int, x: int, height: int, width: int) -> np.ndarray:
        """Returns the pixels of a region from y, x on as a new uint8 array (height, width, 3).

        Raises:
            ValueError: the region is not inside the image.
            UserError: the file is damaged there.
        """
        if not (0 <= y < y + height <= self.height and 0 <= x < x + width <= self.width):
            raise ValueError(
                f"region y={y} x={x} height={height} width={width} is not inside "
                f"{self.path} of {self.height} x {self.width} px"
            )
        return self._region(y, x, height, width)


class ResampledReader:
    """A reader, closed by its owner, seen with `factor` (above 0) times as many pixels a side.

    Regions are resampled with antialiased Lanczos from the source pixels around them, so that a
    region does not depend on how the image is cut, to within rounding. The source is the smallest
    level of a pyramid that is no smaller than what is asked for.
    """

    def __init__(self, reader: tiling.RegionReader, factor: float):
        self.height = max(1, round(reader.height * factor))
        self.width = max(1, round(reader.width * factor))
        self._reader: tiling.RegionReader | Reduction = reader
        for level in reader.reductions if isinstance(reader, RegionReader) else ():
            # The sides of a level are rounded: 4.0001 is 4.
            if level.width * (1 + _ROUNDED) >= self.width:
                self._reader = level

    def read(self, y: int, x: int, height: int, width: int) -> np.ndarray:
        """uint8 (height, width, 3) of the region at y, x of the resampled image."""
        top, bottom, y0, y1 = self._span(y, height, self.height, self._reader.height)
        left, right, x0, x1 = self._span(x, width, self.width, self._reader.width)
        if (bottom - top) * (right - left) > _AT_ONCE and height > 1:
            half = height // 2
            parts = self.read(y, x, half, width), self.read(y + half, x, height - half, width)
            return np.concatenate(parts)
        source = self._reader.read(top, left, bottom - top, right - left)
        box = (x0 - left, y0 - top, x1 - left, y1 - top)
        if (height, width) == source.shape[:2]:
            return np.asarray(source)
        image = PIL.Image.fromarray(np.ascontiguousarray(source))
        return np.asarray(image.resize((width, height), PIL.Image.Resampling.LANCZOS, box=box))

    def _span(
        self, start: int, length: int, size: int, source: int
    ) -> tuple[int, int, float, float]:
        """(first, last source px to read, exact begin, exact end of the region in source px)."""
        step = source / size
        begin, end = start * step, min((start + length) * step, source)
        if source == size:
            return start, start + length, begin, end
        margin = math.ceil(_SUPPORT * max(step, 1.0)) + 1
        return max(0, int(begin) - margin), min(source, math.ceil(end) + margin), begin, end


def listed(
    paths: Sequence[Path], flag: str, kind: tuple[str, str], suffixes: tuple[str, ...]
) -> list[pathlib.Path]:
    """The files among files and folders, those of a folder in order of name.

    Files of a folder end in one of `suffixes` and are not hidden; a file may end in anything.

    Raises:
        UserError: for a path that is not there, or a folder without such files: it names the `flag`
            and the `kind`, such as ("an image", "images").
    """
    one, several = kind
    files: list[pathlib.Path] = []
    for path in map(pathlib.Path, paths):
        if path.is_dir():
            visible = (p for p in path.iterdir() if not (p.name.startswith(".") or p.is_dir()))
            found = sorted(p for p in visible if p.suffix.lower() in suffixes)
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
    """Opens a PNG, JPEG, BMP or TIFF file for reading by region; only its header is read here.

    TIFF is decoded by tile or strip (uncompressed strips in parts of about 1 MiB), and may have any
    size. Other formats, 16-bit TIFF (whose range must be seen whole) and TIFF with an orientation
    are decoded whole at the first read and kept with the reader.

    Args:
        max_pixels: largest image, or single strip or tile, that is decoded whole, px.
        cache_bytes: bound on the decoded tiles that are kept for the next region.

    Raises:
        UserError: not a readable image, truncated, not converted, or larger than max_pixels.
    """
    path = pathlib.Path(path)
    if openslide_file.reads(path):
        return _slide(path)
    kind = formats.kind(path)
    if kind != "TIFF":
        return _pillow_image(path, kind, max_pixels)
    file = tiff.open_tiff(path)
    try:
        with conversion.refused_if_damaged(path):
            return _tiff_image(path, file, max_pixels, cache_bytes)
    except BaseException:
        file.close()
        raise


def read_image(path: Path, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Reads a PNG, JPEG, BMP or TIFF file of at most `max_pixels` px whole, uint8 RGB (H, W, 3).

    Grey, 1-bit and palette images become RGB. Transparency is composited over white, with one
    warning in the log. 16-bit samples v that use the full range become round(v / 257). EXIF
    orientation is applied. A pyramid is read at its full resolution. UserError as in `open_image`.
    """
    with open_image(path, max_pixels=max_pixels, cache_bytes=0) as image:
        conversion.check_pixels(image.path, image.height * image.width, max_pixels)
        return image.read(0, 0, image.height, image.width)


def image_size(path: Path) -> tuple[int, int]:
    """Returns (height, width) in px of an image or label map from its header, undecoded."""
    path = pathlib.Path(path)
    kind = formats.kind(path)
    if kind == "TIFF":
        with tiff.open_tiff(path) as file, conversion.refused_if_damaged(path):
            page = tiff.image_pages(path, file)[0]
            return conversion.oriented_size(
                page.imagelength, page.imagewidth, tiff.orientation_of(page)
            )
    image, orientation, _, _ = formats.header(path, kind)
    return conversion.oriented_size(image.height, image.width, orientation)


def _decoded_once(decode: Callable[[], np.ndarray]) -> _Region:
    """The function that reads regions of an image that is decoded whole, at the first read."""
    whole, lock = functools.cache(decode), threading.Lock()

    def region(y: int, x: int, height: int, width: int) -> np.ndarray:
        with lock:
            pixels = whole()
        return pixels[y : y + height, x : x + width].copy()

    return region


def _tiff_image(
    path: pathlib.Path, file: tifffile.TiffFile, max_pixels: int, cache_bytes: int
) -> RegionReader:
    pages = tiff.image_pages(path, file)
    page = pages[0]
    height, width, orientation = page.imagelength, page.imagewidth, tiff.orientation_of(page)
    # The range of 16-bit samples is a property of all of them.
    whole = page.bitspersample == 16 or orientation != 1
    kept = 0 if whole else cache_bytes
    # Scanners show white where they left out a tile.
    white = 0 if page.photometric in (0, 3) else 2 ** min(page.bitspersample, 16) - 1
    segments = tiff.Segments(path, file, pages, cache_bytes=kept, background=white)
    to_rgb = tiff.rgb_conversion(path, page, segments)

    def read(*region: int) -> np.ndarray:
        return to_rgb(segments.read(*region))

    def reduced(other: Any) -> Reduction:
        own = tiff.Segments(path, file, [other], cache_bytes=kept // 2, background=white)
        own.lock = segments.lock  # of the file that both read
        convert = tiff.rgb_conversion(path, other, own)
        return Reduction(other.imagelength, other.imagewidth, lambda *at: convert(own.read(*at)))

    smaller = tiff.reductions(path, file, page) if len(pages) == 1 and not whole else []
    pixels, what = height * width, ""
    if not whole:
        pixels, what = segments.rows * segments.columns, "a tile or strip of "
    conversion.check_pixels(path, pixels, max_pixels, what)
    image = RegionReader(
        path,
        conversion.oriented_size(height, width, orientation),
        _decoded_once(lambda: conversion.orient(read(0, 0, height, width), orientation))
        if whole
        else read,
        page=tiff.name_of(file, pages),
        scale=mpp.first_plausible(path, mpp.stated_in_tiff(file, page)),
        orientation=orientation,
        segments=segments,
        reductions=[reduced(other) for other in smaller],
    )
    image.power, image.whole = mpp.objective_in_tiff(page), whole
    return image


def _slide(path: pathlib.Path) -> RegionReader:
    slide = openslide_file.OpenSlideFile(path)
    scale = mpp.first_plausible(path, slide.stated)
    name = f"level 1 of {len(slide.levels)}"
    first, *smaller = (
        Reduction(*size, functools.partial(slide.read, index))
        for index, size in enumerate(slide.levels)
    )
    image = RegionReader(path, first[:2], first.read, page=name, scale=scale, reductions=smaller)
    image.callback(slide.close)
    image.bounds, image.power, image.whole = slide.bounds, slide.power, False
    return image


def _pillow_image(path: pathlib.Path, kind: str, max_pixels: int) -> RegionReader:
    image, orientation, depth, _ = formats.header(path, kind)
    deep = depth == 16
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        raise UserError(
            f"{path} is an animation of {frames} frames, and one image is read: export one frame"
        )
    if image.mode not in ("1", "L", "P", "RGB", "LA", "PA", "RGBA") and not deep:
        raise UserError(
            f"{path} is a {image.mode} image, and only grey, palette and RGB (with or without "
            "alpha) are converted: convert it to 8-bit RGB"
        )
    conversion.check_pixels(path, image.height * image.width, max_pixels)

    def decode() -> np.ndarray:
        pixels = formats.decode_pillow(path, kind, deep)
        pixels = conversion.eight_bits(path, pixels) if deep else pixels
        if pixels.shape[2:] in ((2,), (4,)) and not pixels[..., -1].any():
            pixels = conversion.without_alpha(path, pixels)
        return conversion.orient(conversion.flatten(path, pixels), orientation)

    size = conversion.oriented_size(image.height, image.width, orientation)
    x, y = (1 / float(dpi) if dpi else 0.0 for dpi in image.info.get("dpi", (0, 0)))
    scale = mpp.first_plausible(path, [("resolution tags", x, y, "inch")])
    return RegionReader(path, size, _decoded_once(decode), scale=scale, orientation=orientation)
