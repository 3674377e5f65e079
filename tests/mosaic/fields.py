"""Fields cut from synthetic tissue at known places."""

import functools

import numpy as np
from scipy import ndimage

from histojax.tissue import rendering


@functools.cache
def tissue(index=0, size=520):
    """One patch of synthetic tissue, uint8 (size, size, 3); each index another patient."""
    return rendering.tissue(7, index, size, patches_per_patient=1)["image"]


def cut(image, y, x, height, width, angle=0.0):
    """The field whose first row begins at y, x before it is turned by `angle` degrees."""
    if angle == 0 and y == int(y) and x == int(x):
        return image[int(y) : int(y) + height, int(x) : int(x) + width].copy()
    rows, columns = np.mgrid[:height, :width]
    middle = complex(height - 1, width - 1) / 2
    points = (
        (rows + 1j * columns - middle) * np.exp(1j * np.deg2rad(angle)) + complex(y, x) + middle
    )
    planes = [
        ndimage.map_coordinates(
            image[..., c].astype(np.float32), [points.real, points.imag], order=3, mode="reflect"
        )
        for c in range(3)
    ]
    return np.clip(np.stack(planes, -1) + 0.5, 0, 255).astype(np.uint8)


def grid(image, rows, columns, side, step, jitter=0, seed=0):
    """(fields, corners y + ix) of a jittered grid, row by row."""
    rng = np.random.default_rng(seed)
    corners = [
        complex(*(np.array([row, column]) * step + rng.integers(0, jitter + 1, 2)))
        for row in range(rows)
        for column in range(columns)
    ]
    return [cut(image, c.real, c.imag, side, side) for c in corners], np.array(corners)


def errors(placements, corners):
    """How far each placed corner is from its true place, px, after the best common shift."""
    found = np.array([complex(one.y, one.x) for one in placements])
    off = found - np.asarray(corners)
    return np.abs(off - off.mean())
