"""Pixels in the convex hulls of many nuclei at once, as scikit-image counts them.

A hull is that of the middles of the four edges of each pixel, and a pixel belongs to it where its
center does (`skimage.morphology.convex_hull_image`). Integers decide, so the counts are exact.
"""

import numpy as np


def convex_areas(height: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Areas of convex hulls, px, int64 (N,).

    Args:
        height: rows of each nucleus, int (N,); its first and last row hold pixels.
        left, right: leftmost and rightmost pixel of each row, int (sum of height,), nucleus after
            nucleus; a row without pixels has left > right.
    """
    areas = np.zeros(len(height), np.int64)
    first = np.cumsum(height) - height
    # Nuclei of about one height together, so that one large nucleus does not widen all.
    scale = np.frexp(height)[1]
    for batch in (np.flatnonzero(scale == one) for one in np.unique(scale)):
        rows = np.arange(height[batch].max())
        inside = rows < height[batch, None]
        at = np.where(inside, first[batch, None] + rows, 0)
        filled = inside & (left[at] <= right[at])
        low = _least(np.where(filled, left[at], np.inf), height[batch])
        high = -_least(np.where(filled, -right[at], np.inf), height[batch])
        areas[batch] = ((high - low + 1) * inside).sum(axis=1)
    return areas


def _least(edge: np.ndarray, height: np.ndarray) -> np.ndarray:
    """The leftmost pixel of each row within the hull, int64 (N, R), of the pixels' own (N, R)."""
    count, rows = edge.shape
    # In half pixels: row r is 2 r + 1, and its upper and lower edges are 2 r and 2 r + 2.
    x = np.full((count, 2 * rows + 1), np.inf)
    x[:, 1::2], x[:, :-1:2] = 2 * edge - 1, 2 * edge
    x[:, 2::2] = np.minimum(x[:, 2::2], 2 * edge)
    y, last = np.arange(2 * rows + 1), 2 * height
    corner = y == np.zeros((count, 1))
    # From the top corner always to the one that lies furthest left as seen from here.
    left, here = np.arange(count), np.zeros(count, np.int64)
    while len(left):
        step = y - here[left, None]
        slope = (x[left] - x[left, here[left], None]) / np.maximum(step, 1)
        here[left] = np.argmin(np.where(step > 0, slope, np.inf), axis=1)
        corner[left, here[left]] = True
        left = left[here[left] < last[left]]
    before = np.maximum.accumulate(np.where(corner, y, 0), axis=1)[:, 1::2]
    after = np.where(corner, y, last[:, None])[:, ::-1]
    after = np.minimum.accumulate(after, axis=1)[:, -3::-2]
    # Below the last row nothing counts.
    after = np.maximum(after, before + 1)
    whole = np.where(np.isfinite(x), x, 0).astype(np.int64)
    x_before = np.take_along_axis(whole, before, axis=1)
    x_after = np.take_along_axis(whole, np.minimum(after, 2 * rows), axis=1)
    rise = (x_after - x_before) * (y[1::2] - before)
    return -((-x_before * (after - before) - rise) // (2 * (after - before)))
