"""The nuclei that a region owns: measured and outlined, in a file of their own."""

import dataclasses
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from histojax.files import atomic_path
from histojax.inference import labeling
from histojax.inference.regions.cut import Box, Seen
from histojax.nuclei import measurements, outlines, postprocessing
from histojax.runs import workdirs

_RINGS = ("points", "rings", "polygons", "labels")


class Nuclei(NamedTuple):
    """Nuclei, a row of the table each, and their outlines, on the grid on which they were found.

    `dropped` is the area of objects larger than a nucleus can be, px, which are none of these.
    `classes` are those of a region's px, uint8 (h, w), where the run predicts some.
    """

    table: measurements.Table
    outlines: outlines.Outlines
    dropped: int = 0
    classes: np.ndarray | None = None


def find(
    run: workdirs.Run,
    parameters: postprocessing.Parameters | None,
    seen: Seen,
    *,
    size: tuple[int, int],
    frame: Box,
    mpp: float | None,
    at: float | None,
    cell_expansion: float,
) -> Nuclei:
    """The nuclei whose centroids a region owns.

    An object that the window cuts is longer than the margin. Another region would see another part
    of it, with a centroid of its own, so it is dropped.

    Args:
        run, parameters: as in `labeling.find`.
        seen: the region with the network's maps.
        size: H, W of the whole image, on the grid of the maps, px.
        frame: y, x, height, width of what was scanned, on the grid of the maps, px.
        mpp: um per px of that grid, None where unknown.
        at: the same for the areas of the post-processing, which the size of nuclei may tell.
        cell_expansion: of `measurements.measure`, um.
    """
    maps = {name: values for name, values in seen.outputs.items() if name != "sr"}
    (top, left, height, _), owned = seen.region.seen, seen.region.owned
    scale = maps["mask"].shape[0] // height
    origin = top * scale, left * scale
    found = labeling.find(run, maps, parameters, mpp=at)
    instances, dropped = found.instances, 0
    y, x, rows, columns = (value * scale for value in owned)
    own_px = np.s_[y - origin[0] : y - origin[0] + rows, x - origin[1] : x - origin[1] + columns]
    if found.larger is not None:
        dropped = int(found.larger[own_px].sum())
    table = measurements.measure(
        instances,
        seen.image,
        mpp=mpp,
        probability=maps["mask"][..., 0],
        classes=found.classes,
        class_names=labeling.class_names(run),
        cell_expansion=cell_expansion,
        origin=origin,
        frame=frame,
        with_neighbours=False,
    )
    kept = _inside(table, (y, x, rows, columns))
    cut = kept & np.isin(table["label"], _at_inner_edges(instances, origin, size))
    if cut.any():
        kept &= ~cut
        dropped += int(np.isin(instances[own_px], table["label"][cut]).sum())
    table = {name: values[kept] for name, values in table.items()}
    own = np.zeros(instances.max(initial=0) + 1, np.int32)
    own[table["label"]] = table["label"]
    classes = None if found.classes is None else found.classes[own_px]
    return Nuclei(table, outlines.trace(own[instances], origin), dropped, classes)


def _at_inner_edges(
    instances: np.ndarray, origin: tuple[int, int], size: tuple[int, int]
) -> np.ndarray:
    """Labels at edges of a window that lie inside of the image."""
    height, width = instances.shape
    edges = [instances[0]] if origin[0] > 0 else []
    edges += [instances[:, 0]] if origin[1] > 0 else []
    edges += [instances[-1]] if origin[0] + height < size[0] else []
    edges += [instances[:, -1]] if origin[1] + width < size[1] else []
    return np.unique(np.concatenate([np.zeros(0, instances.dtype), *edges]))


def _inside(table: measurements.Table, box: tuple[int, ...]) -> np.ndarray:
    """Which centroids lie in y, x, height, width, px of the table: bool (N,)."""
    y, x, height, width = box
    # Pixel k reaches from k - 0.5 to k + 0.5 about its centre.
    down, across = table["y_px"] + 0.5, table["x_px"] + 0.5
    return (y <= down) & (down < y + height) & (x <= across) & (across < x + width)


def within(nuclei: Nuclei, box: tuple[int, ...]) -> Nuclei:
    """Those whose centroids lie in a box, numbered 1..n in the same order."""
    kept = _inside(nuclei.table, box)
    if kept.all():
        return nuclei
    number = np.append(0, np.where(kept, np.cumsum(kept), 0))
    own = np.flatnonzero(number[nuclei.outlines.labels])
    rings = selected(nuclei.outlines, own)
    rings = dataclasses.replace(rings, labels=number[rings.labels])
    table = {name: values[kept] for name, values in nuclei.table.items()}
    return Nuclei(table | {"label": number[1:][kept]}, rings, nuclei.dropped)


def save(path: pathlib.Path, nuclei: Nuclei) -> None:
    """Writes the file of a region."""
    rings = {name: getattr(nuclei.outlines, name) for name in _RINGS}
    arrays: dict[str, Any] = {f"table/{name}": values for name, values in nuclei.table.items()}
    if nuclei.classes is not None:
        arrays["classes"] = nuclei.classes
    with atomic_path(path) as part, part.open("wb") as file:
        np.savez_compressed(file, **arrays | rings, dropped=nuclei.dropped)


def load(path: pathlib.Path) -> Nuclei:
    """Reads it back, but for the classes of its px."""
    with np.load(path) as file:
        columns = (name for name in file if name.startswith("table/"))
        table = {name.removeprefix("table/"): file[name] for name in columns}
        rings = outlines.Outlines(*(file[name] for name in _RINGS))
        return Nuclei(table, rings, int(file["dropped"]))


def load_classes(path: pathlib.Path) -> np.ndarray:
    """The classes of its px, uint8 (h, w)."""
    with np.load(path) as file:
        return np.asarray(file["classes"])


def none(mpp: float | None, cell_expansion: float, class_names: Sequence[str] = ()) -> Nuclei:
    """No nuclei, in a table with the columns of `find`."""
    glass = np.zeros((1, 1), np.int32)
    table = measurements.measure(
        glass,
        np.full((1, 1, 3), 255, np.uint8),
        mpp=mpp,
        probability=np.zeros((1, 1), np.float32),
        classes=np.zeros((1, 1), np.uint8) if class_names else None,
        class_names=class_names,
        cell_expansion=cell_expansion,
        with_neighbours=False,
    )
    return Nuclei(table, outlines.trace(glass))


def joined(parts: Iterable[Nuclei]) -> Nuclei:
    """All nuclei of one part or more, numbered 1..n in the order of the parts."""
    tables, all_rings, count = [], [], 0
    points = rings = polygons = all_dropped = 0
    for table, own, dropped, _ in parts:
        number = np.arange(1, len(table["label"]) + 1) + count
        by_label = np.zeros(table["label"].max(initial=0) + 1, np.int64)
        by_label[table["label"]] = number
        tables.append(table | {"label": number})
        all_rings.append(
            (own.points, own.rings[:-1] + points, own.polygons[:-1] + rings, by_label[own.labels])
        )
        count += len(number)
        points, rings = points + len(own.points), rings + len(own.rings) - 1
        polygons, all_dropped = polygons + len(own.labels), all_dropped + dropped
    columns = {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
    flat, first, second, labels = (
        np.concatenate(values) for values in zip(*all_rings, strict=True)
    )
    ends = np.append(first, points), np.append(second, rings)
    return Nuclei(columns, outlines.Outlines(flat, *ends, labels), all_dropped)


def label_strips(
    nuclei: outlines.Outlines, height: int, width: int, rows: int = 512
) -> Iterator[np.ndarray]:
    """The label image of outlines, uint32 (rows, W) at a time."""
    starts = nuclei.rings[nuclei.polygons[:-1]]
    y = nuclei.points[:, 1]
    tops = np.minimum.reduceat(y, starts) if len(starts) else np.zeros(0, np.int64)
    bottoms = np.maximum.reduceat(y, starts) if len(starts) else np.zeros(0, np.int64)
    for top in range(0, height, rows):
        count = min(rows, height - top)
        here = np.flatnonzero((tops < top + count) & (bottoms > top))
        if not len(here):
            yield np.zeros((count, width), np.uint32)
            continue
        low, high = int(tops[here].min()), int(bottoms[here].max())
        part = selected(nuclei, here)
        part.points[:, 1] -= low
        drawn = outlines.rasterize(part, (high - low, width))
        strip = np.zeros((count, width), np.uint32)
        y0, y1 = max(low, top), min(high, top + count)
        strip[y0 - top : y1 - top] = drawn[y0 - low : y1 - low]
        yield strip


def selected(nuclei: outlines.Outlines, polygons: Sequence[int] | np.ndarray) -> outlines.Outlines:
    """Some polygons of outlines, copied."""
    rings = _ranges(nuclei.polygons[polygons], nuclei.polygons[np.add(polygons, 1)])
    points = _ranges(nuclei.rings[rings], nuclei.rings[rings + 1])
    ring_sizes = nuclei.rings[rings + 1] - nuclei.rings[rings]
    polygon_sizes = nuclei.polygons[np.add(polygons, 1)] - nuclei.polygons[polygons]
    return outlines.Outlines(
        nuclei.points[points],
        np.append(0, np.cumsum(ring_sizes)),
        np.append(0, np.cumsum(polygon_sizes)),
        nuclei.labels[polygons],
    )


def _ranges(begins: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The numbers of begin .. end - 1 of each pair, one after another."""
    sizes = ends - begins
    before = np.cumsum(sizes) - sizes
    return np.arange(sizes.sum()) + np.repeat(begins - before, sizes)
