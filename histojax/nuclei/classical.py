"""Nuclei without a network, the baseline of every table of nuclei."""

import dataclasses

import numpy as np
import scipy.ndimage
import skimage.color
import skimage.filters
import skimage.morphology
import skimage.segmentation

from histojax.nuclei.components import first_pixels, label_mask, renumbered

# Range below which there is no tissue: pale cytoplasm's density. MoNuSeg and TNBC have 4 times it.
_LEAST_CONTRAST = 0.2 / np.log(1e6)
_LENGTHS = ("sigma", "surround", "opening", "smoothing", "depth")
_AREAS = ("min_area", "max_hole")
_STEPS = 16  # Levels of distance that are flooded, a px.


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

    def at(self, mpp: float | None) -> "Parameters":
        """The same in px of an image at `mpp` um per px, where both scales are known."""
        if mpp is None or self.mpp is None:
            return self
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
