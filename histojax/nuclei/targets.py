"""What a network of nuclei is trained on: markers, contours and distances of instances.

Every map is a pure function of a whole label image, made before it is cropped, so that a crop's
targets are those of the whole. What touches a nucleus counts as background. Beyond the border of
the image a nucleus goes on, as in MATLAB's erosion, so that the border cuts no marker and has no
contour.

Labels are integers (H, W), 0 where there is background; a label's pixels need not be connected.
Areas are px. Functions raise ValueError for anything that is no label image.
"""

import numpy as np
import scipy.ndimage
import skimage.transform

# Shape markers as USE-Net's authors code them: up to AREAS[i] px the radius is RADII[i], above the
# last the last; drawn for images of MPP um per px.
AREAS = (70, 120, 500)
RADII = (0, 1, 4, 6)
MPP = 0.25
CENTER_RADIUS = 4


def octagon(radius: int) -> tuple[int, int]:
    """(a, b): MATLAB's disk of a radius is the sum of a square and a diamond of radii a and b.

    From 3 px on, `strel("disk", R)` is by default not round: four lines, whose number of pixels is
    rounded down, are added up and lengthened to 2 R - 1 px, so the octagon reaches R - 1 px. Below
    3 px it is the round disk, which is a diamond.
    """
    if radius < 0:
        raise ValueError(f"a disk has a radius of 0 px or more, not {radius}")
    if radius < 3:
        return 0, radius
    # The lines' common length in px is 2 R / (cot + cosec of 22.5 degrees); a diagonal step is
    # sqrt(2) long, and the two diagonals together make a diamond of twice their reach.
    length = 2 * radius / (1 / np.tan(np.pi / 8) + 1 / np.sin(np.pi / 8))
    diagonal = int(length / np.sqrt(2))
    return radius - 1 - 2 * diagonal, 2 * diagonal


def disk(radius: int) -> np.ndarray:
    """MATLAB's `strel("disk", radius)`, bool (n, n), n odd: 37 px for 4 and 109 for 6."""
    square, diamond = octagon(radius)
    reach = np.abs(np.arange(-square - diamond, square + diamond + 1))
    beyond = np.maximum(reach - square, 0)
    return beyond[:, None] + beyond[None, :] <= diamond


def shape_markers(
    instances: np.ndarray, *, mpp: float | None = None, separate: bool = True
) -> np.ndarray:
    """Each nucleus eroded by MATLAB's disk of a radius, of `RADII`, that grows with its area.

    Rahmon, Toubal and Palaniappan 2021 (USE-Net), as coded by its authors, who erode the annotated
    outlines before overlaps are settled. A nucleus eroded to nothing has no marker.

    Args:
        instances: labels (H, W).
        mpp: um per px of the image, to which areas and radii (to the nearest px) are scaled. None:
            taken as they are.
        separate: cuts marker pixels that touch another nucleus's marker at an edge or a corner,
            where nuclei too small to be eroded lie against others; False leaves them, as published.

    Returns:
        The labels (H, W) in their markers, 0 elsewhere, in the dtype of `instances`.
    """
    labels = _compact(instances)
    if mpp is not None and not 0 < mpp < np.inf:
        raise ValueError(f"a scale is above 0 um per px, not {mpp}")
    factor = 1.0 if mpp is None else MPP / mpp
    step = np.searchsorted(np.asarray(AREAS) * factor**2, np.bincount(labels.ravel()))
    scaled = [int(np.floor(radius * factor + 0.5)) for radius in RADII]
    radius = np.asarray(scaled)[step][labels]
    marker = np.zeros(labels.shape, bool)
    for value in set(scaled):
        marker |= (radius == value) & _eroded(labels, *octagon(value))
    return _labelled(marker, labels, instances, separate)


def center_markers(
    instances: np.ndarray, *, radius: int = CENTER_RADIUS, separate: bool = True
) -> np.ndarray:
    """MATLAB's disk of one radius about each nucleus's centroid, kept inside the nucleus.

    The ablation's marker of Rahmon et al. 2021, who dilate the centroid by a constant that they do
    not give. Where the centroid falls outside of its nucleus (a crescent), the nucleus's nearest
    pixel replaces it, of several the first in raster order. From 3 px on the reach is a pixel less
    than the radius (see `octagon`). All else is as in `shape_markers`.
    """
    labels = _compact(instances)
    height, width = labels.shape
    here = np.unique(labels[labels > 0])
    centers = scipy.ndimage.center_of_mass(labels > 0, labels, here)
    y, x = np.floor(np.reshape(centers, (-1, 2)).T + 0.5).astype(np.int64)
    outside = labels[y, x] != here
    if outside.any():
        y[outside], x[outside] = _nearest(labels, here[outside], y[outside], x[outside])
    shape = disk(radius)
    dy, dx = np.argwhere(shape).T - len(shape) // 2
    y, x = y[:, None] + dy, x[:, None] + dx
    y, x = np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)  # onto the disk's own pixels
    own = labels[y, x] == here[:, None]
    marker = np.zeros(labels.shape, bool)
    marker[y[own], x[own]] = True
    return _labelled(marker, labels, instances, separate)


def _labelled(
    marker: np.ndarray, labels: np.ndarray, instances: np.ndarray, separate: bool
) -> np.ndarray:
    """The instances in their markers, without pixels that touch another's where `separate`."""
    if separate:
        marker = marker & ~_touching(np.where(marker, labels, 0))
    return np.where(marker, instances, 0).astype(np.asarray(instances).dtype)


def contours(instances: np.ndarray, *, width: int = 2) -> np.ndarray:
    """The ring of `width` px along the inside of each nucleus's border, uint8 {0, 1} (H, W).

    Touching nuclei have a ring each, so the two lie side by side. Diagonals are taken in turn with
    edges, so that the ring is about as wide in every direction.
    """
    if width < 1:
        raise ValueError(f"a contour is 1 px wide or more, not {width}")
    labels = _compact(instances)
    inner = _eroded(labels, width // 2, (width + 1) // 2)
    return ((labels > 0) & ~inner).astype(np.uint8)


def distances(instances: np.ndarray) -> np.ndarray:
    """How deep each pixel lies in its nucleus, float32 (H, W): 0 outside, 1 at the deepest.

    One px more than the Euclidean distance to the nucleus's nearest border pixel (one that has
    a neighbour of another label, corners included), over the largest such value of the nucleus.
    """
    labels = _compact(instances)
    inside = labels > 0
    edge = inside & ~_eroded(labels, 1, 0)
    depth = np.ones(labels.shape, np.float32)
    if edge.any():
        # The way out of a nucleus crosses its own border first, so the nearest border pixel of any
        # nucleus is its own.
        depth += scipy.ndimage.distance_transform_edt(~edge)
    ids, depth = labels[inside], depth[inside]
    deepest = np.zeros(labels.max(initial=0) + 1, np.float32)
    np.maximum.at(deepest, ids, depth)
    result = np.zeros(labels.shape, np.float32)
    result[inside] = depth / deepest[ids]
    return result


def resized_mask(
    mask: np.ndarray, size: int | tuple[int, int], *, legacy_labels: bool = False
) -> np.ndarray:
    """A mask or marker (H, W) at another size, one side or two, bilinear; uint8 {0, 1}.

    Pixels of at least half foreground count; with `legacy_labels` those of foreground alone, as
    USE-Net's code truncates the resized values: nearly every nucleus loses about half a pixel all
    around (1000 -> 992 px), and its target is smaller than the annotation.
    """
    mask = np.asarray(mask)
    if mask.ndim != 2 or not mask.size:
        raise ValueError(f"a mask is (H, W) and not empty; this one has shape {mask.shape}")
    sides = size if isinstance(size, tuple) else (size, size)
    values = skimage.transform.resize((mask != 0).astype(np.float64), sides, order=1)
    # Rounding within foreground must not lose a pixel, which in the source's code it may.
    return (values >= (1 - 1e-6 if legacy_labels else 0.5)).astype(np.uint8)


def _compact(instances: np.ndarray) -> np.ndarray:
    """The labels, checked and renumbered where they are too large to count by."""
    instances = np.asarray(instances)
    if instances.ndim != 2 or not np.issubdtype(instances.dtype, np.integer):
        raise ValueError(
            f"labels are integers (H, W), not {instances.dtype} of shape {instances.shape}"
        )
    if not instances.size:
        return instances.astype(np.int32)
    if instances.min() < 0:
        raise ValueError(f"labels are 0 or more, not {instances.min()}")
    if instances.max() <= max(instances.size, 2**16):
        return instances.astype(np.int32, copy=False)
    values, labels = np.unique(instances, return_inverse=True)
    return (labels + (values[0] != 0)).astype(np.int32).reshape(instances.shape)


EDGES = ((0, 1), (1, 0))
CORNERS = ((1, 1), (1, -1))


def shifted(array: np.ndarray, dy: int, dx: int) -> tuple[np.ndarray, np.ndarray]:
    """Views of the pixels that have a neighbour at (dy, dx), 0 or more down, and of those."""
    height, width = array.shape
    here = array[: height - dy, max(-dx, 0) : width - max(dx, 0)]
    there = array[dy:, max(dx, 0) : width - max(-dx, 0)]
    return here, there


def _eroded(labels: np.ndarray, square: int, diamond: int) -> np.ndarray:
    """Pixels whose square plus diamond lies in one instance, as far as the image shows it; bool."""
    inside = labels > 0
    if not square and not diamond:
        return inside
    # The first step compares labels. What it leaves of two instances is not adjacent any more, so
    # the other steps may take all instances for one. Taking a sum of shapes apart is exact also at
    # the border, because the way to each of its pixels can be kept inside the image.
    for dy, dx in EDGES + (CORNERS if square else ()):
        here, there = shifted(labels, dy, dx)
        differs = here != there
        for part in shifted(inside, dy, dx):
            part &= ~differs
    steps = [True] * (square - 1) + [False] * (diamond if square else diamond - 1)
    for is_square in steps:
        before = inside.copy()
        inside[:, 1:] &= before[:, :-1]
        inside[:, :-1] &= before[:, 1:]
        if is_square:
            before = inside.copy()
        inside[1:] &= before[:-1]
        inside[:-1] &= before[1:]
    return inside


def _touching(labels: np.ndarray) -> np.ndarray:
    """Labelled pixels with another label at an edge or a corner, bool (H, W)."""
    touching = np.zeros(labels.shape, bool)
    for dy, dx in EDGES + CORNERS:
        here, there = shifted(labels, dy, dx)
        meets = (here != there) & (here > 0) & (there > 0)
        for part in shifted(touching, dy, dx):
            part |= meets
    return touching


def _nearest(
    labels: np.ndarray, wanted: np.ndarray, y: np.ndarray, x: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The pixel (y, x) of each wanted label that is nearest to the place given with it."""
    place = np.full(labels.max() + 1, -1)
    place[wanted] = np.arange(len(wanted))
    rows, columns = np.nonzero(place[labels] >= 0)
    index = place[labels[rows, columns]]
    far = (rows - y[index]) ** 2 + (columns - x[index]) ** 2
    order = np.lexsort((far, index))
    _, first = np.unique(index[order], return_index=True)
    nearest = order[first]
    return rows[nearest], columns[nearest]
