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
    long = float(np.median([max(size) for size in sizes]))
    limit = max(_FALSE, _FALSE_SHARE * long)
    links = list(links)
    while True:
        used = [link for link in links if not link.reason]
        groups = _groups(len(sizes), used)
        centers, angles = _start(len(sizes), used)
        free = np.ones(len(sizes), bool)
        centers, angles = _solve(used, centers, angles, free, limit)
        for group in np.unique(groups):
            own = groups == group
            turn = float(np.median(angles[own]))
            centers[own], angles[own] = centers[own] * np.exp(-1j * turn), angles[own] - turn
        halves = np.array([max(size) / 2 for size in sizes])
        free = np.abs(angles) * halves > _LEAST_TURN
        angles[~free] = 0
        centers, angles = _solve(used, centers, angles, free, limit)
        apart = _apart(used, centers, angles)
        far = [place for place, off in enumerate(apart) if off > limit]
        if not far:
            break
        # The worst alone, because a false link drags true ones along.
        worst = used[max(far, key=lambda place: apart[place])]
        own = apart[used.index(worst)]
        reason = f"is {own:.0f} px off where the other links place its fields"
        links[links.index(worst)] = dataclasses.replace(worst, reason=reason, residual=float(own))
    off = dict(zip(map(id, used), apart, strict=True))
    kept = [
        dataclasses.replace(link, residual=float(off[id(link)])) if id(link) in off else link
        for link in links
    ]
    return Layout(centers, angles, groups, kept)


def weakest_between(first: int, second: int, links: Sequence[Link], count: int) -> Link:
    """The least sure link on the surest way between two fields of one group."""
    used = [link for link in links if not link.reason]
    # Of all ways, that of the greatest spanning tree has the surest weakest link.
    _, before = csgraph.breadth_first_order(_tree(count, used), first, directed=False)
    by_pair = {frozenset((link.first, link.second)): link for link in used}
    way, place = [], second
    while place != first:
        way.append(by_pair[frozenset((place, int(before[place])))])
        place = int(before[place])
    return min(way, key=lambda link: link.height)


def _graph(count: int, links: Sequence[Link], values: Sequence[float]) -> sparse.csr_matrix:
    ends = [link.first for link in links], [link.second for link in links]
    return sparse.csr_matrix((np.array(values, float), ends), (count, count))


def _groups(count: int, links: Sequence[Link]) -> np.ndarray:
    return csgraph.connected_components(_graph(count, links, np.ones(len(links))), False)[1]


def _tree(count: int, links: Sequence[Link]) -> sparse.csr_matrix:
    costs = [1 / (1 + link.height) for link in links]
    return csgraph.minimum_spanning_tree(_graph(count, links, costs))


def _start(count: int, links: Sequence[Link]) -> tuple[np.ndarray, np.ndarray]:
    """Centers and angles along the surest spanning tree."""
    centers, angles = np.zeros(count, complex), np.zeros(count)
    by_pair = {(link.first, link.second): link for link in links}
    tree = _tree(count, links)
    seen: set[int] = set()
    for root in range(count):
        if root in seen:
            continue
        order, before = csgraph.breadth_first_order(tree, root, directed=False)
        seen |= {int(place) for place in order}
        for place in map(int, order[1:]):
            other = int(before[place])
            if (link := by_pair.get((other, place))) is not None:
                centers[place] = centers[other] + np.exp(1j * angles[other]) * link.shift
                angles[place] = angles[other] + link.angle
            else:
                link = by_pair[place, other]
                angles[place] = angles[other] - link.angle
                centers[place] = centers[other] - np.exp(1j * angles[place]) * link.shift
    return centers, angles


def _apart(links: Sequence[Link], centers: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """How far apart the ties of each link lie, px, at most."""
    if not links:
        return np.zeros(0)
    return np.array([np.abs(_differences(link, centers, angles)).max() for link in links])


def _differences(link: Link, centers: np.ndarray, angles: np.ndarray) -> np.ndarray:
    i, j = link.first, link.second
    first = centers[i] + np.exp(1j * angles[i]) * link.ties[0]
    return first - centers[j] - np.exp(1j * angles[j]) * link.ties[1]


def _solve(
    links: Sequence[Link], centers: np.ndarray, angles: np.ndarray, free: np.ndarray, limit: float
) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Newton, in which links further off than a falling bound lose their weight.

    `free` are the fields whose angles are found. The bound falls to `limit` (Geman and McClure's
    weights, graduated), so that false links go and the start does not matter.
    """
    if not links:
        return centers, angles
    size = len(centers)
    bounds = [np.inf, *(limit * 2.0**k for k in range(5, -1, -1)), *[limit] * _ROUNDS]
    for bound in bounds:
        apart = _apart(links, centers, angles)
        weights = np.sqrt([link.share for link in links]) / (1 + (apart / bound) ** 2) ** 2
        rows, columns, values, right = [], [], [], []
        for number, (link, weight) in enumerate(zip(links, np.sqrt(weights), strict=True)):
            i, j = link.first, link.second
            for k, off in enumerate(_differences(link, centers, angles)):
                arms = [1j * np.exp(1j * angles[f]) * link.ties[s][k] for s, f in enumerate((i, j))]
                for axis, part in enumerate((np.real, np.imag)):
                    entries = {axis * size + i: 1.0, axis * size + j: -1.0}
                    entries |= {2 * size + i: part(arms[0]), 2 * size + j: -part(arms[1])}
                    rows += [8 * number + 2 * k + axis] * 4
                    columns += entries.keys()
                    values += [weight * value for value in entries.values()]
                    right.append(-weight * part(off))
        matrix = sparse.csr_matrix((values, (rows, columns)), (8 * len(links), 3 * size))
        normal, target = (matrix.T @ matrix).toarray(), matrix.T @ np.array(right)
        fixed = 2 * size + np.flatnonzero(~free)
        normal[fixed], normal[:, fixed], target[fixed] = 0, 0, 0
        # Each group is free to move as a whole: the smallest step is taken.
        scale = np.where(np.arange(3 * size) < 2 * size, 1.0, max(limit, 1.0) ** 2)
        step = np.linalg.solve(normal + 1e-7 * np.diag(scale), target)
        centers = centers + step[:size] + 1j * step[size : 2 * size]
        angles = angles + step[2 * size :]
    return centers, angles
