"""The rigid motion between two fields, measured on the overlap, and how well they then agree.

A motion maps the second field's points q to points p = exp(i angle) q + shift of the first; points
are complex, y + ix, in px of the full field from its middle.
"""

import itertools
import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import skimage.feature
import skimage.measure
import skimage.transform
from scipy import ndimage

from histojax.mosaic.views import Field, View, local_contrast

# Pixels of an overlap that are compared, and the side of a block that has to agree by itself.
_MOST_PIXELS, _BLOCK = 150_000, 24
# A block agrees from this correlation on.
_AGREES = 0.3
_STEPS = 12
# Of local contrast, and what is left out at a border, px of the views.
_SIGMA, _EDGE = 12.0, 2
# Landmarks of a field, and how many have to lie alike in two fields.
_LEAST_LANDMARKS, _TOLERANCE = 8, 3.0
# Overlaps below this share of the smaller field are not measured.
_LEAST_SHARE = 0.01


class Match(NamedTuple):
    """A motion of the second field on the first, and what the overlap says of it.

    Attributes:
        shift: of the second's middle, px of the first.
        angle: radians.
        correlation: of the overlap's local contrast, -1 to 1.
        agreeing: share of the overlap's blocks that agree by themselves.
        share: of the smaller field's area that both show.
        texture: the lesser mean squared contrast of the two, 0 (blank) to about 1.
        ties: four points of the overlap in the first field (complex, (4,)), and in the second.
    """

    shift: complex
    angle: float
    correlation: float
    agreeing: float
    share: float
    texture: float
    ties: tuple[np.ndarray, np.ndarray]


class _Overlap(NamedTuple):
    """What both views show: contrasts a, b at points, (n,) each, px of the first view.

    `place` is where they lie in a grid of so many `step` px; down, right: slopes of a.
    """

    a: np.ndarray
    b: np.ndarray
    down: np.ndarray
    right: np.ndarray
    points: np.ndarray
    place: tuple[np.ndarray, np.ndarray]
    step: int


def measure(first: Field, second: Field, shift: complex, angle: float = 0.0) -> Match | None:
    """Refines a motion, px and radians, on the overlap; None where the fields hardly touch."""
    start = shift
    small = [first.small, second.small]
    blurred = [view._replace(pixels=ndimage.gaussian_filter(view.pixels, 2)) for view in small]
    for pair, sigma in ((blurred, 0.0), (small, 0.0), ([first.large(), second.large()], _SIGMA)):
        shift, angle = _refine(pair[0], pair[1], shift, angle, sigma)
    if not abs(shift - start) < max(first.size + second.size):
        return None
    return judge(first, second, shift, angle)


def judge(first: Field, second: Field, shift: complex, angle: float) -> Match | None:
    """How well two fields agree at a motion; None where they hardly touch."""
    found = _overlap(first.large(), second.large(), shift, angle, _SIGMA)
    if found is None:
        return None
    factor = first.factors[1]
    area = len(found.a) * (found.step * factor) ** 2
    share = float(area / min(first.size[0] * first.size[1], second.size[0] * second.size[1]))
    if share < _LEAST_SHARE:
        return None
    rows, columns = (index // max(4, round(_BLOCK / found.step)) for index in found.place)
    _, block = np.unique(rows * 100_000 + columns, return_inverse=True)
    products = found.a**2, found.b**2, found.a * found.b
    aa, bb, ab = (np.bincount(block, values) for values in products)
    # Blank parts of a field say nothing, for it or against it.
    says = np.sqrt(aa * bb)
    agree = ab > _AGREES * says
    correlation = float(ab.sum() / np.sqrt(aa.sum() * bb.sum() + 1e-9))
    texture = float(min(np.mean(found.a**2), np.mean(found.b**2)))
    agreeing = float(says[agree].sum() / max(says.sum(), 1e-9))
    # Four points with the overlap's own moments, so that least squares weighs turns as it does.
    middle = found.points.mean()
    spread = found.points - middle
    corner = complex(spread.real.std(), spread.imag.std())
    ties = (middle + np.array([corner, corner.conjugate(), -corner, -corner.conjugate()])) * factor
    seconds = np.exp(-1j * angle) * (ties - shift)
    return Match(shift, angle, correlation, agreeing, share, texture, (ties, seconds))


def by_landmarks(
    fields: Sequence[Field], pairs: Sequence[tuple[int, int]]
) -> Iterator[tuple[int, int, complex, float]]:
    """Motions (first, second, shift, angle) at which the SIFT landmarks of pairs agree.

    They find any turn, which correlation does not.
    """
    seen = {k: _landmarks(fields[k]) for pair in pairs for k in pair}
    for i, j in pairs:
        (here, first), (there, second) = seen[i], seen[j]
        if min(len(here), len(there)) < _LEAST_LANDMARKS:
            continue
        matched = skimage.feature.match_descriptors(first, second, cross_check=True, max_ratio=0.8)
        if len(matched) < _LEAST_LANDMARKS:
            continue
        places = there[matched[:, 1]], here[matched[:, 0]]
        with warnings.catch_warnings(action="ignore"):  # of no model, which is no surprise
            model, inliers = skimage.measure.ransac(
                tuple(np.stack([p.real, p.imag], 1) for p in places),
                skimage.transform.EuclideanTransform,
                min_samples=2,
                residual_threshold=_TOLERANCE * fields[i].factors[1],
                max_trials=200,
                rng=0,
            )
        if model and inliers.sum() >= _LEAST_LANDMARKS:
            yield i, j, complex(*model.translation), float(model.rotation)


def _landmarks(field: Field) -> tuple[np.ndarray, np.ndarray]:
    """Points (N,), px of the full field from its middle, and descriptors (N, 128) there."""
    step = max(1, round(max(field.luma.shape) / 400))
    sift = skimage.feature.SIFT(upsampling=1)
    try:
        sift.detect_and_extract(field.luma[::step, ::step] / 255.0)
    except RuntimeError:  # none found
        return np.zeros(0, complex), np.zeros((0, 128))
    points = sift.positions * step @ np.array([1, 1j]) - field.large().middle
    return points * field.factors[1], np.asarray(sift.descriptors)


def _refine(a: View, b: View, shift: complex, angle: float, sigma: float) -> tuple[complex, float]:
    """Gauss-Newton on shift, angle, gain and offset of b against a."""
    for _ in range(_STEPS):
        found = _overlap(a, b, shift, angle, sigma)
        if found is None:
            break
        middle = found.points.mean()
        arm = found.points - middle
        turned = found.right * arm.real - found.down * arm.imag
        design = np.stack([found.a, np.ones_like(found.a), found.down, found.right, turned])
        normal = design @ design.T
        normal += np.diag(1e-6 * np.diag(normal) + 1e-9)
        gain, _, *step = np.linalg.solve(normal, design @ found.b)
        if gain < 0.05:
            break
        # No step leaves what the views can tell.
        turn = float(np.clip(step[2] / gain, -0.02, 0.02))
        move = complex(step[0], step[1]) / gain
        move *= min(1, 3 / max(abs(move), 1e-9))
        # The turn is about the middle of the overlap.
        middle *= a.factor
        shift = middle + np.exp(1j * turn) * (shift - middle) + move * a.factor
        angle += turn
        if abs(move) < 0.01 and abs(turn) < 5e-5:
            break
    return complex(shift), angle


def _overlap(a: View, b: View, shift: complex, angle: float, sigma: float) -> _Overlap | None:
    """What both views show; above a `sigma` of 0 as local contrast, taken from the overlap alone.

    What only one of the fields shows would otherwise pull their borders together.
    """
    height, width = b.pixels.shape
    turn = np.exp(1j * angle)
    corners = np.array([complex(y, x) for y, x in itertools.product((0, height), (0, width))])
    placed = turn * (corners - b.middle) + shift / a.factor + a.middle
    lows, highs = [], []
    for part, side in zip((placed.real, placed.imag), a.pixels.shape, strict=True):
        lows.append(max(_EDGE, int(np.floor(part.min()))))
        highs.append(min(side - _EDGE, int(np.ceil(part.max()))))
    sides = [high - low for low, high in zip(lows, highs, strict=True)]
    if min(sides) < 4:
        return None
    step = max(1, int(np.ceil(np.sqrt(sides[0] * sides[1] / _MOST_PIXELS))))
    rows, columns = (np.arange(low, high, step) for low, high in zip(lows, highs, strict=True))
    points = rows[:, None] + 1j * columns - a.middle
    there = (points - shift / a.factor) / turn + b.middle
    inside = (there.real >= _EDGE) & (there.real <= height - 1 - _EDGE)
    inside &= (there.imag >= _EDGE) & (there.imag <= width - 1 - _EDGE)
    if inside.sum() < 32 or min(inside.shape) < 2:
        return None
    first = a.pixels[np.ix_(rows, columns)]
    second = ndimage.map_coordinates(b.pixels, [there.real, there.imag], order=1, mode="nearest")
    if sigma:
        first, second = (local_contrast(p, sigma / step, inside) for p in (first, second))
    down, right = (slope[inside] for slope in np.gradient(first, step))
    seen = first[inside], second[inside], down, right, points[inside]
    rows, columns = np.nonzero(inside)
    return _Overlap(*seen, (rows, columns), step)
