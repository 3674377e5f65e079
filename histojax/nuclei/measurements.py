"""Measurements of nuclei: tables of one row a nucleus, neighbours, and summaries of tables.

A table is a dict of NumPy arrays (N,), by label. `COLUMNS` says what each column is. `_scaled`
alone converts from px to um, where mpp, um per px, is known. A missing value is NaN.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.ndimage
import scipy.spatial

from histojax.checks import check, number
from histojax.nuclei.convex import convex_areas
from histojax.stain.hed import RGB_FROM_HED, optical_density

Table = dict[str, np.ndarray]
NEIGHBOUR_RADIUS = 50.0  # um
PERCENTILES = (5, 25, 50, 75, 95)


class Column(NamedTuple):
    """What a column holds. A unit of um or um2 is px or px2 where mpp is unknown."""

    unit: str
    meaning: str
    source: str


_DENSITY = "optical density (natural logarithm) of"
_RUIFROK = "stain vectors of Ruifrok and Johnston 2001"
COLUMNS = {
    "label": Column("", "number of the nucleus in the label image", "counted"),
    "x_px": Column("px", "centroid, from the center of the leftmost pixel", "centroid"),
    "y_px": Column("px", "centroid, from the center of the topmost pixel, downward", "centroid"),
    "area": Column("um2", "area of the pixels", "area"),
    "perimeter": Column(
        "um",
        "by Crofton's formula in 4 directions; on discs of 4 px of radius or more within 2.5 %",
        "perimeter_crofton",
    ),
    "major_axis": Column("um", "length of the ellipse of equal moments", "axis_major_length"),
    "minor_axis": Column("um", "width of that ellipse", "axis_minor_length"),
    "eccentricity": Column("", "eccentricity of that ellipse, 0 to 1", "eccentricity"),
    "solidity": Column("", "area over that of the convex hull", "solidity"),
    "circularity": Column("", "1 for a disc; may exceed it at few px", "4 pi area / perimeter^2"),
    "orientation_deg": Column(
        "degrees",
        "from the vertical to the major axis, counterclockwise as seen, -90 to 90; missing where "
        "both axes are equal",
        "orientation",
    ),
    "haematoxylin_mean": Column("", f"mean {_DENSITY} haematoxylin", _RUIFROK),
    "haematoxylin_sd": Column("", "its standard deviation over the pixels (texture)", _RUIFROK),
    "probability": Column("", "mean foreground probability, 0 to 1, where given", "the network"),
    "class": Column(
        "", "the class of most of its pixels, where the run predicts classes", "the network"
    ),
    "touches_edge": Column(
        "", "1 where the edge of image or scan may cut the nucleus, else 0", "counted"
    ),
    "cell_area": Column(
        "um2",
        "nucleus and what lies within the expansion and no nearer to another; where mpp is known",
        "skimage.segmentation.expand_labels",
    ),
    "nucleus_cell_ratio": Column("", "area over cell_area; where mpp is known", "counted"),
    "cytoplasm_eosin_mean": Column(
        "", f"mean {_DENSITY} eosin in the cell around the nucleus; where mpp is known", _RUIFROK
    ),
    "nearest_neighbour": Column(
        "um", "distance to the nearest other centroid, if any", "scipy.spatial.cKDTree"
    ),
    "local_density_per_mm2": Column(
        "1/mm2",
        f"other centroids within {NEIGHBOUR_RADIUS:g} um over the circle's area, too low near the "
        "edge; where mpp is known",
        "scipy.spatial.cKDTree",
    ),
}
_POWER = {"um": 1, "um2": 2}
# Numbers whose distribution says nothing.
_UNSUMMARIZED = {"label", "x_px", "y_px", "orientation_deg", "class", "touches_edge"}
_MPP = number(above=0, of="a number of um per px").or_none()


def heading(name: str, mpp: float | None) -> str:
    """A column's heading: its name and, where that depends on the scale, its unit."""
    unit = COLUMNS[name].unit
    return f"{name}_{unit if mpp else unit.replace('um', 'px')}" if unit in _POWER else name


def _scaled(columns: Mapping[str, Any], mpp: float | None) -> Table:
    """A table of columns in px, by name, with lengths and areas in um where mpp is known."""
    powers = {name: _POWER.get(column.unit, 0) for name, column in COLUMNS.items()}
    return {
        heading(name, mpp): columns[name] * (mpp or 1.0) ** power if power else columns[name]
        for name, power in powers.items()
        if name in columns
    }


@dataclasses.dataclass(frozen=True)
class _Runs:
    """Runs of pixels of one label in one row, in raster order, (R,) each; labels are 1..count."""

    label: np.ndarray
    y: np.ndarray
    x: np.ndarray
    length: np.ndarray
    count: int

    @classmethod
    def of(cls, labels: np.ndarray, count: int) -> "_Runs":
        first, length = _runs(labels)
        value = labels.ravel()[first]
        kept = value > 0
        y, x = np.divmod(first[kept], max(labels.shape[1], 1))
        return cls(value[kept], y, x, length[kept], count)

    def total(self, values: np.ndarray) -> np.ndarray:
        """Sum of a number a run, for each label: float64 (count,)."""
        return np.bincount(self.label, values, self.count + 1)[1:]

    def mean(self, pixels: np.ndarray, area: np.ndarray) -> np.ndarray:
        """Mean of the values of the labels' pixels, in raster order; NaN where there are none."""
        sums = np.add.reduceat(pixels, np.cumsum(self.length) - self.length, dtype=np.float64)
        with np.errstate(invalid="ignore"):
            return self.total(sums) / area


def _runs(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First pixel (flat index) and length of all runs of equal values in rows."""
    start = np.ones(labels.shape, bool)
    np.not_equal(labels[:, 1:], labels[:, :-1], out=start[:, 1:])
    first = np.flatnonzero(start)
    return first, np.diff(first, append=labels.size)


def measure(
    instances: np.ndarray,
    image: np.ndarray,
    *,
    mpp: float | None,
    probability: np.ndarray | None = None,
    classes: np.ndarray | None = None,
    class_names: Sequence[str] = (),
    cell_expansion: float = 5.0,
    origin: tuple[int, int] = (0, 0),
    frame: tuple[int, int, int, int] | None = None,
    with_neighbours: bool = True,
    stains: np.ndarray = RGB_FROM_HED,
) -> Table:
    """Measures the nuclei of an image, or of a region of one, in the order of their labels.

    Cells and local density need a known scale: without mpp their columns are left out. A region
    holds each of its nuclei whole, with a margin of twice `cell_expansion`. Its neighbours are its
    own alone, so a slide takes `with_neighbours=False`, and then `neighbours` of all centroids.

    Args:
        instances: int (H, W), 0 background; the labels may have gaps and islands.
        image: uint8 (H, W, 3).
        mpp: um per px; None: unknown.
        probability: foreground probability in [0, 1], float (H, W).
        classes, class_names: the class of each pixel, uint8 (H, W), and their names from 0.
        cell_expansion: how far a cell reaches beyond its nucleus, um; 0 leaves cells out.
        origin: y, x of the region in its image, px.
        frame: y, x, height, width of what that image shows, px; None: the region is the image.
        stains: absorption vectors, float (S, 3), haematoxylin and eosin first.

    Raises:
        UserError: mpp is not above 0, or cell_expansion is below 0.
        ValueError: shapes differ, or a label is negative.
    """
    check({"mpp": mpp}, {"mpp": _MPP})
    check({"cell_expansion": cell_expansion}, {"cell_expansion": number(0, of="a number of um")})
    shape = instances.shape
    if image.shape != (*shape, 3) or (probability is not None and probability.shape != shape):
        raise ValueError(f"image {image.shape} or probability does not fit labels {shape}")
    ids, labels = _compacted(instances)
    runs = _Runs.of(labels, len(ids))
    columns = {"label": ids, **_shapes(runs, labels)}
    area, inside = columns["area"], labels > 0
    haematoxylin, eosin = np.linalg.pinv(stains).T[:2]
    density = _stain_density(image[inside], haematoxylin)
    mean = runs.mean(density, area)
    density -= np.repeat(mean[runs.label - 1], runs.length).astype(np.float32)
    columns["haematoxylin_mean"] = mean
    columns["haematoxylin_sd"] = np.sqrt(runs.mean(np.square(density, out=density), area))
    if probability is not None:
        columns["probability"] = runs.mean(probability[inside], area)
    if classes is not None:
        count = len(class_names)
        votes = np.bincount((labels[inside] - 1) * count + classes[inside], None, len(ids) * count)
        columns["class"] = np.array(class_names)[votes.reshape(-1, count).argmax(1)]
    columns["touches_edge"] = _at_edge(labels, len(ids), origin, frame or (*origin, *shape))
    columns["y_px"] += origin[0]
    columns["x_px"] += origin[1]
    if mpp is not None and cell_expansion > 0:
        ring = _cytoplasm(labels, cell_expansion / mpp)
        cytoplasm = _Runs.of(ring, len(ids))
        ring_area = cytoplasm.total(cytoplasm.length)
        columns["cell_area"] = area + ring_area
        columns["nucleus_cell_ratio"] = area / columns["cell_area"]
        eosin_density = _stain_density(image[ring > 0], eosin)
        columns["cytoplasm_eosin_mean"] = cytoplasm.mean(eosin_density, ring_area)
    table = _scaled(columns, mpp)
    return table | (neighbours(table["x_px"], table["y_px"], mpp=mpp) if with_neighbours else {})


def _compacted(instances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The labels that occur, ascending (N,), and the image with 1..N in their place, int32."""
    first, length = _runs(instances)
    ids, number = np.unique(instances.ravel()[first], return_inverse=True)
    if len(ids) and ids[0] < 0:
        raise ValueError(f"a label of {ids[0]} is negative")
    if len(ids) and ids[0] == 0:
        ids = ids[1:]
    else:
        number += 1
    return ids, np.repeat(number.astype(np.int32), length).reshape(instances.shape)


def _shapes(runs: _Runs, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Columns of position and shape, px."""
    n = runs.length
    area = runs.total(n)
    x = runs.total(n * (2 * runs.x + n - 1)) / (2 * area)
    y = runs.total(n * runs.y) / area
    # About a whole pixel near the centroid all sums are small whole numbers, and so exact.
    x0, y0 = np.rint(x).astype(np.int64), np.rint(y).astype(np.int64)
    dx, dy = runs.x - x0[runs.label - 1], runs.y - y0[runs.label - 1]
    run_x = n * dx + n * (n - 1) // 2
    run_xx = n * dx * dx + dx * n * (n - 1) + (n - 1) * n * (2 * n - 1) // 6
    s_x, s_y, s_xy = runs.total(run_x), runs.total(n * dy), runs.total(run_x * dy)
    var_x = (runs.total(run_xx) - s_x**2 / area) / area
    var_y = (runs.total(n * dy * dy) - s_y**2 / area) / area
    covariance = (s_xy - s_x * s_y / area) / area
    half, root = (var_x + var_y) / 2, np.hypot((var_x - var_y) / 2, covariance)
    large, small = half + root, np.maximum(half - root, 0)
    angle = np.degrees(0.5 * np.arctan2(2 * covariance, var_y - var_x))
    perimeter = _crofton(labels, runs.count)
    ratio = np.divide(small, large, out=np.ones_like(large), where=large > 0)
    return {
        "x_px": x,
        "y_px": y,
        "area": area,
        "perimeter": perimeter,
        "major_axis": 4 * np.sqrt(large),
        "minor_axis": 4 * np.sqrt(small),
        "eccentricity": np.sqrt(1 - ratio),
        "solidity": area / _hull_areas(runs),
        "circularity": 4 * math.pi * area / perimeter**2,
        "orientation_deg": np.where(root > 0, angle, np.nan),
    }


def _crofton(labels: np.ndarray, count: int) -> np.ndarray:
    """Crofton perimeters in 4 directions, px: changes of label along rows, columns, diagonals."""
    padded = np.pad(labels, 1)
    lines = np.zeros(count + 1)
    for a, b, weight in (
        (padded[:, :-1], padded[:, 1:], 1.0),
        (padded[:-1], padded[1:], 1.0),
        (padded[:-1, :-1], padded[1:, 1:], math.sqrt(0.5)),
        (padded[:-1, 1:], padded[1:, :-1], math.sqrt(0.5)),
    ):
        change = a != b
        for side in (a, b):
            lines += weight * np.bincount(side[change], minlength=count + 1)
    return math.pi / 8 * lines[1:]


def _hull_areas(runs: _Runs) -> np.ndarray:
    """Areas of the convex hulls, px."""
    top = np.full(runs.count + 1, np.iinfo(np.int64).max)
    # Raster order: the first run of a label is at its top and the last at its bottom.
    top[runs.label[::-1]] = runs.y[::-1]
    bottom = np.zeros(runs.count + 1, np.int64)
    bottom[runs.label] = runs.y
    height = (bottom - top + 1)[1:]
    row = (np.cumsum(height) - height - top[1:])[runs.label - 1] + runs.y
    left, right = np.ones(height.sum(), np.int64), np.zeros(height.sum(), np.int64)
    left[row[::-1]] = runs.x[::-1]
    right[row] = runs.x + runs.length - 1
    return convex_areas(height, left, right)


def _stain_density(pixels: np.ndarray, unmixing: np.ndarray) -> np.ndarray:
    """Optical density of one stain, float32 (P,), of uint8 (P, 3)."""
    density = optical_density(np.arange(256, dtype=np.uint8))
    tables = (density[:, None] * unmixing).astype(np.float32)
    return sum(tables[:, c][pixels[:, c]] for c in range(3))


def _at_edge(
    labels: np.ndarray, count: int, origin: tuple[int, int], frame: tuple[int, int, int, int]
) -> np.ndarray:
    """Which nuclei have pixels in the outermost rows and columns of the frame."""
    edge = np.zeros(count + 1, bool)
    for axis in (0, 1):
        first = frame[axis] - origin[axis]
        for at in (first, first + frame[axis + 2] - 1):
            if 0 <= at < labels.shape[axis]:
                edge[labels.take(at, axis)] = True
    return edge[1:]


def _cytoplasm(labels: np.ndarray, distance: float) -> np.ndarray:
    """Cells without their nuclei: `skimage.segmentation.expand_labels`, in a third of its time."""
    out = np.zeros_like(labels)
    if not labels.any():
        return out
    nearest = scipy.ndimage.distance_transform_edt(
        labels == 0, return_distances=False, return_indices=True
    )
    y, x = np.ogrid[: labels.shape[0], : labels.shape[1]]
    # By some rows, whose temporaries the cache holds.
    for rows in (slice(top, top + 64) for top in range(0, len(labels), 64)):
        near_y, near_x = nearest[:, rows]
        squared = (near_y - y[rows]) ** 2 + (near_x - x) ** 2
        near = (squared > 0) & (squared <= distance**2)
        out[rows][near] = labels[near_y[near], near_x[near]]
    return out


def neighbours(
    x: np.ndarray, y: np.ndarray, *, mpp: float | None, radius: float = NEIGHBOUR_RADIUS
) -> Table:
    """The columns that depend on other nuclei, of all centroids of an image or slide.

    Args:
        x, y: centroids, px, float (N,).
        mpp: um per px; None: unknown, which leaves the density out.
        radius: of the circle of the local density, um.

    Raises:
        UserError: mpp or radius is not above 0.
    """
    check({"mpp": mpp, "radius": radius}, {"mpp": _MPP, "radius": number(above=0)})
    points = np.column_stack([x, y]).astype(np.float64)
    columns = {"nearest_neighbour": np.full(len(points), np.nan)}
    tree = scipy.spatial.cKDTree(points)
    if len(points) > 1:
        # The nearest is the nucleus itself; two may share a centroid.
        columns["nearest_neighbour"] = tree.query(points, 2)[0][:, 1]
    if mpp is not None:
        near = tree.query_ball_point(points, radius / mpp, return_length=True)
        near = np.asarray(near, np.float64) - 1
        columns["local_density_per_mm2"] = near / (math.pi * (radius / 1000) ** 2)
    return _scaled(columns, mpp)


def summary(table: Table, area_mm2: float | None) -> dict[str, Any]:
    """Count, density and distributions of a table, of an image or a region, ready for JSON.

    Nuclei at the image's edge are counted and left out of the distributions, as are missing values.

    Args:
        table: of `measure`.
        area_mm2: area that was searched, mm2; None: unknown.

    Returns:
        count, at_edge, area_mm2, density_per_mm2 (of all nuclei) and columns: heading -> n, mean,
        sd (of a sample), p5, p25, p50, p75 and p95; None where there is no value.
    """
    whole = ~np.asarray(table["touches_edge"], bool)
    headings = {heading(name, mpp) for name in COLUMNS.keys() - _UNSUMMARIZED for mpp in (1, None)}
    return {
        "count": len(whole),
        "at_edge": int((~whole).sum()),
        "area_mm2": area_mm2,
        "density_per_mm2": len(whole) / area_mm2 if area_mm2 else None,
        "columns": {
            name: _distribution(values[whole]) for name, values in table.items() if name in headings
        },
    }


def _distribution(values: np.ndarray) -> dict[str, float | None]:
    values = values[~np.isnan(values)]
    n, some = len(values), len(values) > 0
    percentiles = np.percentile(values, PERCENTILES).tolist() if some else [None] * len(PERCENTILES)
    return {
        "n": n,
        "mean": float(values.mean()) if some else None,
        "sd": float(values.std(ddof=1)) if n > 1 else None,
        **{f"p{p}": value for p, value in zip(PERCENTILES, percentiles, strict=True)},
    }
