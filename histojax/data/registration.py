"""Checks that real low-resolution images are registered with their high-resolution images.

Shifts are measured in hr px, the grid on which a generator's output is compared with its target.
One hr px already turns sharp edges into errors. The usual mistake, a reduction that picks every
r-th pixel, moves an image by (r - 1) / 2 hr px, which is always less than one lr px.
"""

import logging
import math

import numpy as np
from scipy import ndimage
from skimage.registration import phase_cross_correlation

from histojax.checks import check, number
from histojax.data.sources.base import Source, places_of
from histojax.errors import UserError
from histojax.imaging.resampling import downsample
from histojax.metrics.image_quality import luma_bt601

_log = logging.getLogger(__name__)

# Structure that both images show: coarser than noise, finer than the shading of a field, lr px.
_FINEST, _COARSEST = 1.0, 4.0
# Its standard deviation where there is any, grey levels; rounding alone makes stripes of shading.
_LEAST_CONTRAST = 1.0
# Noise that is band-limited so correlates up to 0.41 over 32 x 32 px, other tissue up to 0.52.
_LEAST_CORRELATION = 0.6
_LEAST_SIDE = 32
# The middle of a large image is enough.
_LARGEST_SIDE = 1024
# Pairs that an error or warning names; it states the count of the others.
_MOST_NAMED = 5
_RULES = {"max_shift": number(0, of="a number of hr px (0: no check)")}


def displacement(hr: np.ndarray, lr: np.ndarray, scale: int) -> tuple[float, float] | None:
    """How far lr shows things from where hr shows them: (down, right) in hr px.

    The peak of the cross-correlation of lr and the reduced hr, both band-limited and under a Hann
    window, found to 0.1 hr px (Guizar-Sicairos et al. 2008). It is right to 0.1 lr px over degraded
    lr images of 240 px, to 0.25 over 32 px. None where the images are blank, too small, or show
    different things.
    """
    height, width = lr.shape[:2]
    if min(height, width) < _LEAST_SIDE:
        return None
    top, left = (max(0, (side - _LARGEST_SIDE) // 2) for side in (height, width))
    height, width = min(height, _LARGEST_SIDE), min(width, _LARGEST_SIDE)
    hr = hr[top * scale : (top + height) * scale, left * scale : (left + width) * scale]
    fixed = _structure(downsample(hr, scale))
    moved = _structure(lr[top : top + height, left : left + width])
    if min(fixed.std(), moved.std()) < _LEAST_CONTRAST:
        return None
    window = np.outer(*(np.hanning(side + 2)[1:-1] for side in (height, width)))
    back, error, _ = phase_cross_correlation(
        window * fixed, window * moved, upsample_factor=10 * scale, normalization=None
    )
    # The error is the share of the energy that the best shift leaves unexplained, as a root.
    if 1.0 - error**2 < _LEAST_CORRELATION**2:
        return None
    down, right = (-scale * float(shift) for shift in back)
    return down, right


def _structure(image: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3) -> float64 (H, W): the luma between two scales, around 0."""
    luma = luma_bt601(image)
    return ndimage.gaussian_filter(luma, _FINEST) - ndimage.gaussian_filter(luma, _COARSEST)


def check_registration(source: Source, scale: int, max_shift: float) -> None:
    """Checks every pair of a source that has real low-resolution images; reads them all.

    UserError names the pairs furthest off, beyond `max_shift` hr px; 0 checks nothing.
    """
    check({"max_shift": max_shift}, _RULES, "data.")
    if not max_shift or not len(source) or "lr" not in source[0]:
        return
    off: dict[str, tuple[float, float]] = {}
    unjudged: list[str] = []
    places = places_of(source)
    for name, index in places.items():
        record = source[index]
        found = displacement(record["hr"], record["lr"], scale)
        if found is None:
            unjudged.append(name)
        elif math.hypot(*found) > max_shift:
            off[name] = found
    if unjudged:
        _log.warning(
            f"{len(unjudged)} of {len(places)} lr images are too plain, too small or too unlike "
            f"their hr images for registration to be checked: {_listed(unjudged, _MOST_NAMED)}"
        )
    if not off:
        return
    first, *others = sorted(off, key=lambda name: math.hypot(*off[name]), reverse=True)
    then = f", then {_listed(others, _MOST_NAMED - 1)}" if others else ""
    raise UserError(
        f"lr images off their hr images by more than data.max_shift={max_shift:g} hr px: "
        f"{len(off)} of {len(places)}, {first!r} the furthest, {_in_words(*off[first])}{then}; "
        "register them, take them out, or raise max_shift (0: no check)"
    )


def _listed(names: list[str], most: int) -> str:
    left = len(names) - most
    return ", ".join(map(repr, names[:most])) + (f" and {left} more" if left > 0 else "")


def _in_words(down: float, right: float) -> str:
    shifts = ((down, "down" if down > 0 else "up"), (right, "right" if right > 0 else "left"))
    return " and ".join(f"{abs(px):.1f} hr px {way}" for px, way in shifts if abs(px) >= 0.05)
