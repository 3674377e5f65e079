"""Slides of scanners whose files are no plain TIFF, read by OpenSlide.

OpenSlide reads Hamamatsu (NDPI, VMS), MIRAX, Leica (SCN), Ventana (BIF), Philips, Sakura, Trestle,
Zeiss and DICOM. Those of Aperio, and TIFF of no scanner, are read as TIFF, tile by tile.
"""

import functools
import glob
import pathlib
import threading
from collections.abc import Iterable
from typing import Any

import numpy as np
import openslide

from histojax.errors import UserError

# Endings of what OpenSlide reads; one may be the index of a folder of files.
SUFFIXES = (".ndpi", ".mrxs", ".scn", ".bif", ".dcm", ".vms", ".vmu", ".svslide", ".czi")
# Of the files beside an index, those of its slide have its name and one of these endings.
_PICTURES = {".vms": (".jpg", ".opt"), ".vmu": (".ngr", ".opt")}
_AS_TIFF = (None, "aperio", "generic-tiff")
_ROWS = 256
_SCALES = ("openslide.mpp-x", "openslide.mpp-y")
_BOUNDS = tuple(f"openslide.bounds-{name}" for name in ("y", "x", "height", "width"))


def reads(path: pathlib.Path) -> bool:
    """Whether a file is a slide that OpenSlide reads and that is no plain TIFF."""
    return openslide.OpenSlide.detect_format(path) not in _AS_TIFF


@functools.cache
def series_of(path: pathlib.Path) -> str | None:
    """What the files of one DICOM slide share; None for other files and those not to be opened."""
    if path.suffix.lower() != ".dcm":
        return None
    try:
        with openslide.OpenSlide(path) as slide:
            return slide.properties.get("dicom.SeriesInstanceUID")
    except (openslide.OpenSlideError, OSError):
        return None


def others_of(path: pathlib.Path) -> list[pathlib.Path]:
    """The files of a slide other than `path`, which names it, in order of name."""
    ending, series = path.suffix.lower(), series_of(path)
    found: Iterable[pathlib.Path] = ()
    if ending == ".mrxs":
        found = path.with_suffix("").rglob("*")
    elif ending in _PICTURES:
        beside = path.parent.glob(f"{glob.escape(path.stem)}*")
        found = (other for other in beside if other.suffix.lower() in _PICTURES[ending])
    elif series is not None:
        found = (other for other in path.parent.iterdir() if series_of(other) == series)
    return sorted(other for other in found if other.is_file() and other != path)


class OpenSlideFile:
    """An open slide; its regions may be read from several threads.

    Attributes:
        levels: (H, W) of each, largest first.
        bounds: y, x, height, width of what was scanned, px of level 0.
        stated: what `mpp.first_plausible` takes.
        power: magnification of the objective, or None.
    """

    def __init__(self, path: pathlib.Path):
        """Raises UserError for a slide that cannot be opened."""
        self.path, self._lock = path, threading.Lock()
        self._slide = self._open()
        properties = self._slide.properties
        self.levels = [(h, w) for w, h in self._slide.level_dimensions]
        whole = (0, 0, *self.levels[0])
        y, x, height, width = (
            int(properties.get(name, usual)) for name, usual in zip(_BOUNDS, whole, strict=True)
        )
        self.bounds = y, x, height, width
        across, down = (float(properties.get(name, 0)) for name in _SCALES)
        self.stated = [(properties["openslide.vendor"], across, down, "um")]
        power = properties.get("openslide.objective-power")
        self.power = float(power) if power else None
        color = properties.get("openslide.background-color", "FFFFFF")
        self._background = np.array([int(color[i : i + 2], 16) for i in (0, 2, 4)], np.float32)

    def _open(self) -> Any:
        try:
            return openslide.OpenSlide(self.path)
        except (openslide.OpenSlideError, OSError) as error:
            raise UserError(
                f"{self.path} cannot be opened ({error}): convert it, or copy it again"
            ) from error

    def read(self, index: int, y: int, x: int, height: int, width: int) -> np.ndarray:
        """uint8 RGB (height, width, 3) of a level from y, x on, px of that level."""
        down, across = (a / b for a, b in zip(self.levels[0], self.levels[index], strict=True))
        corner = round(x * across), round(y * down)
        slide = self._slide
        try:
            image = np.asarray(slide.read_region(corner, index, (width, height)))
        except openslide.OpenSlideError as error:
            # After an error a handle answers nothing more.
            with self._lock:
                if self._slide is slide:
                    self._slide = self._open()
            raise UserError(
                f"{self.path} is damaged at y={corner[1]} x={corner[0]} ({error}): copy it again"
            ) from error
        flat = np.ascontiguousarray(image[..., :3])
        # What was not scanned is transparent; in rows, as float32 takes four times the memory.
        for top in range(0, height, _ROWS):
            rows = np.s_[top : top + _ROWS]
            if (image[rows, :, 3] < 255).any():
                alpha = image[rows, :, 3:].astype(np.float32) / 255
                flat[rows] = np.rint(flat[rows] * alpha + self._background * (1 - alpha))
        return flat

    def close(self) -> None:
        self._slide.close()
