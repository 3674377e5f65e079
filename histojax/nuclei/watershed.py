"""From predicted maps to nuclei: marker-controlled watershed in each connected component.

A component of the mask that holds several markers is flooded from them, each basin a nucleus; one
with a single marker, or with none and large enough, is a nucleus as it is.

Maps are (H, W), floating point in [0, 1] or bool, by name: "mask" and "marker" are probabilities,
"contour" (optional) is high between nuclei and "distance" (optional) in their middle. Areas are px.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
import scipy.ndimage
import skimage.segmentation

from histojax.checks import check, number
from histojax.errors import UserError
from histojax.nuclei.components import first_pixels, label_mask, renumbered

Maps = Mapping[str, np.ndarray]

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
    """The nuclei of an image, int32 (H, W), numbered 1..n in raster order of their first pixels.

    Markers are labelled inside the mask (8-connected; what of a marker lies outside is cut off).
    Every component with two markers or more is flooded from them by priority (Meyer 1994; 256
    levels, 8 neighbours, level ground by turns outwards from the markers), as if it were alone.

    Args:
        maps: (H, W) each.
        parameters: None: the defaults.
        mpp: um per px of the maps, None where unknown.

    Raises:
        ValueError, UserError: as `check_maps` does.
    """
    p = (parameters or InstanceParameters()).at(mpp)
    check_maps(maps, p)
    mask = maps["mask"] >= p.mask_threshold
    components = label_mask(mask, min_area=p.min_area, max_hole=p.max_hole)
    markers = label_mask(mask & (maps["marker"] >= p.marker_threshold), min_area=p.min_marker)
    areas = np.bincount(components.ravel())
    count, seeds = len(areas) - 1, markers.max(initial=0)
    # The component of each marker, 0 for those that do not count.
    owner, strong = np.zeros(seeds + 1, np.int32), np.zeros(seeds + 1, bool)
    inside = markers > 0
    owner[markers[inside]] = components[inside]
    strong[markers[inside & (maps["marker"] >= p.marker_peak)]] = True
    owner[~strong] = 0
    held = np.bincount(owner, minlength=count + 1)
    divided = held > 1
    divided[0] = False
    # Numbers for now: of components as they are, then of markers.
    number = np.arange(count + 1, dtype=np.int32)
    number[divided | ((held == 0) & (areas < p.min_unmarked))] = 0
    ids = number[components]
    if divided.any():
        height, boxes = flooded_height(maps, p), scipy.ndimage.find_objects(components)
        from_marker = np.where(owner > 0, np.arange(seeds + 1, dtype=np.int32) + count, 0)
        # Each by itself: of several at once the order in which level ground is flooded would
        # depend on what else the image shows.
        for component in np.flatnonzero(divided):
            box = boxes[component - 1]
            inside = components[box] == component
            own = np.where(inside, from_marker[markers[box]], 0)
            basins = skimage.segmentation.watershed(height[box], own, connectivity=2, mask=inside)
            ids[box] = np.where(inside, basins, ids[box])
    kept = np.bincount(ids.ravel(), minlength=count + seeds + 1) >= max(p.min_area, 1)
    kept[0] = False
    return renumbered(kept, first_pixels(ids, len(kept) - 1))[1][ids]


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
