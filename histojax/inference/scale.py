"""The size of an image's nuclei where its scale is unknown, by finding them at a ladder of scales.

A segmenter finds the same nuclei on neighbouring rungs where they are about as large as in its
training. Where they are too large it finds crumbs, where too small clumps, and both change from
rung to rung. Diameters are 2 sqrt(area / pi), in px of the image as it is given.
"""

import dataclasses
import itertools
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from histojax.imaging import reader, tiling
from histojax.inference import labeling, tiled
from histojax.runs import workdirs
from histojax.stain import hed

# Factors that an image is resampled by.
LADDER = tuple(2 ** (step / 2) for step in range(-6, 6))
# A window lies in each of (rows, columns) of an image, with so many px a side once resampled.
_BLOCKS, _SIDE = (2, 2), 384
# Places a side that are looked at for tissue, and how much of each, px.
_PLACES, _GLANCE = 6, 64
# IoU from which nuclei of two rungs are the same, and F1 from which two rungs agree.
_SAME, _AGREE = 0.5, 0.6
# Nuclei of a field that counts among others, and of one that is sure by itself: sizes told by 6 to
# 9 nuclei were off by up to 2, those told by more by up to 1.5.
_LEAST_NUCLEI, _LEAST_ALONE, _LEAST_FIELDS = 6, 10, 3
# Rungs agree best on nuclei as large as in training; others are trusted less, by a standard
# deviation of the logarithm.
_TRUST = 0.5
# Sizes up to `_NEAR` apart agree; those beyond `_APART` are two answers, of which the second counts
# from this share of the best score on. Tissues of one scale seldom differ by as much as two scales.
_NEAR, _APART, _TWO_SCALES, _RIVAL = 1.3, 1.5, 1.8, 0.75
# Parts of one field differ by as much.
_LEAST_SPREAD = 0.15
# Two groups of sizes: the distance of their means in standard deviations (halves of one normal
# distribution have 2.65), and the share of the smaller.
_TWO_GROUPS, _LEAST_GROUP = 4.0, 0.15

Find = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """The median diameter of an image's nuclei, px; None where it is not known.

    Quarters of the image lie within `low` and `high`, px; `nuclei` is how many tell it, `sure`
    whether to act on it (not where they are few), and `reason` a clause that says why.
    """

    diameter: float | None
    low: float
    high: float
    nuclei: int
    sure: bool
    reason: str


class Window(NamedTuple):
    """Nuclei of a part of an image: int32 (h, w), and its place (y, x, height, width), px."""

    labels: np.ndarray
    place: tuple[float, float, float, float]


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How far two rungs find the same nuclei.

    `factor` is the middle of the two, `diameters` (N,) those of nuclei that both find, px, `f1` of
    all nuclei of one against those of the other, `cover` the share of the windows under both.
    """

    factor: float
    diameters: np.ndarray
    f1: float
    cover: float

    @property
    def median(self) -> float:
        return float(np.median(self.diameters)) if len(self.diameters) else 0.0

    def score(self, diameter: float) -> float:
        """How far to trust the median, for a network of this training diameter, px."""
        if not len(self.diameters):
            return 0.0
        off = math.log(self.median * self.factor / diameter) / _TRUST
        return self.f1**2 * math.sqrt(self.cover) * math.exp(-off * off / 2)


def estimator(run: workdirs.Run) -> Callable[[tiling.RegionReader], Estimate]:
    """What estimates the size of nuclei by a run's segmenter, in some ten seconds an image.

    The run's meta holds "nucleus_diameter", the median of its training nuclei, px. Nothing is
    random.
    """
    diameter = run.meta.get("nucleus_diameter")
    if not diameter:
        return lambda image: unknown("the run does not know the size of its training nuclei")
    network, parameters = tiled.segmenter(run), labeling.parameters_of(run)

    def find(window: np.ndarray) -> np.ndarray:
        maps = {head: np.asarray(values)[0] for head, values in network.windows(window).items()}
        return labeling.find(run, maps, parameters).instances

    def estimate(image: tiling.RegionReader) -> Estimate:
        if network.matching is not None:
            image = network.matching.reader(image, name="the image")
        return judged(ladder(find, image, tiling.round_up(_SIDE, network.stride)), diameter)

    return estimate


def ladder(find: Find, image: tiling.RegionReader, side: int = _SIDE) -> list[Agreement]:
    """How neighbouring rungs agree, coarsest first; none where there is no tissue.

    `find` takes windows, uint8 (1, side, side, 3), to nuclei, int32 (side, side).
    """
    places = _places(image)
    rungs = [(factor, _look(find, image, factor, places, side)) for factor in LADDER if places]
    return [
        agreement(coarse, fine, math.sqrt(low * high))
        for (low, coarse), (high, fine) in itertools.pairwise(rungs)
    ]


def judged(agreements: Sequence[Agreement], diameter: float) -> Estimate:
    """The estimate from a whole ladder, for a network of this training diameter, px."""
    if not agreements:
        return unknown(f"none of {_PLACES**2} places in it shows tissue")
    scores = [pair.score(diameter) for pair in agreements]
    at = int(np.argmax(scores))
    best = agreements[at]
    if not len(best.diameters):
        return unknown("no nuclei are found in it")
    near = [
        pair
        for pair in agreements[max(0, at - 1) : at + 2]
        if pair is best or (pair.f1 >= _AGREE and _within(_NEAR, pair.median, best.median))
    ]
    medians = [pair.median for pair in near]
    weights = [pair.score(diameter) for pair in near]
    size = math.exp(np.average(np.log(medians), weights=weights))
    most = max((pair.diameters for pair in near), key=len)
    # Twice the standard error of a median.
    sampling = 2 * 1.25 * float(np.std(np.log(most))) / math.sqrt(len(most))
    spread = 1 + max(_LEAST_SPREAD, sampling)
    rivals = [
        pair.median
        for pair, score in zip(agreements, scores, strict=True)
        if score >= _RIVAL * scores[at]
        and len(pair.diameters) >= _LEAST_NUCLEI
        and not _within(_APART, pair.median, size)
    ]
    reason = ""
    if at in (0, len(agreements) - 1):
        limits = [diameter / factor for factor in (LADDER[-2], LADDER[1])]
        reason = "it is outside the range of {:.0f} to {:.0f} px".format(*limits)
    elif len(near) == 1 or best.f1 < _AGREE:
        reason = "neighbouring scales do not find the same nuclei"
    elif rivals:
        reason = f"other scales find nuclei of {rivals[0]:.0f} px"
    elif groups := two_groups(most):
        reason = "its nuclei are of two sizes, {:.0f} and {:.0f} px".format(*groups)
    if reason:
        return unknown(reason, len(most))
    low, high = min(*medians, size / spread), max(*medians, size * spread)
    sure = len(most) >= _LEAST_ALONE
    reason = f"{len(most)} nuclei are the same at neighbouring scales"
    if not sure:
        reason = f"only {len(most)} nuclei tell it, of {_LEAST_ALONE} needed"
    return Estimate(size, low, high, len(most), sure, reason)


def shared(own: Mapping[pathlib.Path, Estimate]) -> dict[pathlib.Path, Estimate]:
    """What images of one batch go by: the estimate on which they agree.

    An image that is sure of another size by itself keeps its own, as all do where none is agreed.
    """
    together = agreed(list(own.values()))
    size = together.diameter if together.sure else None
    return {
        path: one if size is None or (one.sure and not _holds(one, size)) else together
        for path, one in own.items()
    }


def agreed(estimates: Sequence[Estimate]) -> Estimate:
    """One estimate for the fields of one batch: their median.

    Fields of six nuclei count as one each. Unless one of them is sure or there are three, all
    fields count by their nuclei, three with 12 nuclei at least. It is sure where two thirds hold it
    and none of six nuclei is of another scale.
    """
    known = [e for e in estimates if e.diameter is not None]
    telling = [e for e in known if e.nuclei >= _LEAST_NUCLEI]
    if len(telling) < _LEAST_FIELDS and not any(e.sure for e in telling):
        telling = []
    used = telling or known
    sizes, counts = [e.diameter or 0.0 for e in used], [e.nuclei for e in used]
    if not telling and (len(used) < _LEAST_FIELDS or sum(counts) < 2 * _LEAST_NUCLEI):
        return unknown(f"none of {len(estimates)} fields is sure of it")
    votes = [1] * len(used) if telling else counts
    size = float(np.median(np.repeat(sizes, votes)))
    holds = [_holds(e, size) for e in used]
    alike = all(_within(_TWO_SCALES, e.diameter or 0.0, size) for e in telling)
    if not alike or np.average(holds, weights=votes) < 2 / 3:
        return unknown(f"the fields differ, from {min(sizes):.0f} to {max(sizes):.0f} px")
    reason = f"{sum(holds)} of {len(estimates)} fields agree on it"
    agreeing = [e for e, held in zip(used, holds, strict=True) if held]
    low, high = min(e.low for e in agreeing), max(e.high for e in agreeing)
    return Estimate(size, low, high, sum(e.nuclei for e in agreeing), True, reason)


def _holds(estimate: Estimate, size: float) -> bool:
    known = estimate.diameter is not None and _within(_NEAR, estimate.diameter, size)
    return known or estimate.low <= size <= estimate.high


def agreement(coarse: Sequence[Window], fine: Sequence[Window], factor: float) -> Agreement:
    """Matches the nuclei of a rung with those of the next finer, in windows around the same places.

    Nuclei that a window cuts, or that an earlier window shows, do not count.
    """
    diameters: list[np.ndarray] = []
    both = found = covered = area = 0.0
    for k, (window, wide) in enumerate(zip(fine, coarse, strict=True)):
        labels, other = window.labels, _seen(window, wide)[0]
        n, m = int(labels.max()) + 1, int(other.max()) + 1
        code = labels.astype(np.int64) * m + other
        shared = np.bincount(code.ravel(), minlength=n * m).reshape(n, m)
        first, second = shared.sum(axis=1), shared.sum(axis=0)
        known = np.ones(labels.shape, bool)
        known[1:-1, 1:-1] = False
        for earlier in fine[:k]:
            known |= _seen(window, earlier)[1]
        whole, whole_other = first > 0, second > 0
        whole[labels[known]] = whole_other[other[known]] = whole[0] = whole_other[0] = False
        i, j = np.nonzero(shared > _SAME * (first[:, None] + second - shared))
        both += whole[i].sum() + whole_other[j].sum()
        found += whole.sum() + whole_other.sum()
        pixel = window.place[2] * window.place[3] / labels.size
        areas = pixel * (first[i] + second[j])[whole[i] & whole_other[j]] / 2
        covered, area = covered + areas.sum(), area + pixel * (~known).sum()
        diameters.append(2 * np.sqrt(areas / math.pi))
    share = covered / max(area, 1)
    return Agreement(factor, np.concatenate(diameters), both / max(found, 1), share)


def two_groups(diameters: np.ndarray) -> tuple[float, float] | None:
    """The means of two groups that sizes fall into, px; None where there is one group."""
    sizes = np.sort(np.log(diameters))
    least = max(2, math.ceil(_LEAST_GROUP * len(sizes)))
    cuts = [np.split(sizes, [cut]) for cut in range(least, len(sizes) - least + 1)]
    if not cuts:
        return None
    small, large = min(cuts, key=lambda cut: sum(len(part) * np.var(part) for part in cut))
    spread = math.sqrt((np.var(small) + np.var(large)) / 2)
    if large.mean() - small.mean() < max(_TWO_GROUPS * spread, math.log(_APART)):
        return None
    return math.exp(small.mean()), math.exp(large.mean())


def unknown(reason: str, nuclei: int = 0) -> Estimate:
    """No estimate, and the clause that says why."""
    return Estimate(None, 0.0, 0.0, nuclei, False, reason)


def _within(factor: float, first: float, second: float) -> bool:
    return min(first, second) * factor >= max(first, second)


def _start(middle: float, length: int, size: int) -> int:
    return int(min(max(middle - length / 2, 0), size - length))


def _places(image: tiling.RegionReader) -> list[tuple[float, float]]:
    """The middle (y, x), px, of a window in each block: where tissue is as dense as in most."""
    height, width = min(_GLANCE, image.height), min(_GLANCE, image.width)
    blocks: dict[tuple[int, int], list[tuple[float, float, float]]] = {}
    for row, column in itertools.product(range(_PLACES), repeat=2):
        y, x = (row + 0.5) / _PLACES * image.height, (column + 0.5) / _PLACES * image.width
        top, left = _start(y, height, image.height), _start(x, width, image.width)
        # Haematoxylin absorbs red.
        density = float(hed.optical_density(image.read(top, left, height, width)[..., 0]).mean())
        if density >= hed.TISSUE_DENSITY / 4:
            block = row * _BLOCKS[0] // _PLACES, column * _BLOCKS[1] // _PLACES
            blocks.setdefault(block, []).append((density, y, x))
    return [sorted(block)[len(block) // 2][1:] for block in blocks.values()]


def _look(
    find: Find,
    image: tiling.RegionReader,
    factor: float,
    places: Sequence[tuple[float, float]],
    side: int,
) -> list[Window]:
    """The nuclei around each place of the image resampled by a factor."""
    scaled = reader.ResampledReader(image, factor)
    height, width = min(side, scaled.height), min(side, scaled.width)
    step_y, step_x = image.height / scaled.height, image.width / scaled.width
    windows: dict[tuple[int, int], Window] = {}
    corners = [
        (_start(y / step_y, height, scaled.height), _start(x / step_x, width, scaled.width))
        for y, x in places
    ]
    for top, left in dict.fromkeys(corners):
        labels = find(tiling.read_window(scaled, top, left, side, side)[None])[:height, :width]
        place = (top * step_y, left * step_x, height * step_y, width * step_x)
        windows[top, left] = Window(labels, place)
    return [windows[corner] for corner in corners]


def _seen(window: Window, other: Window) -> tuple[np.ndarray, np.ndarray]:
    """Another window's labels at the pixels of a window, and where it shows them, bool (h, w)."""
    index, inside = [], []
    for axis, (size, its) in enumerate(zip(window.labels.shape, other.labels.shape, strict=True)):
        at = window.place[axis] + (np.arange(size) + 0.5) * window.place[axis + 2] / size
        place = np.floor((at - other.place[axis]) * its / other.place[axis + 2]).astype(int)
        inside.append((place >= 0) & (place < its))
        index.append(np.clip(place, 0, its - 1))
    return other.labels[np.ix_(*index)], np.logical_and.outer(*inside)
