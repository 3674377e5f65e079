"""The post-processing of USE-Net as published: influence zones of the markers cut the mask.

Rahmon, Toubal and Palaniappan 2021, in the steps of their code. Influence zones reach through the
background without bound, so this is for whole images only;
`histojax.nuclei.watershed` takes images of any size, and finds nuclei better.
"""

import dataclasses

import numpy as np
import scipy.ndimage

from histojax.checks import check, number
from histojax.nuclei.components import first_pixels, label_mask, renumbered
from histojax.nuclei.targets import CORNERS, EDGES, shifted
from histojax.nuclei.watershed import InstanceParameters, Maps, check_map, check_maps

_EIGHT = np.ones((3, 3), bool)
_RULES = {
    **dict.fromkeys(("mask_threshold", "marker_threshold"), number(0, 1, of="a probability")),
    **dict.fromkeys(("min_mask", "min_marker", "max_hole"), number(0, of="a number of px")),
}


@dataclasses.dataclass(frozen=True)
class USENetParameters:
    """The constants of the source, in px at 40x (0.25 um per px).

    Attributes:
        mask_threshold, marker_threshold: of the probabilities as 8-bit values, exclusive.
        min_mask: smaller components of the mask are dropped, before and after the cut, px.
        min_marker: smaller markers are dropped, px.
        max_hole: components of the background below this area are filled, px.
    """

    mask_threshold: float = 0.1
    marker_threshold: float = 0.1
    min_mask: int = 50
    min_marker: int = 20
    max_hole: int = 100

    def __post_init__(self) -> None:
        check(vars(self), _RULES)

    def label(self, maps: Maps, *, mpp: float | None = None) -> np.ndarray:
        """`usenet_instances` of the maps, whatever their scale."""
        check_maps(maps, InstanceParameters())
        return usenet_instances(maps["mask"], maps["marker"], self)


def usenet_instances(
    mask: np.ndarray, marker: np.ndarray, parameters: USENetParameters | None = None
) -> np.ndarray:
    """Nuclei of a whole image by the source's steps.

    The probabilities become 8-bit values (cut off, not rounded) and are thresholded, small
    components dropped; the lines between the markers' influence zones are cut out of the mask;
    small pieces are dropped, small parts of the background filled, the components numbered, and
    each grown by a 3 x 3 cross, the later number on top. Everything is 8-connected. Pieces without
    a marker are nuclei too, and two pieces in one zone are two nuclei.

    MATLAB floods level ground in an order of its own, which is not reproduced: a line may lie a px
    off. Its numbers run down the columns, which decides what is on top.

    Mask and marker are probabilities (H, W), floating point in [0, 1] or bool; the source's are
    resized to the image's 1000 x 1000 px before. The nuclei are int32 (H, W), 1..n in raster order
    of their first pixels.

    Raises:
        ValueError: for other shapes, dtypes or ranges.
    """
    p = parameters or USENetParameters()
    check_map("mask", mask, np.shape(mask))
    check_map("marker", marker, np.shape(mask))
    found = _opened(_above(mask, p.mask_threshold), p.min_mask)
    seeds, count = scipy.ndimage.label(
        _opened(_above(marker, p.marker_threshold), p.min_marker), _EIGHT
    )
    if count > 1:
        found &= ~zone_borders(seeds)
    found = _opened(found, p.min_mask)
    if not found.any():
        return np.zeros(found.shape, np.int32)
    found |= ~_opened(~found, p.max_hole)
    # MATLAB numbers down the columns: that is raster order in the transposed image.
    labels = label_mask(found.T).T
    grown = scipy.ndimage.maximum_filter(
        labels, footprint=scipy.ndimage.generate_binary_structure(2, 1), mode="constant"
    )
    # Components are at least a px apart, so that only background is contested.
    labels = np.where(found, labels, grown)
    firsts = first_pixels(labels, labels.max())
    return renumbered(np.arange(len(firsts)) > 0, firsts)[1][labels]


def zone_borders(seeds: np.ndarray) -> np.ndarray:
    """The lines between the influence zones of seeds, int (H, W) from 1 on; bool (H, W).

    A watershed on level ground: every px belongs to the seed that reaches it in the fewest steps to
    one of 8 neighbours. Of two neighbours in different zones the one further from its seed is on
    the line, so that zones do not touch at edges or corners.
    """
    lines = np.zeros(seeds.shape, bool)
    if not seeds.any():
        return lines
    steps, (y, x) = scipy.ndimage.distance_transform_cdt(
        seeds == 0, "chessboard", return_indices=True
    )
    zones = seeds[y, x]
    # As far from both, the px of the larger number.
    rank = steps.astype(np.int64) * (int(zones.max()) + 1) + zones
    for step in EDGES + CORNERS:
        zone, other_zone = shifted(zones, *step)
        near, far = shifted(rank, *step)
        line, other_line = shifted(lines, *step)
        line |= (zone != other_zone) & (near > far)
        other_line |= (zone != other_zone) & (near < far)
    return lines


def _above(values: np.ndarray, threshold: float) -> np.ndarray:
    return np.floor(255 * values.astype(np.float64)) > 255 * threshold


def _opened(mask: np.ndarray, min_area: float) -> np.ndarray:
    """The mask without its 8-connected components below an area, bool (H, W)."""
    return label_mask(mask, min_area=min_area) > 0
