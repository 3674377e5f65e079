"""Pixels in the convex hulls of many nuclei at once, as scikit-image counts them.

A hull is that of the middles of the four edges of each pixel, and a pixel belongs to it where its
center does (`skimage.morphology.convex_hull_image`). A nucleus is given by the leftmost and the
rightmost pixel of each of its rows. Integers decide, so the counts are exact.
"""

import numpy as np

# Numbers of a batch's table, so that its temporaries stay within some tens of MB.
_BATCH = 1 << 20
# Larger than any coordinate, and its double is exact in float64.
_FAR = float(1 << 40)


def convex_areas(height: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Areas of convex hulls, px, int64 (N,).

    Args:
        height: rows of each nucleus, int (N,); its first and last row hold pixels.
        left, right: leftmost and rightmost pixel of each row, int (sum of height,), nucleus after
            nucleus; a row without pixels has left > right.
    """
    areas = np.zeros(len(height), np.int64)
    first = np.cumsum(height) - height
    order = np.argsort(height, kind="stable")
    begin = 0
    while begin < len(order):
        # Heights ascend: as many nuclei as fit at the height of the last.
        sizes = np.arange(1, len(order) - begin + 1) * (2 * height[order[begin:]] + 1)
        batch = order[begin : begin + max(1, int(np.searchsorted(sizes, _BATCH, "right")))]
        begin += len(batch)
        rows = np.arange(height[batch[-1]])
        inside = rows < height[batch, None]
        at = np.where(inside, first[batch, None] + rows, 0)
        filled = inside & (left[at] <= right[at])
        low = _least(np.where(filled, left[at], _FAR), height[batch])
        high = -_least(np.where(filled, -right[at], _FAR), height[batch])
        areas[batch] = ((high - low + 1) * inside).sum(axis=1)
    return areas


def _least(edge: np.ndarray, height: np.ndarray) -> np.ndarray:
    """The leftmost pixel of each row within the hull, int64 (N, R), of the pixels' own (N, R)."""
    count, rows = edge.shape
    # In half pixels: row r is 2 r + 1, and its upper and lower edges are 2 r and 2 r + 2.
    x = np.full((count, 2 * rows + 1), np.inf)
    x[:, 1::2] = np.where(edge < _FAR, 2 * edge - 1, np.inf)
    x[:, 0:-1:2] = np.where(edge < _FAR, 2 * edge, np.inf)
    x[:, 2::2] = np.minimum(x[:, 2::2], np.where(edge < _FAR, 2 * edge, np.inf))
    y = np.arange(2 * rows + 1)
    last = 2 * height
    corner = np.zeros(x.shape, bool)
    corner[:, 0] = True
    # From the top corner always to the one that lies furthest left as seen from here.
    left, here = np.arange(count), np.zeros(count, np.int64)
    while len(left):
        step = y - here[left, None]
        slope = (x[left] - x[left, here[left], None]) / np.where(step > 0, step, 1)
        here[left] = np.argmin(np.where(step > 0, slope, np.inf), axis=1)
        corner[left, here[left]] = True
        left = left[here[left] < last[left]]
    before = np.maximum.accumulate(np.where(corner, y, 0), axis=1)
    after = np.where(corner, y, last[:, None])
    after = np.minimum.accumulate(after[:, ::-1], axis=1)[:, ::-1]
    # Rows alone, and below the last one nothing that counts.
    before, y = before[:, 1::2], np.arange(1, 2 * rows, 2)
    after = np.maximum(after[:, 2::2], before + 1)
    whole = np.where(np.isfinite(x), x, 0).astype(np.int64)
    x_before = np.take_along_axis(whole, before, axis=1)
    x_after = np.take_along_axis(whole, np.minimum(after, 2 * rows), axis=1)
    doubled = 2 * (after - before)
    return -((-x_before * (after - before) - (x_after - x_before) * (y - before)) // doubled)
