"""Where every field lies: least squares over all links, without those that contradict the others.

Points and centers are complex, y + ix, px; angles radians. A field's point p lies at
center + exp(i angle) p.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

# A link is false that is further off, px, or in shares of a field's long side.
_FALSE, _FALSE_SHARE = 3.0, 0.006
# A turn that moves the middle of a field's border by less, px, is taken for none.
_LEAST_TURN = 0.5
_ROUNDS = 4
# Links agree on turns to about so many radians.
_SPREAD = 0.003


@dataclasses.dataclass(frozen=True, eq=False)
class Link:
    """A measured pair of fields.

    Attributes:
        first, second: numbers of the fields.
        shift, angle: the motion of the second on the first, as `registration.Match` has it.
        height, correlation, share: how sure it is, how well the overlap agrees, its share.
        ties: points that are one: in the first field, and in the second.
        residual: how far apart the ties lie in the mosaic, px, at most; None before placement.
        reason: why it is not used; empty where it is.
    """

    first: int
    second: int
    shift: complex
    angle: float
    height: float
    correlation: float
    share: float
    ties: tuple[np.ndarray, np.ndarray]
    residual: float | None = None
    reason: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class Layout:
    """Centers (N,), angles (N,) and group (N,) of each field, and the links with residuals.

    Groups count from 0; every field has one, alone or not. Groups share no coordinates.
    """

    centers: np.ndarray
    angles: np.ndarray
    groups: np.ndarray
    links: list[Link]


def lay_out(sizes: Sequence[tuple[int, int]], links: Sequence[Link]) -> Layout:
    """Places fields of (H, W) px by their links; those that are false get a reason.

    Each group's median angle is 0, and turns too small to see become 0.
    """
    limit = max(_FALSE, _FALSE_SHARE * float(np.median(np.max(sizes, axis=1))))
    links = list(links)
    while True:
        used = [link for link in links if not link.reason]
        groups = csgraph.connected_components(_graph(len(sizes), used), False)[1]
        angles = _turns(len(sizes), used)
        for group in np.unique(groups):
            angles[groups == group] -= np.median(angles[groups == group])
        # Turns that are free where there are none would take up what a false link is off.
        free = np.abs(angles) * np.max(sizes, axis=1) / 2 > _LEAST_TURN
        angles[~free] = 0
        centers = _start(used, angles)
        centers, angles = _solve(used, centers, angles, free, limit)
        apart = np.abs(_differences(used, centers, angles)).max(1) if used else np.zeros(0)
        for link, off in zip(used, apart, strict=True):
            # The worst alone, because a false link drags true ones along.
            false = off > limit and off == apart.max()
            reason = f"is {off:.0f} px off where the other links place its fields" if false else ""
            replaced = dataclasses.replace(link, residual=float(off), reason=reason)
            links[links.index(link)] = replaced
        if apart.max(initial=0) <= limit:
            return Layout(centers, angles, groups, links)


def weakest_between(first: int, second: int, links: Sequence[Link], count: int) -> Link:
    """The least sure link on the surest way between two fields of one group."""
    used = [link for link in links if not link.reason]
    # Of all ways, that of the greatest spanning tree has the surest weakest link.
    _, before = csgraph.breadth_first_order(
        csgraph.minimum_spanning_tree(_graph(count, used)), first, directed=False
    )
    by_pair = {frozenset((link.first, link.second)): link for link in used}
    way, place = [], second
    while place != first:
        way.append(by_pair[frozenset((place, int(before[place])))])
        place = int(before[place])
    return min(way, key=lambda link: link.height)


def _graph(count: int, links: Sequence[Link]) -> sparse.csr_matrix:
    """Fields joined by links; the surer a link, the less it costs."""
    costs = np.array([1 / (1 + link.height) for link in links], float)
    return sparse.csr_matrix((costs, tuple(_ends(links))), (count, count))


def _turns(count: int, links: Sequence[Link]) -> np.ndarray:
    """Angles by the links' own, of which those that contradict the others count less."""
    turns, between = np.zeros(count), np.zeros((len(links), count))
    for row, link in zip(between, links, strict=True):
        row[[link.first, link.second]] = -1, 1
    told = np.array([link.angle for link in links])
    trust = weights = np.array([link.height * np.sqrt(link.share) for link in links])
    for _ in range(2 * _ROUNDS):
        weighted = between.T * weights
        turns = np.linalg.solve(weighted @ between + 1e-9 * np.eye(count), weighted @ told)
        weights = trust / (1 + ((told - between @ turns) / _SPREAD) ** 2) ** 2
    return turns


def _start(links: Sequence[Link], angles: np.ndarray) -> np.ndarray:
    """Centers along the surest spanning tree."""
    centers = np.zeros(len(angles), complex)
    by_pair = {frozenset((link.first, link.second)): link for link in links}
    tree = csgraph.minimum_spanning_tree(_graph(len(angles), links))
    seen: set[int] = set()
    for root in range(len(angles)):
        order, before = csgraph.breadth_first_order(tree, root, directed=False)
        for place in map(int, () if root in seen else order[1:]):
            other = int(before[place])
            link = by_pair[frozenset((place, other))]
            forth = 1 if link.second == place else -1
            turn = np.exp(1j * angles[link.first])
            centers[place] = centers[other] + forth * turn * link.shift
        seen |= set(map(int, order))
    return centers


def _differences(links: Sequence[Link], centers: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Complex (L, 4): from where the second field puts each tie to where the first does."""
    (i, j), ties = _ends(links), np.array([link.ties for link in links])
    turns = np.exp(1j * angles)[:, None]
    first, second = (centers[k, None] + turns[k] * ties[:, s] for s, k in enumerate((i, j)))
    return first - second


def _ends(links: Sequence[Link]) -> np.ndarray:
    return np.array([(link.first, link.second) for link in links], int).reshape(-1, 2).T


def _solve(
    links: Sequence[Link], centers: np.ndarray, angles: np.ndarray, free: np.ndarray, limit: float
) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Newton, in which links further off than a falling bound lose their weight.

    `free` are the fields whose angles are found. The bound falls to `limit` (Geman and McClure's
    weights, graduated), so that false links go and the start does not matter.
    """
    if not links:
        return centers, angles
    size, (i, j) = len(centers), _ends(links)[..., None]
    ties = np.array([link.ties for link in links])
    trust = np.array([link.height * np.sqrt(link.share) for link in links])
    rows = np.arange(len(links) * 4).reshape(-1, 4) * 2
    fixed = 2 * size + np.flatnonzero(~free)
    # Each group is free to move as a whole: the smallest step is taken.
    least = 1e-7 * np.diag(np.where(np.arange(3 * size) < 2 * size, 1.0, limit**2))
    for bound in (np.inf, *(limit * 2.0**k for k in range(5, -1, -1)), *[limit] * _ROUNDS):
        off = _differences(links, centers, angles)
        weights = np.sqrt(trust) / (1 + (np.abs(off).max(1) / bound) ** 2)
        arms = [1j * np.exp(1j * angles[k]) * ties[:, s] for s, k in enumerate((i, j))]
        entries = []
        for axis, part in enumerate((np.real, np.imag)):
            fields = axis * size + i, axis * size + j, 2 * size + i, 2 * size + j
            slopes = np.ones_like(rows), -np.ones_like(rows), part(arms[0]), -part(arms[1])
            for column, slope in zip(fields, slopes, strict=True):
                entries.append(np.broadcast_arrays(slope * weights[:, None], rows + axis, column))
        values, at, columns = (np.concatenate([e[n].ravel() for e in entries]) for n in range(3))
        matrix = sparse.csr_matrix((values, (at, columns)), (rows.size * 2, 3 * size))
        right = np.stack([off.real, off.imag], -1) * -weights[:, None, None]
        normal, target = (matrix.T @ matrix).toarray() + least, matrix.T @ right.ravel()
        normal[fixed], normal[:, fixed], target[fixed] = 0, 0, 0
        normal[fixed, fixed] = 1
        step = np.linalg.solve(normal, target)
        centers = centers + step[:size] + 1j * step[size : 2 * size]
        angles = angles + step[2 * size :]
    return centers, angles
