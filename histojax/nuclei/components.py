"""From a foreground mask to nuclei: connected components.

Instances are numbered 1..n by the raster order of their first pixel. Foreground and background use
dual connectivities (8 and 4, or 4 and 8), so that a hole is what one component encloses. Masks are
(H, W), non-zero where there is foreground; labels are int32 (H, W), 0 for background. Areas are px
of the mask.
"""

import numpy as np
import scipy.ndimage

from histojax.checks import check, one_of

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


def drop_larger(labels: np.ndarray, area: float) -> np.ndarray:
    """Labels 1..n, int32 (H, W), without instances of more than `area` px, numbered again."""
    kept = np.bincount(labels.ravel()) <= area
    kept[0] = False
    return np.where(kept, np.cumsum(kept), 0).astype(np.int32)[labels]
