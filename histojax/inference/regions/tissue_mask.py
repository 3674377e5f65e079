"""Which parts of a slide show tissue, so that glass, ink and labels are never read at full size."""

import dataclasses

import numpy as np
from scipy import ndimage

from histojax.imaging import tiling
from histojax.inference.regions.cut import DamagedReader
from histojax.nuclei.components import label_mask
from histojax.stain import hed

# The mask is made at about this scale, um per px; without a scale, at this share of the image.
_COARSE, _UNKNOWN = 8.0, 1 / 32
# Side of the blocks in which a damaged overview is read, px: its tissue is about the damage.
_BLOCK = 8
# A smaller overview shows nothing: the longer side of the picture, px.
_PICTURE = 800
# Optical density from which there is tissue: a fifth of pale cytoplasm's, above a clean glass's.
_DENSE = hed.TISSUE_DENSITY / 5
# Tissue is pink or purple: green is absorbed at least so many times as red, and as blue, and more
# than blue by a density that the tint of glass and noise do not reach.
_TO_RED, _TO_BLUE, _OVER_BLUE = 0.9, 1.05, 0.02
# Saffron, a third stain, turns it orange: blue is absorbed somewhat more than green, and green more
# than red by a density, though red not as little as in red ink.
_SAFFRON_TO_BLUE, _SAFFRON_OVER_RED, _SAFFRON_RED = 0.7, 0.02, (0.3, 0.75)
# What is as dark in all colours is a frame, a label or black ink.
_BLACK = 1.5
# Specks and holes up to these areas, um2, are none; tissue is grown by a margin, um.
_SPECK, _HOLE, _MARGIN = 2_000.0, 50_000.0, 40.0


@dataclasses.dataclass(frozen=True)
class TissueMask:
    """Tissue of an image, coarsely.

    Attributes:
        overview: the image, uint8 (h, w, 3), at least 800 px a side where it has as many.
        mask: bool (h, w), tissue and a margin about it.
        tissue: bool (h, w), without the margin.
        factor: px of the overview per px of the image, along y and x.
        damaged: blocks of the overview that could not be read and are taken for glass.
    """

    overview: np.ndarray
    mask: np.ndarray
    tissue: np.ndarray
    factor: tuple[float, float]
    damaged: int = 0

    def pixels_in(self, y: int, x: int, height: int, width: int) -> float:
        """Tissue of a region of the image, px."""
        down, across = self.factor
        rows = slice(round(y * down), round((y + height) * down))
        columns = slice(round(x * across), round((x + width) * across))
        return float(self.tissue[rows, columns].sum()) / (down * across)

    def within(self, y: int, x: int, height: int, width: int) -> "TissueMask":
        """The tissue in a region of the image, px, alone."""
        down, across = self.factor
        rows = slice(int(y * down), int(np.ceil((y + height) * down)))
        columns = slice(int(x * across), int(np.ceil((x + width) * across)))
        inside = np.zeros_like(self.mask)
        inside[rows, columns] = True
        return dataclasses.replace(self, mask=self.mask & inside, tissue=self.tissue & inside)

    def any_in(self, y: float, x: float, height: float, width: float) -> bool:
        """Whether there is tissue in a region of the image, px."""
        down, across = self.factor
        top, left = max(0, int(y * down)), max(0, int(x * across))
        bottom, right = int(np.ceil((y + height) * down)), int(np.ceil((x + width) * across))
        return bool(self.mask[top : max(bottom, top + 1), left : max(right, left + 1)].any())


def tissue_mask(image: tiling.RegionReader, mpp: float | None) -> TissueMask:
    """Finds the tissue of an image of `mpp` um per px, None where unknown, at low power."""
    factor = min(1.0, _UNKNOWN if mpp is None else mpp / _COARSE)
    coarse = DamagedReader(image, _BLOCK, factor)
    overview = coarse.read(0, 0, coarse.height, coarse.width)
    um = _COARSE if mpp is None else mpp / factor
    tissue = tissue_in(overview, um)
    mask = ndimage.binary_dilation(tissue, iterations=max(1, round(_MARGIN / um)))
    longest = max(image.height, image.width)
    if max(mask.shape) < _PICTURE and (finer := min(1.0, _PICTURE / longest)) > factor:
        coarse = DamagedReader(image, _BLOCK, finer)
        overview = coarse.read(0, 0, coarse.height, coarse.width)
        rows, columns = (
            np.arange(n) * own // n for n, own in zip(overview.shape, mask.shape, strict=False)
        )
        mask, tissue = (each[np.ix_(rows, columns)] for each in (mask, tissue))
    share = coarse.height / image.height, coarse.width / image.width
    return TissueMask(overview, mask, tissue, share, len(coarse.damaged))


def whole_mask(image: tiling.RegionReader) -> TissueMask:
    """All of an image, such as a field; its tissue is what is not pure white, as about a mosaic."""
    factor = min(1.0, _PICTURE / max(image.height, image.width))
    coarse = DamagedReader(image, _BLOCK, factor)
    overview = coarse.read(0, 0, coarse.height, coarse.width)
    share = coarse.height / image.height, coarse.width / image.width
    whole = np.ones(overview.shape[:2], bool)
    return TissueMask(overview, whole, np.any(overview < 255, axis=-1), share, len(coarse.damaged))


def tissue_in(overview: np.ndarray, mpp: float) -> np.ndarray:
    """Tissue in uint8 (h, w, 3) of `mpp` um per px, bool (h, w); all of it or none of it may be.

    Density is over the glass, the lightest colour of the image where that is nearly white. Noise of
    a px is smoothed first. Whatever no haematoxylin and eosin can mix is ink.
    """
    density = hed.optical_density(overview)
    glass = np.percentile(density, 1, axis=(0, 1))
    density = density - np.where(glass < hed.TISSUE_DENSITY, glass, 0)
    red, green, blue = (ndimage.gaussian_filter(density[..., k], 1.0) for k in range(3))
    dense = (red + green + blue) / 3 > _DENSE
    pink = (green > _TO_RED * red) & (green > _TO_BLUE * blue + _OVER_BLUE)
    least, most = _SAFFRON_RED
    orange = (green > _SAFFRON_TO_BLUE * blue) & (red > least * green)
    orange &= green - red > np.maximum(_SAFFRON_OVER_RED, (1 - most) * green)
    black = np.minimum(np.minimum(red, green), blue) > _BLACK
    mask = ndimage.binary_opening(dense & (pink | orange) & ~black)
    least, hole = (max(1, round(area / mpp**2)) for area in (_SPECK, _HOLE))
    return label_mask(mask, min_area=least, max_hole=hole) > 0
