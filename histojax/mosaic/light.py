"""Shading that all fields share, and the gain of each, from what overlaps show twice.

Two fields see one piece of tissue through two parts of the lens: the ratio of their values tells
shading and gain, whatever the tissue. A tilt looks like gains that run across the mosaic, so
shading is even: it has no linear term.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import ndimage, sparse

from histojax.mosaic.placement import Link
from histojax.mosaic.views import Field

# Fields and links from which on shading is estimated, and the share of the differences between
# fields that it has to explain.
_LEAST_FIELDS, _LEAST_LINKS, _LEAST_EXPLAINED = 6, 8, 0.2
# No pixel is made so many times as bright, or so many times darker.
MOST_GAIN = 2.0
_DARKEST, _BRIGHTEST = 15, 250
_GRID = np.linspace(-1.2, 1.2, 6)
_PRIOR = 1e-3


@dataclasses.dataclass(frozen=True, eq=False)
class Light:
    """What turns a field's values into those of the mosaic.

    Attributes:
        gains: (N, 3), by which each field's R, G, B are multiplied; their mean is about 1.
        shading: (4, 3) coefficients of log brightness over the frame; zeros: none.
        note: a sentence about the shading.
    """

    gains: np.ndarray
    shading: np.ndarray
    note: str

    def factors(self, number: int, v: np.ndarray, u: np.ndarray) -> np.ndarray:
        """What to multiply a field's values with, (..., 3), at v, u in [-1, 1] of its frame."""
        flat = np.exp(-_shapes(v, u) @ self.shading) if self.shading.any() else 1.0
        return np.clip(self.gains[number] * flat, 1 / MOST_GAIN, MOST_GAIN)


def estimate(fields: Sequence[Field], links: Sequence[Link]) -> Light:
    """Gains and shading from all links that are used; the mean brightness stays."""
    used = [link for link in links if not link.reason]
    count, kept = len(fields), "Shading is left as it is:"
    shading = np.zeros((4, 3))
    ends, shapes, ratios = _seen_twice(fields, used)
    if not len(ends):
        return Light(np.ones((count, 3)), shading, f"{kept} no overlap tells it.")
    rows, one = np.arange(len(ends)), np.ones(len(ends))
    first, second = (sparse.csr_matrix((one, (rows, e)), (len(ends), count)) for e in ends.T)
    plain, design = first - second, sparse.hstack([first - second, shapes], format="csr")
    fits = [_fit(plain, channel) for channel in ratios.T]
    gains = np.stack([solution for solution, _ in fits], axis=1)
    longest = [max(field.size) for field in fields]
    if count < _LEAST_FIELDS or len(used) < _LEAST_LINKS:
        note = f"{kept} {count} fields with {len(used)} links are too few."
    elif max(longest) > 1.1 * min(longest):
        note = f"{kept} the fields differ in size."
    else:
        shaded = [_fit(design, channel) for channel in ratios.T]
        explained = 1 - sum(s for _, s in shaded) / max(sum(s for _, s in fits), 1e-12)
        note = f"{kept} the overlaps show none that all fields share."
        if explained > _LEAST_EXPLAINED:
            solved = np.stack([solution for solution, _ in shaded], axis=1)
            gains, shading = solved[:count], solved[count:]
            note = f"Shading is taken out; it explains {explained:.0%} of the differences."
    return _kept_bright(fields, np.exp(-gains), shading, note)


def _seen_twice(
    fields: Sequence[Field], links: Sequence[Link]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points in overlaps: both fields (n, 2), shapes' differences (n, 4), log ratios (n, 3)."""
    blurred = [ndimage.uniform_filter(f.colors.astype(np.float32), (5, 5, 1)) for f in fields]
    ends, shapes, ratios = [np.zeros((0, 2), int)], [np.zeros((0, 4))], [np.zeros((0, 3))]
    for link in links:
        middle = link.ties[0].mean()
        corner = (link.ties[0] - middle)[0]
        points = middle + (corner.real * _GRID[:, None] + 1j * corner.imag * _GRID).ravel()
        seen = []
        both = points, np.exp(-1j * link.angle) * (points - link.shift)
        for number, own in zip((link.first, link.second), both, strict=True):
            half = np.array(fields[number].size) / 2
            shape = _shapes(own.real / half[0], own.imag / half[1])
            seen.append((_sample(blurred[number], fields[number], own), shape))
        (one, first), (other, second) = seen
        clear = (np.minimum(one, other) > _DARKEST) & (np.maximum(one, other) < _BRIGHTEST)
        clear = clear.all(axis=1)
        ends.append(np.repeat([[link.first, link.second]], clear.sum(), axis=0))
        shapes.append((first - second)[clear])
        ratios.append(np.log(one[clear] / other[clear]))
    return np.concatenate(ends), np.concatenate(shapes), np.concatenate(ratios)


def _kept_bright(
    fields: Sequence[Field], gains: np.ndarray, shading: np.ndarray, note: str
) -> Light:
    """Scales the gains so that the mean of all fields stays, and says where one is capped."""
    light = Light(gains, shading, note)
    before, after = np.zeros(3), np.zeros(3)
    for number, field in enumerate(fields):
        height, width = field.colors.shape[:2]
        v, u = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
        before += field.colors.mean((0, 1))
        after += (field.colors * light.factors(number, v, u)).mean((0, 1))
    gains = gains * before / np.maximum(after, 1e-6)
    capped = int(((gains > MOST_GAIN) | (gains < 1 / MOST_GAIN)).any(1).sum())
    if capped:
        note += f" The gain of {capped} field{'s' * (capped > 1)} is capped at {MOST_GAIN:g}."
    return Light(gains, shading, note)


def _fit(design: sparse.csr_matrix, ratios: np.ndarray) -> tuple[np.ndarray, float]:
    """Least squares in which outliers count less: the solution, and the weighted squares left."""
    weights = np.ones(len(ratios))
    for _ in range(4):
        weighted = design.multiply(weights[:, None]).tocsr()
        normal = (weighted.T @ design).toarray() + _PRIOR * np.eye(design.shape[1])
        solution = np.linalg.solve(normal, weighted.T @ ratios)
        off = ratios - design @ solution
        spread = 1.5 * np.median(np.abs(off)) + 1e-3
        weights = 1 / (1 + (off / (2 * spread)) ** 2)
    return solution, float(np.sum(np.minimum(np.abs(off), 0.2) ** 2))


def _sample(colors: np.ndarray, field: Field, points: np.ndarray) -> np.ndarray:
    places = (points + field.middle + (0.5 + 0.5j)) / field.factors[0] - (0.5 + 0.5j)
    where = [places.real, places.imag]
    planes = [ndimage.map_coordinates(colors[..., c], where, order=1, cval=0) for c in range(3)]
    return np.stack(planes, axis=-1)


def _shapes(v: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Even shapes of shading over the frame, (..., 4), each of about zero mean."""
    square = v * v + u * u
    return np.stack([v * v - 1 / 3, u * u - 1 / 3, v * u, square**2 - 28 / 45], axis=-1)
