"""Outlines of nuclei on the edges of their pixels, and the labels that they enclose.

Coordinates are px of the image: pixel (y, x) is the square from (x, y) to (x + 1, y + 1). So the
polygons of a label have its area, and `rasterize` gives the same labels back. Polygons are valid in
the sense of OGC simple features: each is one part of a label that is connected by edges; rings pass
a vertex once and meet others in single vertices; no vertex lies between two others on a line.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import skimage.measure

Polygons = list[list[np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Outlines:
    """Polygons of labels, in the order of these.

    Attributes:
        points: x, y of the vertices, px, (P, 2). An exterior ring runs clockwise as seen (y
            downward), a hole the other way; the first vertex does not stand again at the end.
        rings: where each ring begins in `points`, and P, int (R + 1,).
        polygons: where each polygon begins in `rings`, exterior first, and R, int (Q + 1,).
        labels: the label of each polygon, int (Q,), ascending; that of islands stands repeatedly.
    """

    points: np.ndarray
    rings: np.ndarray
    polygons: np.ndarray
    labels: np.ndarray

    def __iter__(self) -> Iterator[tuple[int, Polygons]]:
        """Each label with its polygons, lists of rings, (V, 2) each."""
        rings = np.split(self.points, self.rings[1:-1])
        first = np.flatnonzero(np.diff(self.labels, prepend=-1))
        for begin, end in itertools.pairwise([*first, len(self.labels)]):
            bounds = itertools.pairwise(self.polygons[begin : end + 1])
            yield int(self.labels[begin]), [rings[a:b] for a, b in bounds]

    def blocks(self, count: int) -> Iterator["Outlines"]:
        """The outlines of `count` labels at a time, in their order."""
        first = np.flatnonzero(np.diff(self.labels, prepend=-1))
        for begin, end in itertools.pairwise([*first[::count], len(self.labels)]):
            rings = self.polygons[begin : end + 1]
            points = self.rings[rings[0] : rings[-1] + 1]
            flat = self.points[points[0] : points[-1]]
            yield Outlines(flat, points - points[0], rings - rings[0], self.labels[begin:end])


def collect(
    features: Iterable[tuple[int, Polygons]],
    *,
    scale: tuple[float, float] = (1.0, 1.0),
    offset: tuple[float, float] = (0.0, 0.0),
) -> Outlines:
    """Outlines of labels with their polygons, int32 px.

    Args:
        scale, offset: (x, y) each; the coordinates are px times scale plus offset, as written.
    """
    points, rings, polygons, labels = [np.zeros((0, 2))], [0], [0], []
    for label, parts in sorted(features, key=lambda feature: feature[0]):
        for polygon in parts:
            points += polygon
            rings += [len(ring) for ring in polygon]
            polygons.append(len(polygon))
            labels.append(label)
    whole = np.rint((np.concatenate(points) - offset) / scale).astype(np.int32)
    return Outlines(whole, np.cumsum(rings), np.cumsum(polygons), np.array(labels, np.int64))


def trace(instances: np.ndarray, origin: tuple[int, int] = (0, 0)) -> Outlines:
    """The outlines of all labels of an image, or of a region at y, x = `origin` of one.

    Takes int (H, W) of less than 2^31 px, 0 background, of any int32 labels.
    """
    padded = np.pad(instances, 1)
    corners = _corners(padded)
    x, y, label, right, _, _, _ = corners
    # Successive corners in a row, and in a column, make an edge. Of two at one vertex each takes
    # the edge on its own side.
    width, height = padded.shape[1], padded.shape[0]
    key = (label * height + y) * (2 * width) + 2 * x + right
    order = np.argsort(key)
    key, (x, y, label, right, down, along, pixel) = key[order], corners[:, order]
    following = np.arange(len(x)) ^ 1
    by_column = np.argsort((label * width + x) * (2 * height) + 2 * y + down)
    upper, lower = by_column[::2], by_column[1::2]
    vertical = np.empty_like(following)
    vertical[upper], vertical[lower] = lower, upper
    following = np.where(along, following, vertical)
    ring = _smallest_in_cycle(following)
    # A ring that meets itself in a vertex is two: these loops lie inside one another or apart.
    twice = np.flatnonzero(key[1:] >> 1 == key[:-1] >> 1)
    twice = twice[ring[twice] == ring[twice + 1]]
    if len(twice):
        following[twice], following[twice + 1] = following[twice + 1], following[twice]
        ring = _smallest_in_cycle(following)
    first = np.flatnonzero(ring == np.arange(len(ring)))
    exterior = np.bincount(ring, x * (y[following] - y), len(ring))[first] > 0
    # The first ring of a label is an exterior: where there are no others, all holes are its own.
    polygon = np.cumsum(exterior) - 1
    if not exterior.all() and not np.diff(label[first][exterior]).all():
        parts = skimage.measure.label(padded, background=0, connectivity=1).ravel()
        part = parts[pixel[first]]
        polygon_of = np.zeros(parts.max() + 1, np.int64)
        polygon_of[part[exterior]] = polygon[exterior]
        polygon = polygon_of[part]
    order = np.lexsort((~exterior, polygon))
    first, exterior = first[order], exterior[order]
    length = np.bincount(ring, minlength=len(ring))[first]
    at = _walk(following, first, length)
    points = np.stack([x[at] + origin[1], y[at] + origin[0]], axis=1).astype(np.int32)
    begins = np.flatnonzero(exterior)
    return Outlines(
        points,
        np.append(0, np.cumsum(length)),
        np.append(begins, len(first)),
        label[first[begins]],
    )


def _corners(padded: np.ndarray) -> np.ndarray:
    """Corners of labels, int64 (7, P), of an image in a frame of background.

    They are x, y, label; whether the edges there go right, and down; whether the outline, which has
    its label on the right, goes on along the row; and a pixel of the label (flat index).
    """
    rows = padded[:, 1:] == padded[:, :-1]
    columns = padded[1:] == padded[:-1]
    vertex = np.flatnonzero(~((rows[:-1] & rows[1:]) | (columns[:, :-1] & columns[:, 1:])))
    width = padded.shape[1]
    y, x = np.divmod(vertex, width - 1)
    corner, flat = y * width + x, padded.ravel()
    found = []
    for right, down in ((0, 0), (0, 1), (1, 0), (1, 1)):
        pixel, across = corner + right + width * down, corner + (1 - right) + width * down
        value, opposite = flat[pixel], flat[corner + (1 - right) + width * (1 - down)]
        side, other = flat[across] == value, flat[corner + right + width * (1 - down)] == value
        # The pixel alone, and three pixels around a missing one.
        convex = (value > 0) & ~side & ~other
        concave = (value > 0) & side & other & (opposite != value)
        for where, turned in ((convex, 0), (concave, 1)):
            one = np.ones(np.count_nonzero(where), np.int64)
            sides = right ^ turned, down ^ turned, (right == down) ^ turned
            entries = x[where], y[where], value[where], *(side * one for side in sides)
            found.append(np.stack([*entries, pixel[where]]).astype(np.int64))
    return np.concatenate(found, axis=1)


def _smallest_in_cycle(following: np.ndarray) -> np.ndarray:
    """The smallest index in the cycle of each index, by twice as many steps each time."""
    smallest, ahead = np.minimum(np.arange(len(following)), following), following[following]
    while (smallest != smallest[following]).any():
        smallest, ahead = np.minimum(smallest, smallest[ahead]), ahead[ahead]
    return smallest


def _walk(following: np.ndarray, first: np.ndarray, length: np.ndarray) -> np.ndarray:
    """The indices of cycles in their order, cycle after cycle, all cycles a step at a time."""
    out = np.empty(len(following), np.int64)
    longest = np.argsort(-length, kind="stable")
    here, slot = first[longest], (np.cumsum(length) - length)[longest]
    steps = np.arange(length.max(initial=0))
    for step, left in enumerate(np.searchsorted(-length[longest], -steps, "left")):
        here = here[:left]
        out[slot[:left] + step] = here
        here = following[here]
    return out


def rasterize(outlines: Outlines, shape: tuple[int, int]) -> np.ndarray:
    """The label image, int32 of `shape` (H, W), of outlines as `trace` makes them.

    Where outlines of several labels overlap, a pixel has the smallest.

    Raises:
        ValueError: an edge runs along neither axis, or a vertex is no corner of the image's pixels.
    """
    points, rings = outlines.points.astype(np.int64), outlines.rings
    if (points != outlines.points).any():
        raise ValueError("outlines with fractions of px enclose no whole pixels")
    if (points < 0).any() or (points > shape[::-1]).any():
        raise ValueError(f"an outline reaches beyond the image of {shape} px")
    following = np.arange(1, len(points) + 1)
    following[rings[1:] - 1] = rings[:-1]
    step = points[following] - points
    if step.all(axis=1).any():
        raise ValueError("an edge of an outline runs along neither rows nor columns")
    label = np.repeat(np.repeat(outlines.labels, np.diff(outlines.polygons)), np.diff(rings))
    # A label begins at each edge upward and ends at each edge downward.
    edge = np.flatnonzero(step[:, 1])
    down = step[edge, 1]
    length = np.abs(down)
    top = points[edge, 1] + np.minimum(down, 0)
    rows = np.repeat(top - (np.cumsum(length) - length), length) + np.arange(length.sum())
    at = rows, np.repeat(points[edge, 0], length)

    def summed(values: np.ndarray, dtype: Any) -> np.ndarray:
        change: np.ndarray = np.zeros((shape[0], shape[1] + 1), dtype)
        np.add.at(change, at, np.repeat(values.astype(dtype), length))
        return np.cumsum(change[:, :-1], axis=1, dtype=dtype)

    drawn = summed(-np.sign(down) * label[edge], np.int32)
    overlap = summed(-np.sign(down), np.int8) > 1
    if overlap.any():
        drawn[overlap] = 0
        for one, polygons in reversed(list(outlines)):
            corner = np.min([ring.min(0) for rings in polygons for ring in rings], 0)
            own = collect([(1, polygons)], offset=corner)
            height, width = own.points.max(0)[::-1]
            place = np.s_[corner[1] : corner[1] + height, corner[0] : corner[0] + width]
            if overlap[place].any():
                drawn[place][overlap[place] & (rasterize(own, (height, width)) > 0)] = one
    return drawn
