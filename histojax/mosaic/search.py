"""Which fields may overlap, and where: correlation of all pairs, against pairs that cannot.

The correlation of two fields over the root of the overlap's area has one spread at all offsets
where they show different tissue. A candidate is a peak, in that spread, above what mirrored fields
reach: they have the same texture and overlap nowhere.
"""

import functools
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.fft
from scipy import ndimage

from histojax.mosaic.views import Field

# The least overlap: of each side, px of the small view; of the smaller field's area.
_LEAST_SIDE, _LEAST_SHARE = 6, 0.012
# Pairs of mirrored fields that are looked at, and false candidates expected in a set.
_MIRRORED, _FALSE = 400, 0.01
# The extremes of few mirrored pairs tell little: the law of maxima is at least this.
_LEAST_LOCATION, _LEAST_SCALE = 4.5, 0.25
_PEAKS = 3
# Fields with less texture, as of a lamp that was off, are not searched: what mirrored pairs of them
# reach, 0 or the height of a hot pixel, would widen the law of maxima.
_NOTHING = 0.005
_EULER = 0.5772


class Candidate(NamedTuple):
    """Fields first < second, the shift of second's middle in first, px, and the peak's height."""

    first: int
    second: int
    shift: complex
    height: float


def candidates(fields: Sequence[Field]) -> tuple[list[Candidate], float]:
    """The peaks of all pairs above what mirrored fields reach, highest first, and that height."""
    shown = [number for number, field in enumerate(fields) if field.texture > _NOTHING]
    if len(shown) < 2:
        return [], np.inf
    planes = [fields[number].small.pixels for number in shown]
    size = _padded(planes)
    spectra = [scipy.fft.rfft2(plane, size) for plane in planes]
    pairs = list(itertools.combinations(range(len(shown)), 2))
    threshold = _threshold(planes, spectra, size, len(pairs))
    found = []
    for i, j in pairs:
        map_ = _heights(spectra[i], spectra[j], planes[i].shape, planes[j].shape, size)
        for _ in range(_PEAKS):
            place = np.unravel_index(np.argmax(map_), size)
            height = float(map_[place])
            if height < threshold:
                break
            first, second = shown[i], shown[j]
            shift = _shift_at(place, fields[first], fields[second], size)
            found.append(Candidate(first, second, shift, height))
            around = (k + np.arange(-6, 7) for k in place)
            map_[np.ix_(*(a % n for a, n in zip(around, size, strict=True)))] = -np.inf
    return sorted(found, key=lambda one: -one.height), threshold


def near(
    first: Field, second: Field, shift: complex, angle: float, reach: float
) -> tuple[complex, float]:
    """The highest peak within `reach` px of a motion, at its angle: its shift and height."""
    view = second.small
    # From a place of the turned field to that of the field, about the middle.
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    about = np.array([view.middle.real, view.middle.imag])
    turned = ndimage.affine_transform(view.pixels, turn, about - turn @ about, order=1)
    planes = first.small.pixels, turned
    size = _padded(planes)
    spectra = [scipy.fft.rfft2(plane, size) for plane in planes]
    map_ = _heights(spectra[0], spectra[1], planes[0].shape, planes[1].shape, size)
    factor = first.factors[0]
    middle = (shift - second.middle + first.middle) / factor
    steps = np.arange(-round(reach / factor) - 1, round(reach / factor) + 2)
    window = [
        (steps + round(part)) % side
        for part, side in zip((middle.real, middle.imag), size, strict=True)
    ]
    part = map_[np.ix_(*window)]
    row, column = np.unravel_index(np.argmax(part), part.shape)
    place = window[0][row], window[1][column]
    return _shift_at(place, first, second, size), float(part[row, column])


def _padded(planes: Sequence[np.ndarray]) -> tuple[int, ...]:
    """The size of a transform in which every offset has a place of its own."""
    longest = [2 * max(plane.shape[axis] for plane in planes) for axis in (0, 1)]
    return tuple(scipy.fft.next_fast_len(side, real=True) for side in longest)


def _shift_at(
    place: Sequence[np.intp], first: Field, second: Field, size: tuple[int, ...]
) -> complex:
    """The shift of second's middle, px, that a place in the map stands for."""
    shape = first.small.pixels.shape
    offset = [_signed(int(k), p, n) for k, p, n in zip(place, shape, size, strict=True)]
    return complex(*offset) * first.factors[0] + second.middle - first.middle


def _threshold(
    planes: Sequence[np.ndarray], spectra: Sequence[np.ndarray], size: tuple[int, ...], pairs: int
) -> float:
    """The height that no pair of different tissue is expected to reach, from mirrored fields.

    The maximum of many values follows Gumbel's law, here fitted by moments.
    """
    count = len(planes)
    both = list(itertools.product(range(count), range(count), (0, 1)))
    chosen = both[:: max(1, len(both) // _MIRRORED)]
    maxima = []
    for i, j, axis in chosen:
        mirrored = scipy.fft.rfft2(np.flip(planes[j], axis), size)
        maxima.append(_heights(spectra[i], mirrored, planes[i].shape, planes[j].shape, size).max())
    scale = max(float(np.std(maxima)) * np.sqrt(6) / np.pi, _LEAST_SCALE)
    location = max(float(np.mean(maxima)) - _EULER * scale, _LEAST_LOCATION)
    return location + scale * float(np.log(max(pairs, 1) / _FALSE))


def _heights(
    first: np.ndarray,
    second: np.ndarray,
    shape: tuple[int, ...],
    other: tuple[int, ...],
    size: tuple[int, ...],
) -> np.ndarray:
    """The correlation at every offset, in standard deviations; -inf where fields hardly touch."""
    weights, valid = _weights(shape, other, size)
    map_ = scipy.fft.irfft2(first * second.conj(), size) * weights
    spread = np.sqrt(np.mean(map_[valid] ** 2)) if valid.any() else 0.0
    return np.where(valid, map_ / max(spread, 1e-6), -np.inf)


@functools.lru_cache(maxsize=32)
def _weights(
    shape: tuple[int, ...], other: tuple[int, ...], size: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """1 / sqrt(area of the overlap) at every offset, and where the overlap is large enough."""
    sides = []
    for own, its, total in zip(shape, other, size, strict=True):
        offset = np.array([_signed(k, own, total) for k in range(total)])
        sides.append(np.minimum(own, offset + its) - np.maximum(0, offset))
    area = np.outer(*(np.maximum(side, 0) for side in sides)).astype(np.float32)
    least = _LEAST_SHARE * min(shape[0] * shape[1], other[0] * other[1])
    valid = np.logical_and.outer(*(side >= _LEAST_SIDE for side in sides)) & (area >= least)
    return np.where(valid, 1 / np.sqrt(np.maximum(area, 1)), 0).astype(np.float32), valid


def _signed(index: int, own: int, total: int) -> int:
    """The offset that an index of a transform of `total` px stands for; padding keeps it unique."""
    return index if index < own else index - total
