"""The physical scale that an image file states, um per px, and where; never guessed."""

import contextlib
import pathlib
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import tifffile

from histojax.imaging import tiff
from histojax.imaging.conversion import log_once

# From 10 um on, a nucleus is a pixel. Writers that know no scale state 72, 96 or 300 dpi (85 um and
# more) or 1 px a mm, and print shops up to 2400 dpi.
_PLAUSIBLE = (0.05, 10.0)
_UM = {"nm": 1e-3, "um": 1.0, "micron": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6, "in": 25400.0}
_UM |= {"nanometer": 1e-3, "micrometer": 1.0, "millimeter": 1e3, "centimeter": 1e4, "meter": 1e6}
_UM |= {"inch": 25400.0, "inches": 25400.0}
# Where it stands, size of a pixel along x and y (0: not stated), their unit.
_Stated = tuple[str, float, float, str]


def first_plausible(path: pathlib.Path, stated: Iterable[_Stated]) -> tuple[float | None, str]:
    """Returns um per px and where it stands, or None, "none" and why nothing stated is taken."""
    doubts = []
    for source, x, y, unit in stated:
        x, y = x or y, y or x
        um = _um_in(unit)
        if not x:
            continue
        if um is None:
            doubts.append(f"{source} in the unit {unit or 'none'!r}")
        elif not all(_PLAUSIBLE[0] <= size * um <= _PLAUSIBLE[1] for size in (x, y)):
            doubts.append(f"{source} of {x * um:.4g} um, a default or no microscope's")
        elif abs(x - y) > 0.01 * max(x, y):
            sides = f"{x * um:.4g} x {y * um:.4g} um"
            log_once(
                path, f"has pixels of {sides}: scale taken as unknown, resample it to square ones"
            )
            return None, f"none ({source} of {sides}, not square)"
        else:
            return float(x * um), source
    return None, f"none ({'; '.join(doubts)})" if doubts else "none"


def _um_in(unit: str) -> float | None:
    """um in a unit of any spelling; the micro sign has two code points, and an escape in ImageJ."""
    word = unit.strip().casefold().replace("\\u00b5", "u").replace("\N{GREEK SMALL LETTER MU}", "u")
    word = word.replace("metre", "meter")
    return _UM.get(word, _UM.get(word.removesuffix("s")))


def stated_in_tiff(file: tifffile.TiffFile, page: Any) -> Iterable[_Stated]:
    """Yields what OME-XML, Aperio's description, and the resolution tags state of a page."""
    pixels = tiff.ome_pixels(file, page)
    if pixels is not None:
        x, y = (_number(pixels.get(f"PhysicalSize{axis}", "")) for axis in "XY")
        units = [pixels.get(f"PhysicalSize{axis}Unit", "um") for axis in "XY"]
        yield "OME", x, y * (_um_in(units[1]) or 1) / (_um_in(units[0]) or 1), units[0]
    if aperio := re.search(r"\bMPP\s*=\s*([0-9.,]+)", page.description or ""):
        yield "Aperio", _number(aperio[1]), 0.0, "um"
    x, y = (1 / density if (density := _density(page, tag)) else 0.0 for tag in (282, 283))
    if file.is_imagej:
        unit = str((file.imagej_metadata or {}).get("unit", ""))
        yield "ImageJ", x, y, "" if x == y == 1 else unit  # 1: ImageJ's default
    else:
        yield "resolution tags", x, y, {2: "inch", 3: "cm"}.get(page.tags.valueof(296, 2), "")


def objective_in_tiff(page: Any) -> float | None:
    """The magnification of the objective in Aperio's description of a page, which is no scale."""
    found = re.search(r"\bAppMag\s*=\s*([0-9.,]+)", page.description or "")
    return (_number(found[1]) if found else 0.0) or None


def _number(text: str) -> float:
    """A decimal number, with a point or a comma; 0 where it is none."""
    with contextlib.suppress(ValueError):
        return float(text.replace(",", "."))
    return 0.0


def _density(page: Any, tag: int) -> float:
    """A resolution tag, px per unit, of whatever type it has; 0 where it is no number."""
    found = page.tags.get(tag)
    if found is None:
        return 0.0
    with contextlib.suppress(TypeError, ValueError, ZeroDivisionError):
        if found.dtype in (5, 10):  # rational: numerator and denominator
            return found.value[0] / found.value[1]
        return float(np.ravel(found.value)[0])
    return 0.0
