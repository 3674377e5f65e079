"""From predicted maps to nuclei: marker-controlled watershed in each connected component.

A component of the mask that holds several markers is flooded from them, each basin a nucleus; one
with a single marker, or with none and large enough, is a nucleus as it is. Components and markers
are joined across strips and flooded in blocks of the image's own grid, so the labels do not depend
on how the maps are cut (`InstanceLabeller`). An image in memory goes the same way.

Maps are (H, W), floating point in [0, 1] or bool, by name: "mask" and "marker" are probabilities,
"contour" (optional) is high between nuclei and "distance" (optional) in their middle. Areas are px.
"""

import contextlib
import dataclasses
import logging
from collections.abc import Mapping

import numpy as np
import skimage.segmentation

from histojax.checks import check, number
from histojax.errors import UserError
from histojax.imaging.plane import Plane
from histojax.nuclei.components import StripLabeller, StripLabels, renumbered

_log = logging.getLogger(__name__)

Maps = Mapping[str, np.ndarray]

# Components are flooded block by block, each in a window that reaches so far beyond its block.
BLOCK = 2_048
REACH = 512
_ROWS = 512

_AREAS = ("min_marker", "min_area", "min_unmarked", "max_hole")
_WEIGHTS = ("mask_weight", "marker_weight", "distance_weight", "contour_weight")
_MPP = number(above=0, of="a number of micrometres per pixel")
_RULES = {
    **dict.fromkeys(
        ("mask_threshold", "marker_threshold", "marker_peak"), number(0, 1, of="a probability")
    ),
    **dict.fromkeys(_AREAS, number(0, of="an area in px")),
    **dict.fromkeys(_WEIGHTS, number(0)),
    "mpp": _MPP.or_none(),
}


@dataclasses.dataclass(frozen=True)
class InstanceParameters:
    """What turns maps into nuclei: fitted on the val split, kept with a checkpoint.

    Attributes:
        mask_threshold, marker_threshold: probabilities from which there is mask or marker.
        marker_peak: a marker whose highest probability is below this is dropped.
        min_marker: smaller markers are dropped, px.
        min_area: smaller components, and smaller nuclei after they are divided, are dropped, px.
        min_unmarked: components without a marker are dropped below this, px.
        max_hole: holes of the mask of at most this area are filled, px.
        mask_weight, marker_weight, distance_weight, contour_weight: of the maps in the height that
            is flooded; the first three are valleys where they are high, a contour is a ridge. All
            0: level ground, where basins meet half way.
        mpp: um per px for which the areas hold. An image of another known scale has them scaled,
            so that they stay the same in um^2; None: they are px at any scale.
    """

    mask_threshold: float = 0.5
    marker_threshold: float = 0.5
    marker_peak: float = 0.0
    min_marker: float = 8
    min_area: float = 30
    min_unmarked: float = 60
    max_hole: float = 60
    mask_weight: float = 1.0
    marker_weight: float = 1.0
    distance_weight: float = 0.0
    contour_weight: float = 0.0
    mpp: float | None = None

    def __post_init__(self) -> None:
        check(vars(self), _RULES)

    def at(self, mpp: float | None) -> "InstanceParameters":
        """The same with areas in px of an image at `mpp` um per px, where both scales are known."""
        if mpp is None or self.mpp is None:
            return self
        check({"mpp": mpp}, {"mpp": _MPP})
        scaled = {name: getattr(self, name) * (self.mpp / mpp) ** 2 for name in _AREAS}
        return dataclasses.replace(self, **scaled, mpp=mpp)

    def label(self, maps: Maps, *, mpp: float | None = None) -> np.ndarray:
        """The nuclei of whole maps, by `label_instances`."""
        return label_instances(maps, self, mpp=mpp)


def label_instances(
    maps: Maps, parameters: InstanceParameters | None = None, *, mpp: float | None = None
) -> np.ndarray:
    """The nuclei of one image in memory, int32 (H, W), as `InstanceLabeller` numbers them."""
    check_maps(maps, parameters or InstanceParameters())
    width = maps["mask"].shape[1]
    with InstanceLabeller(width, parameters, mpp=mpp) as labeller:
        labeller.add(maps)
        with labeller.finish() as labels:
            return labels.read(0, 0, labels.height, labels.width)


class InstanceLabeller(contextlib.ExitStack):
    """Labels nuclei in maps that do not fit in memory: strips in, top to bottom, then labels out.

    The first pass labels components of the mask, whose holes are filled, and markers inside the
    mask (8-connected; what of a marker lies outside is cut off). Then every component with two
    markers or more is flooded from them by priority (Meyer 1994; 256 levels, 8 neighbours, level
    ground by turns outwards from the markers), in windows of `BLOCK` px and `REACH` px around. A
    component no longer than `REACH` px in either direction lies whole in one window, and is flooded
    as if alone. A longer one is flooded as far as each window shows it, its basins joined by
    their markers: still the same however the maps are cut, and within `REACH` px of a block's
    border what a flood of the whole component gives, but for water that came from further away.
    Parts that have no marker within a window are left out, with a warning.

    Memory is bounded by a strip, a window and some tens of bytes for each component and marker;
    the temporary files take 14 bytes a pixel.

    A context manager, which closes the files; `finish` hands the labels over.
    """

    def __init__(
        self, width: int, parameters: InstanceParameters | None = None, *, mpp: float | None = None
    ):
        """Strips have `width` px, of `mpp` um where it is known."""
        self.width = width
        self.parameters = p = (parameters or InstanceParameters()).at(mpp)
        with contextlib.ExitStack() as stack:
            self._components = stack.enter_context(
                StripLabeller(width, min_area=p.min_area, max_hole=p.max_hole)
            )
            self._markers = stack.enter_context(StripLabeller(width, min_area=p.min_marker))
            self._heights = stack.enter_context(Plane(width, np.uint8))
            self._strong = stack.enter_context(Plane(width, bool))
            super().__init__()
            self.push(stack.pop_all())

    def add(self, maps: Maps) -> None:
        """Takes the next strip of every map, (rows, W); raises as `check_maps`."""
        check_maps(maps, self.parameters)
        mask = maps["mask"] >= self.parameters.mask_threshold
        self._components.add(mask)
        self._markers.add(mask & (maps["marker"] >= self.parameters.marker_threshold))
        self._heights.append(flooded_height(maps, self.parameters))
        self._strong.append(maps["marker"] >= self.parameters.marker_peak)

    def finish(self) -> StripLabels:
        """Floods the components and numbers the nuclei."""
        with (
            self._components.finish() as components,
            self._markers.finish() as markers,
            contextlib.ExitStack() as stack,
        ):
            plane = stack.enter_context(Plane(self.width, np.uint32))
            self._flood(components, markers, plane)
            # Provisional numbers are those of undivided components, then those of markers.
            count = components.count + markers.count
            labels = _numbered(plane, count, self.parameters.min_area)
            stack.pop_all()
        return labels

    def _owners(self, components: StripLabels, markers: StripLabels) -> np.ndarray:
        """The component of each marker 0..m, 0 for those that do not count; int32."""
        owner = np.zeros(markers.count + 1, np.int32)
        strong = np.zeros(markers.count + 1, bool)
        for y in range(0, components.height, _ROWS):
            region = (y, 0, _ROWS, self.width)
            marker = markers.read(*region)
            inside = marker > 0
            owner[marker[inside]] = components.read(*region)[inside]
            strong[marker[inside & self._strong.read(*region)]] = True
        owner[~strong] = 0
        return owner

    def _flood(self, components: StripLabels, markers: StripLabels, plane: Plane) -> None:
        """Writes a provisional number for every pixel: of its component, or n + its marker."""
        n, owner = components.count, self._owners(components, markers)
        held = np.bincount(owner, minlength=n + 1)
        divided = held > 1
        divided[0] = False
        whole = np.arange(n + 1, dtype=np.int32)
        unmarked = (held == 0) & (np.append(0, components.areas) < self.parameters.min_unmarked)
        whole[divided | unmarked] = 0
        seeds = np.where(owner > 0, np.arange(len(owner), dtype=np.int32) + n, 0).astype(np.int32)
        unreached = 0
        # Rows are complete before the next block's are begun, so that the file grows at its end.
        for y in range(0, components.height, BLOCK):
            rows = min(BLOCK, components.height - y)
            plane.append(np.zeros((rows, self.width), np.uint32))
            for x in range(0, self.width, BLOCK):
                top, left = max(y - REACH, 0), max(x - REACH, 0)
                region = (top, left, y + rows + REACH - top, x + BLOCK + REACH - left)
                window = components.read(*region)
                core = np.s_[y - top : y - top + rows, x - left : x - left + BLOCK]
                ids = whole[window[core]]
                here = np.zeros(n + 1, bool)
                here[window[core]] = True
                inside = (here & divided)[window]
                if inside.any():
                    basins = skimage.segmentation.watershed(
                        self._heights.read(*region),
                        np.where(inside, seeds[markers.read(*region)], 0),
                        connectivity=2,
                        mask=inside,
                    )[core]
                    unreached += int(np.count_nonzero(inside[core] & (basins == 0)))
                    ids = np.where(inside[core], basins, ids)
                plane.write(y, x, ids)
        if unreached:
            _log.warning(
                f"{unreached} px of the mask are left out: their components are longer than "
                f"{REACH} px and have no marker within that (a higher mask threshold divides them)"
            )


def check_maps(maps: Maps, parameters: InstanceParameters) -> None:
    """Raises ValueError for maps that are missing, of another shape or dtype, or not in [0, 1].

    Raises:
        UserError: a weight is given to a map that is not there.
    """
    for name in ("mask", "marker"):
        if name not in maps:
            raise ValueError(f"there is no map {name!r} among {sorted(maps)}")
    for name, weight in _weights(parameters).items():
        if name not in maps:
            raise UserError(
                f"{name}_weight={weight:g} needs a map {name!r}, which this network does not "
                "predict: set it to 0"
            )
    for name, values in maps.items():
        check_map(name, values, np.shape(maps["mask"]))


def _weights(parameters: InstanceParameters) -> dict[str, float]:
    """The weights of maps that are not 0, by the map's name."""
    weights = {name.removesuffix("_weight"): getattr(parameters, name) for name in _WEIGHTS}
    return {name: weight for name, weight in weights.items() if weight}


def check_map(name: str, values: np.ndarray, shape: tuple[int, ...]) -> None:
    """Raises ValueError for a map that is not (H, W) of that shape, in [0, 1]."""
    if np.ndim(values) != 2 or np.shape(values) != shape:
        raise ValueError(f"map {name!r} is (H, W) as the mask, not of shape {np.shape(values)}")
    if values.dtype == bool or not values.size:
        return
    if not np.issubdtype(values.dtype, np.floating):
        raise ValueError(f"map {name!r} is floating point or bool, not {values.dtype}")
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= 1):
        raise ValueError(f"map {name!r} is in [0, 1], and holds {low} to {high}")


def flooded_height(maps: Maps, parameters: InstanceParameters) -> np.ndarray:
    """The ground that is flooded, uint8 (H, W): weighted mean of the maps, valleys first."""
    weights = _weights(parameters)
    height = np.zeros(maps["mask"].shape, np.float32)
    for name, weight in weights.items():
        share = np.float32(255 * weight / sum(weights.values()))
        values = maps[name].astype(np.float32, copy=False)
        height += share * (values if name == "contour" else 1 - values)
    return np.rint(height, out=height).astype(np.uint8)


def _numbered(plane: Plane, count: int, min_area: float) -> StripLabels:
    """Labels 1..n, by their first pixel, out of provisional numbers 1..count."""
    areas = np.zeros(count + 1, np.int64)
    firsts = np.zeros(count + 1, np.int64)
    for y in reversed(range(0, plane.height, _ROWS)):
        ids = plane.read(y, 0, _ROWS, plane.width).ravel()
        areas += np.bincount(ids, minlength=count + 1)
        pixels = np.flatnonzero(ids)[::-1]
        # Where an index is repeated the last assignment stands, and here that is the first pixel.
        firsts[ids[pixels]] = pixels + y * plane.width
    areas[0] = 0
    kept, table = renumbered(areas >= max(min_area, 1), firsts)
    return StripLabels(plane, table, areas[kept])
