"""From a foreground mask to nuclei: connected components, in memory or by strips.

Both give the same labels: instances are numbered 1..n by the raster order of their first pixel,
so neither the tile nor the strip can change them. Foreground and background use dual connectivities
(8 and 4, or 4 and 8), so that a hole is what one component encloses. Masks are (H, W), non-zero
where there is foreground; labels are int32 (H, W), 0 for background. Areas are px of the mask.
"""

import contextlib
from collections.abc import Iterator

import numpy as np
import scipy.ndimage
import scipy.sparse.csgraph

from histojax.checks import check, one_of
from histojax.errors import UserError
from histojax.imaging.plane import Plane

_DUAL = {4: 8, 8: 4}


def _structure(connectivity: int) -> np.ndarray:
    check({"connectivity": connectivity}, {"connectivity": one_of(_DUAL)})
    return scipy.ndimage.generate_binary_structure(2, 1 if connectivity == 4 else 2)


def first_pixels(labels: np.ndarray, count: int) -> np.ndarray:
    """Flat index of the first pixel of labels 0..count in raster order (0 for label 0)."""
    pixels = np.flatnonzero(labels)[::-1]
    first = np.zeros(count + 1, np.int64)
    # Where an index is repeated the last assignment stands, and here that is the first pixel.
    first[labels.ravel()[pixels]] = pixels
    return first


def renumbered(kept: np.ndarray, firsts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """New numbers of labels by the raster order of their first pixels, given as flat indices (n,).

    Returns:
        The labels that are kept, bool (n,), in their new order; the new number of each label, int32
        (n,), 1, 2, ... or 0.
    """
    order = np.flatnonzero(kept)
    order = order[np.argsort(firsts[order])]
    table = np.zeros(len(firsts), np.int32)
    table[order] = np.arange(1, len(order) + 1)
    return order, table


def fill_holes(mask: np.ndarray, max_area: float, connectivity: int = 8) -> np.ndarray:
    """Fills the holes of at most `max_area` px; bool (H, W).

    A hole is a component of the background (of the dual connectivity) that does not touch the
    border of the image. What lies inside a hole does not count towards its area.
    """
    mask = np.asarray(mask) != 0
    structure = _structure(_DUAL.get(connectivity, connectivity))
    if max_area <= 0:
        return mask
    background, _ = scipy.ndimage.label(~mask, structure)
    fill = np.bincount(background.ravel()) <= max_area
    for edge in (background[0], background[-1], background[:, 0], background[:, -1]):
        fill[edge] = False
    fill[0] = False
    return mask | fill[background]


def label_mask(
    mask: np.ndarray, *, min_area: float = 0, max_hole: float = 0, connectivity: int = 8
) -> np.ndarray:
    """Connected components of a mask as instances, 1..n in raster order of their first pixels.

    Args:
        mask: (H, W), non-zero where there is foreground.
        min_area: smaller components are dropped, px, after their holes are filled.
        max_hole: holes of at most this area are filled, px; 0 fills none.
        connectivity: 8 (edges and corners) or 4 (edges).
    """
    labels, count = scipy.ndimage.label(
        fill_holes(mask, max_hole, connectivity), _structure(connectivity)
    )
    large = np.bincount(labels.ravel(), minlength=count + 1) >= max(min_area, 1)
    large[0] = False
    return renumbered(large, first_pixels(labels, count))[1][labels]


class StripLabeller(contextlib.AbstractContextManager):
    """Labels a mask that does not fit in memory: strips in, top to bottom, then labels out.

    The first pass labels each strip by itself, writes these provisional numbers to a temporary
    file and notes which of them meet across strips; `finish` joins them, and the second pass reads
    the file back through a table. Memory is bounded by a strip and by some tens of bytes for each
    provisional component. The file (4 bytes a pixel) has no name and goes with the process.

    With `max_hole` the background is labelled as well, since a hole may span strips. Foreground is
    8-connected. A context manager, which closes the file unless `finish` has handed it over.
    """

    def __init__(self, width: int, *, min_area: float = 0, max_hole: float = 0):
        """Strips have `width` px; areas are as in `label_mask`."""
        self.width, self.height = width, 0
        self.min_area, self.max_hole = min_area, max_hole
        self._count = 0
        # Area, first pixel, and whether it is background, of the provisional numbers from 0 on.
        self._parts = [(np.zeros(1, np.int64), np.zeros(1, np.int64), np.zeros(1, bool))]
        self._borders: list[np.ndarray] = []
        self._joins: list[np.ndarray] = []
        self._contacts: list[np.ndarray] = []
        self._last_row: tuple[np.ndarray, np.ndarray] | None = None
        self._open = contextlib.ExitStack()
        self._plane = self._open.enter_context(Plane(width, np.uint32))

    def add(self, mask: np.ndarray) -> None:
        """Takes the next strip, (rows, W), non-zero where there is foreground."""
        if mask.ndim != 2 or mask.shape[1] != self.width:
            raise ValueError(f"a strip of shape {mask.shape} does not have {self.width} columns")
        if not len(mask):
            return
        foreground = np.asarray(mask) != 0
        ids, count = scipy.ndimage.label(foreground, _structure(8))
        holes = np.zeros(count, bool)
        if self.max_hole > 0:
            background, more = scipy.ndimage.label(~foreground, _structure(4))
            np.add(background, count, out=ids, where=~foreground)
            holes = np.concatenate([holes, np.ones(more, bool)])
            count += more
        if self._count + count >= 2**32:
            raise UserError(
                f"The mask has more than {2**32:,} parts, too many to number: smooth it first."
            )
        areas = np.bincount(ids.ravel(), minlength=count + 1)[1:]
        firsts = first_pixels(ids, count)[1:] + self.height * self.width
        self._parts.append((areas, firsts, holes))
        ids = ids.astype(np.uint32)
        np.add(ids, np.uint32(self._count), out=ids, where=ids > 0)
        if self.max_hole > 0:
            sides = [ids[:, 0], ids[:, -1], *([ids[0]] if self.height == 0 else [])]
            self._borders.append(np.unique(np.concatenate(sides)))
            self._touch(ids[:, :-1], foreground[:, :-1], ids[:, 1:], foreground[:, 1:])
            self._touch(ids[:-1], foreground[:-1], ids[1:], foreground[1:])
        if self._last_row is not None:
            self._join(*self._last_row, ids[0], foreground[0])
        self._last_row = ids[-1].copy(), foreground[-1].copy()
        self._plane.append(ids)
        self._count += count
        self.height += len(mask)

    def _join(
        self, above: np.ndarray, filled: np.ndarray, below: np.ndarray, foreground: np.ndarray
    ) -> None:
        """Notes which parts of two rows meet across strips; `filled` is the foreground above."""
        # A slice of the row above and one of the row below: straight, then both diagonals.
        for a, b in (np.s_[:, :], np.s_[:-1, 1:], np.s_[1:, :-1]):
            self._joins.append(_pairs(above[a], below[b], filled[a] & foreground[b]))
        if self.max_hole > 0:
            self._joins.append(_pairs(above, below, ~(filled | foreground)))
            self._touch(above, filled, below, foreground)

    def _touch(
        self, ids: np.ndarray, foreground: np.ndarray, others: np.ndarray, filled: np.ndarray
    ) -> None:
        """Notes which foreground lies against which background, in two rows or columns."""
        self._contacts.append(_pairs(ids, others, foreground & ~filled))
        self._contacts.append(_pairs(others, ids, filled & ~foreground))

    def finish(self) -> "StripLabels":
        """Joins the parts, drops what is too small and numbers the rest."""
        areas, firsts, holes = map(np.concatenate, zip(*self._parts, strict=True))
        group = _components(self._count + 1, self._joins)
        if self.max_hole > 0 and self._last_row is not None:
            borders = np.concatenate([*self._borders, self._last_row[0]])
            fill = np.bincount(group, weights=areas) <= self.max_hole
            fill[group[borders]] = False
            filled = holes & fill[group]
            contacts = np.concatenate(self._contacts)
            joined = contacts[filled[contacts[:, 1]]]
            group = _components(self._count + 1, [*self._joins, joined])
            holes = holes & ~filled
        nucleus = ~holes
        nucleus[0] = False
        sizes = np.bincount(group[nucleus], weights=areas[nucleus], minlength=group.max() + 1)
        first = np.full(len(sizes), np.iinfo(np.int64).max)
        np.minimum.at(first, group[nucleus], firsts[nucleus])
        kept, number = renumbered(sizes >= max(self.min_area, 1), first)
        table = np.where(nucleus, number[group], 0).astype(np.int32)
        self._open.pop_all()
        return StripLabels(self._plane, table, sizes[kept].astype(np.int64))

    def __exit__(self, *_: object) -> None:
        self._open.close()


class StripLabels(contextlib.ExitStack):
    """Labels on disk, read by rows or by region: int32, 0 background, 1..n in raster order.

    A context manager, which closes the temporary file. `areas` are the n areas, px.
    """

    def __init__(self, plane: Plane, table: np.ndarray, areas: np.ndarray):
        """The labels are `table`, int32, of the provisional numbers in the plane, uint32 (H, W)."""
        super().__init__()
        self.height, self.width, self.areas = plane.height, plane.width, areas
        self._plane, self._table = self.enter_context(plane), table

    @property
    def count(self) -> int:
        """Number of instances n."""
        return len(self.areas)

    def read(self, y: int, x: int, height: int, width: int) -> np.ndarray:
        """int32 (height, width) of the region at y, x, px, cut off at the border of the image."""
        return self._table[self._plane.read(y, x, height, width)]

    def strips(self, rows: int = 512) -> Iterator[np.ndarray]:
        """int32 (rows, W), top to bottom; the last may have fewer rows."""
        for y in range(0, self.height, rows):
            yield self.read(y, 0, rows, self.width)

    def drop_larger(self, area: float) -> int:
        """Drops instances of more than `area` px, numbers the rest again; how many it dropped."""
        numbers, dropped = _without_larger(self.areas, area)
        self._table, self.areas = numbers[self._table], self.areas[self.areas <= area]
        return dropped


def drop_larger(labels: np.ndarray, area: float) -> np.ndarray:
    """Labels 1..n, int32 (H, W), without instances of more than `area` px, numbered again."""
    return _without_larger(np.bincount(labels.ravel())[1:], area)[0][labels]


def _without_larger(areas: np.ndarray, area: float) -> tuple[np.ndarray, int]:
    """(new number of each label 0..n, 0 for those above `area`, int32; how many are)."""
    kept = areas <= area
    numbers = np.append(0, np.where(kept, np.cumsum(kept), 0)).astype(np.int32)
    return numbers, int(np.count_nonzero(~kept))


def _pairs(a: np.ndarray, b: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Distinct (a, b) at the places where the condition holds, int64 (n, 2)."""
    code = np.unique(a[where].astype(np.uint64) << np.uint64(32) | b[where].astype(np.uint64))
    pairs = np.stack([code >> np.uint64(32), code & np.uint64(2**32 - 1)], axis=-1)
    return pairs.astype(np.int64)


def _components(nodes: int, pairs: list[np.ndarray]) -> np.ndarray:
    """Component number of each node of a graph that is given by its edges, int32 (nodes,)."""
    edges = np.concatenate([np.zeros((0, 2), np.int64), *pairs])
    graph = scipy.sparse.coo_matrix((np.ones(len(edges), bool), edges.T), shape=(nodes, nodes))
    return scipy.sparse.csgraph.connected_components(graph, directed=False)[1]
