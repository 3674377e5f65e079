"""Two stains and their concentrations, found in the optical densities of an image's own pixels.

Beer-Lambert: the optical density v of a pixel is W^T h, with the absorption vectors of the stains
in the rows of W and their concentrations h >= 0. Most of a tissue holds one stain or the other.

Arrays are planes: optical density float (3, N), concentrations float (2, N), N pixels; stains are
float (2, 3), unit length, non-negative.
"""

import numpy as np

# Share of the pixels beyond each of the two extreme directions, percent (Macenko et al. 2009).
_BEYOND = 1.0
_ITERATIONS = 1000
# Largest change of a stain's component at which the dictionary stands still: 0.001 degrees.
_TOLERANCE = 1e-5
# Sweeps over the two atoms at given concentrations; they cost little compared with finding those.
_SWEEPS = 5
# The fan of most pixels: percentile of its angles, and turns to find it.
_TAIL, _TURNS = 10.0, 8
# Green is absorbed so many times as red, and as blue, where a colour is purple or pink.
_PURPLE = 1.3, 1.8


def sparse_concentrations(density: np.ndarray, stains: np.ndarray, sparsity: float) -> np.ndarray:
    """The non-negative lasso of two atoms, exactly: (3, N) -> (2, N).

    For each pixel the h >= 0 that minimises |v - W^T h|^2 / 2 + sparsity (h_1 + h_2): the solution
    of two linear equations, or, where that has one negative, of one equation without that stain,
    cut at 0. The stains are non-negative, of any length.
    """
    stains = stains.astype(density.dtype)
    (a, b), (_, c) = stains @ stains.T
    first, second = stains @ density - density.dtype.type(sparsity)
    inverse = 1.0 / (a * c - b * b)
    both = (c * first - b * second) * inverse, (a * second - b * first) * inverse
    h_1 = np.where(both[1] < 0, first / a, both[0])
    h_2 = np.where(both[0] < 0, second / c, both[1])
    return np.maximum([h_1, h_2], 0)


def least_squares_concentrations(density: np.ndarray, stains: np.ndarray) -> np.ndarray:
    """The pseudo-inverse of the stains, and negative concentrations to 0: (3, N) -> (2, N)."""
    return np.maximum(np.linalg.pinv(stains).T.astype(density.dtype) @ density, 0)


def learn_stains(density: np.ndarray, sparsity: float, start: np.ndarray) -> np.ndarray:
    """The sparse dictionary of two atoms (Vahadane et al., IEEE Trans. Med. Imaging 35, 2016).

    Minimises the mean of |v - W^T h|^2 / 2 + sparsity (h_1 + h_2) over h >= 0 and W >= 0 with rows
    of length 1 at most, by turns: the concentrations exactly, then the atoms one after the other
    (Mairal et al., J. Mach. Learn. Res. 11, 2010, algorithm 2, on all pixels at once). Nothing is
    random, and from any sensible start, linearly independent, the end is the same.
    """
    stains = start.copy()
    for _ in range(_ITERATIONS):
        before = stains.copy()
        concentrations = sparse_concentrations(density, stains, sparsity)
        gram = concentrations @ concentrations.T
        products = concentrations @ density.T
        for atom in (0, 1) * _SWEEPS:
            if gram[atom, atom] > 0:
                step = (products[atom] - gram[atom] @ stains) / gram[atom, atom]
                stains[atom] = np.maximum(stains[atom] + step, 0)
                stains[atom] /= max(1.0, np.linalg.norm(stains[atom]))
        if np.abs(stains - before).max() < _TOLERANCE:
            break
    return haematoxylin_first(stains)


def extreme_stains(density: np.ndarray) -> np.ndarray:
    """The extreme directions of the pixels in their plane (Macenko et al., ISBI 2009).

    The plane is that of the two largest singular vectors, through the origin; its extremes are the
    1st and 99th percentile of the pixels' angle in it. `density` is without pale pixels.
    """
    _, vectors = np.linalg.eigh(density @ density.T)
    plane = vectors[:, :0:-1]
    # All densities are positive: with the main axis among them no angle is near +-180 degrees.
    plane[:, 0] *= np.sign(plane[:, 0].sum())
    along, across = plane.T @ density
    angles = np.percentile(np.arctan2(across, along), [_BEYOND, 100.0 - _BEYOND])
    return haematoxylin_first((plane @ [np.cos(angles), np.sin(angles)]).T)


def foreign(density: np.ndarray, tolerance: float) -> np.ndarray:
    """Which pixels no two stains explain, such as ink, dust and the border of a scan: bool (N,).

    They are further than `tolerance`, an optical density, from a fan of hues in a plane through the
    origin, and not as purple as haematoxylin and eosin. Plane and fan are of the other pixels, of
    equal weight however dense, by turns; up to a tenth may be foreign. `density` is as above.
    """
    hues = density / np.linalg.norm(density, axis=0)
    # A few nuclei in much stroma, or the reverse, lie outside the fan of most pixels.
    purple = (hues[1] >= _PURPLE[0] * hues[0]) & (hues[1] >= _PURPLE[1] * hues[2])
    outside = np.zeros(density.shape[1], bool)
    for _ in range(_TURNS):
        _, vectors = np.linalg.eigh(hues[:, ~outside] @ hues[:, ~outside].T)
        off, across, along = vectors.T @ density
        along *= np.sign(along.sum())
        angles = np.arctan2(across, along)
        low, high = np.percentile(angles[~outside], [_TAIL, 100.0 - _TAIL])
        beyond = np.clip(np.maximum(low - angles, angles - high), 0, np.pi / 2)
        distance = np.hypot(off, np.hypot(along, across) * np.sin(beyond))
        before, outside = outside, (distance > tolerance) & ~purple
        if outside.all() or np.array_equal(outside, before):
            break
    return outside


def haematoxylin_first(stains: np.ndarray) -> np.ndarray:
    """Orders two stains, cuts them at 0 and gives them length 1.

    Haematoxylin is blue: it absorbs red, which eosin lets pass, and so has the larger share of red.
    """
    stains = np.maximum(stains, 0)
    stains = stains / np.linalg.norm(stains, axis=1, keepdims=True)
    return stains if stains[0, 0] >= stains[1, 0] else stains[::-1].copy()


def angle(first: np.ndarray, second: np.ndarray) -> float:
    """The angle between two stains, (3,) each, in degrees."""
    # By the chord, because the arc cosine has no precision near 0.
    chord = np.linalg.norm(first / np.linalg.norm(first) - second / np.linalg.norm(second))
    return float(np.degrees(2.0 * np.arcsin(np.minimum(1.0, chord / 2.0))))
