"""Nuclei without a network, the baseline of every table of nuclei."""

import dataclasses
from collections.abc import Iterable

import numpy as np
import scipy.ndimage
import skimage.color
import skimage.filters
import skimage.morphology
import skimage.segmentation

from histojax.checks import check, number
from histojax.metrics.instances import aji, overlap_table
from histojax.nuclei.components import first_pixels, label_mask, renumbered
from histojax.nuclei.search import search

# Range below which there is no tissue: pale cytoplasm's density. MoNuSeg and TNBC have 4 times it.
_LEAST_CONTRAST = 0.2 / np.log(1e6)
_LENGTHS = ("sigma", "surround", "opening", "smoothing", "depth")
_AREAS = ("min_area", "max_hole")
_RULES = {
    **dict.fromkeys(_LENGTHS, number(0, of="a number of px")),
    **dict.fromkeys(_AREAS, number(0, of="an area in px")),
    **dict.fromkeys(("threshold", "contrast"), number(0, of="a ratio")),
    "mpp": number(above=0, of="a number of micrometres per pixel").or_none(),
}
_STEPS = 16  # Levels of distance that are flooded, a px.
_SIDE = 300  # of the windows that are fitted to, px
GRID = {  # the values that are tried, field by field
    "contrast": (0.0, 1.0, 1.05, 1.1, 1.15, 1.2),
    "surround": (10.0, 15.0, 20.0, 25.0),
    "threshold": (0.8, 0.9, 1.0, 1.1),
    "sigma": (1.0, 1.5, 2.0, 2.5),
    "opening": (0.0, 1.0, 2.0, 3.0),
    "min_area": (30.0, 60.0, 90.0, 120.0),
    "smoothing": (1.0, 2.0, 3.0),
    "depth": (0.25, 0.5, 0.75, 1.0),
}


@dataclasses.dataclass(frozen=True)
class Parameters:
    """What divides haematoxylin into nuclei; lengths and areas in px.

    Attributes:
        sigma: of the Gaussian that smooths haematoxylin, whose chromatin breaks nuclei up.
        threshold: from which there is nucleus, as a multiple of Otsu's.
        contrast: the least ratio to the mean of the surroundings; 0 for any.
        surround: standard deviation of the Gaussian that is this mean.
        opening: radius of the disk that opens the mask.
        min_area: smaller components and nuclei are dropped.
        max_hole: holes of at most this area are filled.
        smoothing: of the distance to the background, a Gaussian's standard deviation.
        depth: by how much the maxima of two nuclei rise above the neck between them.
        mpp: um per px for which these hold (`at` scales them); None: they are px at any scale.
    """

    # Fitted to MoNuSeg's 24 training images (AJI 0.459 in their windows) by
    # `python -m launch.fit_classical --data=folder:$MONUSEG`.
    sigma: float = 1.0
    threshold: float = 0.9
    contrast: float = 1.0
    surround: float = 20.0
    opening: float = 0.0
    min_area: float = 60.0
    max_hole: float = 200.0
    smoothing: float = 2.0
    depth: float = 0.5
    mpp: float | None = 0.25

    def __post_init__(self) -> None:
        check(vars(self), _RULES)

    def at(self, mpp: float | None) -> "Parameters":
        """The same in px of an image at `mpp` um per px, where both scales are known."""
        if mpp is None or self.mpp is None:
            return self
        check({"mpp": mpp}, {"mpp": _RULES["mpp"]})
        ratio = self.mpp / mpp
        scaled = {name: getattr(self, name) * ratio for name in _LENGTHS}
        scaled |= {name: getattr(self, name) * ratio**2 for name in _AREAS}
        return dataclasses.replace(self, **scaled, mpp=mpp)


def find(image: np.ndarray, parameters: Parameters, mpp: float | None = None) -> np.ndarray:
    """The nuclei of uint8 RGB (H, W, 3), int32 (H, W), 1..n in raster order of their first pixels.

    Haematoxylin is that of Ruifrok and Johnston (2001), with the threshold of Otsu (1979) and a
    watershed (Meyer 1994) from the h-maxima of the distance to the background. An image without
    contrast (blank glass and its noise) has no nuclei. `mpp` is um per px where it is known.
    """
    p = parameters.at(mpp)
    smooth = scipy.ndimage.gaussian_filter(skimage.color.rgb2hed(image)[..., 0], p.sigma)
    if np.ptp(smooth) < _LEAST_CONTRAST:
        return np.zeros(image.shape[:2], np.int32)
    mask = smooth > p.threshold * skimage.filters.threshold_otsu(smooth)
    mask &= smooth > p.contrast * scipy.ndimage.gaussian_filter(smooth, p.surround)
    mask = scipy.ndimage.binary_opening(mask, skimage.morphology.disk(round(p.opening)))
    mask = label_mask(mask, min_area=p.min_area, max_hole=p.max_hole) > 0
    distance = scipy.ndimage.distance_transform_edt(mask)
    height = np.rint(_STEPS * scipy.ndimage.gaussian_filter(distance, p.smoothing))
    height = np.where(mask, height + 1, 0).astype(np.int32)
    rise = max(1, round(_STEPS * p.depth))
    above = height - skimage.morphology.reconstruction(height - np.minimum(height, rise), height)
    # A marker is all that is connected above what a nucleus may fall by; a lesser bump is none.
    domes = label_mask(above > 0)
    peaks = np.bincount(domes[above >= np.minimum(height, rise)], minlength=domes.max() + 1) > 0
    markers = np.where(peaks[domes], domes, 0)
    labels = skimage.segmentation.watershed(-height, markers, mask=mask)
    kept = np.bincount(labels.ravel()) >= p.min_area
    kept[0] = False
    return renumbered(kept, first_pixels(labels, len(kept) - 1))[1][labels]


def fit(
    pairs: Iterable[tuple[np.ndarray, np.ndarray]], mpp: float | None = None
) -> tuple[Parameters, float]:
    """The parameters of the best mean AJI over pairs, and this; a minute or two.

    Pairs are an image, uint8 (H, W, 3), and its nuclei, int32 (H, W), of `mpp` um per px where it
    is known. A window of each is read, always the same.
    """
    rng = np.random.default_rng(0)
    windows = []
    for pair in pairs:
        y, x = (rng.integers(max(side - _SIDE, 0) + 1) for side in pair[1].shape)
        # Copies, so that the images, which may be large, can go.
        windows.append([array[y : y + _SIDE, x : x + _SIDE].copy() for array in pair])

    def score(parameters: Parameters) -> float:
        found = (overlap_table(find(image, parameters, mpp), truth) for image, truth in windows)
        return float(np.mean([aji(table) for table in found]))

    start = Parameters(mpp=None if mpp is None else Parameters.mpp)
    best, scores = search(start, GRID, score, rounds=2)
    return best, scores[best]
