"""Stain normalisation: an image recoloured as if it had been stained and scanned like another.

A method needs the fit of an image, a few numbers of the whole image or slide. With the fits of an
image and of a target each pixel is mapped by itself, so that a slide is normalised tile by tile:

    spcn                 structure-preserving normalisation: two stains learnt as a sparse
                         dictionary, sparse concentrations (Vahadane et al. 2016)
    spcn_pseudo_inverse  the same stains, concentrations by least squares: faster
    macenko              stains at the extremes of the pixels' plane (Macenko et al. 2009)
    reinhard             mean and spread of the colours (Reinhard et al., IEEE Comput. Graph. Appl.
                         21, 2001), in CIELAB

Optical density is that of `histojax.stain.hed`, -ln(I / 255). The release of spcn takes
ln 255 - ln(I + 1), which makes an image one grey level too bright; its stains are within 0.6
degrees of these.
"""

import contextlib
import dataclasses
import logging
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import skimage.color

from histojax.checks import check, number, one_of
from histojax.stain import hed, separation

_log = logging.getLogger(__name__)

METHODS = ("spcn", "spcn_pseudo_inverse", "macenko", "reinhard")
# What the authors' release of spcn is set to; it names .01 to .1 as sensible.
SPARSITY = 0.02
_RULES = {"method": one_of(METHODS), "sparsity": number(above=0, most=0.5)}

# Tissue: darker than this share of full luma (Rec. 601 weights), as the release of spcn has it.
_WHITE = 0.9
_LUMA = np.array([299, 587, 114], np.int32)
# A stain is found from at most so many pixels: other draws move it by up to 0.7 degrees.
_MOST_PIXELS = 2**15
_LEAST_PIXELS = 256
# Macenko's beta, .15 in decadic density, as the length of a density vector: by its luma, glass that
# is not quite white passes for tissue.
_LEAST_DENSITY = 0.15 * math.log(10.0)
# Robust maximum of a stain's concentration, percentile.
_ROBUST_MAXIMUM = 99.0
# Extreme directions of 30 MoNuSeg and 38 TNBC images lie 14 degrees apart or more; those of one
# stain under noise of two grey levels, 8. The learnt stains lie between their extremes.
_LEAST_EXTREMES, _LEAST_STAINS = 10.0, 2.0
# Furthest from known hues, degrees: the stains of 162 in 163 images of five sets lie within 24 and
# 46, and their means within 17; brown (DAB), pens and negatives lie further off.
_LIKELY = (
    ("haematoxylin", hed.RGB_FROM_HED[0], 26.0),
    ("eosin", hed.RGB_FROM_HED[1], 46.5),
    ("both mixed", np.array([0.45, 0.78, 0.45]), 19.0),
)
# Share of foreign pixels beyond which they may be what was fitted; 163 images have up to 0.02.
_MOST_FOREIGN = 0.1
# Foreign pixels that move a fit by no more stay in it: stains in degrees, the share of maxima, and
# CIELAB. 68 images without ink move by 3.6, .12 and .5 or less.
_MOST_TURNED, _MOST_SCALED, _MOST_SHIFTED = 4.0, 0.15, 0.5
_FOREIGN = "have colours that no two stains have (ink, dust or a border)"
# Concentration that a stain must reach to be there: paler than any stained tissue.
_LEAST_CONCENTRATION = 0.05
# Standard deviation in L*, a* and b* below which a colour is constant: the rounding of grey levels.
_LEAST_SPREAD = 0.5
_BLOCK = 2**16  # pixels normalised at a time; they stay in the processor's cache


@dataclasses.dataclass(frozen=True)
class Method:
    """How images are normalised: one of `METHODS`, UserError for another.

    `sparsity` is lambda of spcn in optical density: each sparse concentration is found lower by up
    to lambda, so an image comes out brighter by up to exp(lambda).
    """

    name: str = "spcn"
    sparsity: float = SPARSITY

    def __post_init__(self) -> None:
        check({"method": self.name, "sparsity": self.sparsity}, _RULES, "data.stain.")


@dataclasses.dataclass(frozen=True)
class StainFit:
    """The stains of an image: two absorption vectors (R, G, B) of length 1, haematoxylin first.

    `maxima` is the 99th percentile of the concentration of each over the tissue; `sparsity` is
    lambda of its concentrations, None where they are by least squares.
    """

    stains: tuple[tuple[float, float, float], tuple[float, float, float]]
    maxima: tuple[float, float]
    sparsity: float | None

    def concentrations(self, density: np.ndarray) -> np.ndarray:
        """Optical density float (3, N) -> concentrations (2, N) of its dtype, >= 0."""
        if self.sparsity is None:
            return separation.least_squares_concentrations(density, np.array(self.stains))
        return separation.sparse_concentrations(density, np.array(self.stains), self.sparsity)

    def basis(self) -> np.ndarray:
        """The stains and what is perpendicular to both: float64 (3, 3), as `stain.jitter` takes."""
        return np.array([*self.stains, np.cross(*self.stains)])

    def recolored(self, pixels: np.ndarray, target: "StainFit") -> np.ndarray:
        """uint8 (N, 3) in other stains: I' = 255 exp(-W_t^T h'), h' = h max_t / max.

        What the two stains do not explain is dropped.
        """
        concentrations = self.concentrations(hed.optical_density(pixels.T))
        scales = np.divide(target.maxima, self.maxima)
        mixing = (scales[:, None] * np.array(target.stains)).T.astype(np.float32)
        gray = 255.0 * np.exp(-(mixing @ concentrations))
        # The cast truncates, which after + 0.5 is rounding; no density is negative.
        return (gray + 0.5).astype(np.uint8).T


@dataclasses.dataclass(frozen=True)
class ColorFit:
    """Mean and standard deviation of the tissue's colours in CIELAB: (L*, a*, b*) each.

    Reinhard et al. work in the l-alpha-beta space of Ruderman et al.; histology takes CIELAB.
    """

    mean: tuple[float, float, float]
    spread: tuple[float, float, float]

    @classmethod
    def of(cls, pixels: np.ndarray) -> "ColorFit":
        """The fit of uint8 (N, 3)."""
        lab = skimage.color.rgb2lab(pixels)
        return cls(_tuples(lab.mean(axis=0).tolist()), _tuples(lab.std(axis=0).tolist()))

    def recolored(self, pixels: np.ndarray, target: "ColorFit") -> np.ndarray:
        """uint8 (N, 3) of another mean and spread; glass is moved with the tissue."""
        lab = skimage.color.rgb2lab(pixels.astype(np.float32) / np.float32(255.0))
        lab = (lab - self.mean) * np.divide(target.spread, self.spread) + target.mean
        lab[:, 0] = np.clip(lab[:, 0], 0.0, 100.0)
        # No light is yellower than Z = 0, where b* = 200 f(Y), f(Y) = (L* + 16) / 116; scikit-image
        # cuts it there too, with a warning, which rounding must not bring about.
        lab[:, 2] = np.minimum(lab[:, 2], 200.0 / 116.0 * (lab[:, 0] + 16.0) - 1e-6)
        return (skimage.color.lab2rgb(lab) * 255.0 + 0.5).astype(np.uint8)


Fit = StainFit | ColorFit


class Unfit(ValueError):
    """An image that has no fit; the message is the reason, a clause."""


def sample_tissue(strips: Iterable[np.ndarray], *, seed: int = 0) -> np.ndarray:
    """Draws up to 2^15 tissue pixels of an image, all equally likely, in one pass: uint8 (N, 3).

    The strips, uint8 (H, W, 3) each, are the image from top to bottom, or windows of a slide.
    Glass, and pixels with a channel at 0, are left out; Unfit where too few are left.
    """
    rng = np.random.default_rng(seed)
    pixels, keys = np.empty((0, 3), np.uint8), np.empty(0)
    total = white = clipped = 0
    for strip in strips:
        flat = strip.reshape(-1, 3)
        red, green, blue = (flat[:, channel].astype(np.int32) for channel in range(3))
        luma = _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue
        is_white = luma >= _WHITE * 255 * _LUMA.sum()
        is_clipped = (np.minimum(np.minimum(red, green), blue) == 0) & ~is_white
        total += len(flat)
        white += int(is_white.sum())
        clipped += int(is_clipped.sum())
        tissue = flat[~(is_white | is_clipped)]
        # The pixels with the smallest of evenly drawn keys are an even draw of any stream.
        keys = np.concatenate([keys, rng.random(len(tissue))])
        pixels = np.concatenate([pixels, tissue])
        if len(keys) > _MOST_PIXELS:
            kept = np.argpartition(keys, _MOST_PIXELS)[:_MOST_PIXELS]
            keys, pixels = keys[kept], pixels[kept]
    if len(pixels) < _LEAST_PIXELS:
        raise Unfit(
            f"of its {total} px, {white} are white and {clipped} black or saturated (a channel at "
            f"0), which leaves {len(pixels)} px of tissue where {_LEAST_PIXELS} are needed"
        )
    return pixels[np.argsort(keys)]


def fitted(strips: Iterable[np.ndarray], method: Method, *, name: str = "the image") -> Fit:
    """The fit of an image in strips; Unfit where it is blank, or not of two stains like H&E.

    Pixels that no two stains explain, such as ink, are left out where they matter, with a warning.
    """
    pixels = sample_tissue(strips)
    density = hed.optical_density(pixels).T.astype(np.float64)
    dense = np.linalg.norm(density, axis=0) >= _LEAST_DENSITY
    foreign = np.zeros(len(pixels), bool)
    if dense.sum() >= _LEAST_PIXELS:
        foreign[dense] = separation.foreign(density[:, dense], _LEAST_DENSITY)
    share = f"{100.0 * foreign.mean():.1f} % of its pixels"
    if foreign.mean() > _MOST_FOREIGN:
        raise Unfit(f"{share} {_FOREIGN}")
    if not foreign.any():  # Ten of 32,768 have turned a stain of spcn by 24 degrees.
        return _fit_of(pixels, density[:, dense], method)
    whole = fit = None
    with contextlib.suppress(Unfit):
        whole = _fit_of(pixels, density[:, dense], method)
    try:
        fit = _fit_of(pixels[~foreign], density[:, ~foreign & dense], method)
    except Unfit:
        if whole is None:
            raise
    # Without a fit, the few pixels of other colours were the second stain.
    if whole is not None and (fit is None or not _moved(fit, whole)):
        return whole
    assert fit is not None
    _log.warning("%s is stain-normalised by the others, because %s %s", name, share, _FOREIGN)
    return fit


def _moved(fit: Any, whole: Any) -> bool:
    """Whether foreign pixels moved a fit, which makes it `whole`, by more than those of tissue."""
    if isinstance(fit, ColorFit):
        return bool(np.abs(np.subtract(fit.mean, whole.mean)).max() > _MOST_SHIFTED)
    pairs = zip(fit.stains, whole.stains, strict=True)
    if np.abs(np.divide(fit.maxima, whole.maxima) - 1.0).max() > _MOST_SCALED:
        return True
    return max(separation.angle(*map(np.array, pair)) for pair in pairs) > _MOST_TURNED


def _fit_of(pixels: np.ndarray, density: np.ndarray, method: Method) -> Fit:
    """The fit of uint8 (N, 3), and of the optical densities (3, M) of the dense ones."""
    if method.name == "reinhard":
        colors = ColorFit.of(pixels)
        if min(colors.spread) < _LEAST_SPREAD:
            spread = ", ".join(f"{value:.2g}" for value in colors.spread)
            raise Unfit(f"its colours hardly vary (standard deviations of L*, a*, b*: {spread})")
        if density.shape[1] >= _LEAST_PIXELS:
            _stains(density, Method("macenko"))  # It refuses what is no H&E.
        return colors
    if density.shape[1] < _LEAST_PIXELS:
        raise Unfit(
            f"its tissue is pale ({density.shape[1]} px of the {len(pixels)} sampled are dense "
            f"enough to have a hue, where {_LEAST_PIXELS} are needed)"
        )
    stains = _stains(density, method)
    sparsity = float(method.sparsity) if method.name == "spcn" else None
    fit = StainFit(_tuples(stains.tolist()), (1.0, 1.0), sparsity)
    maxima = np.percentile(fit.concentrations(density), _ROBUST_MAXIMUM, axis=1)
    if maxima.min() < _LEAST_CONCENTRATION:
        raise Unfit(f"one of its two stains is nowhere (concentrations reach {maxima.min():.2g})")
    return dataclasses.replace(fit, maxima=tuple(maxima.tolist()))


def _stains(density: np.ndarray, method: Method) -> np.ndarray:
    stains = separation.extreme_stains(density)
    apart, least = separation.angle(*stains), _LEAST_EXTREMES
    if apart >= least and method.name != "macenko":
        stains = separation.learn_stains(density, method.sparsity, stains)
        apart, least = separation.angle(*stains), _LEAST_STAINS
    if apart < least:
        raise Unfit(
            f"it shows one stain (its hues are {apart:.1f} degrees apart, and two stains {least:g} "
            "or more)"
        )
    found = *stains, density.mean(axis=1)
    for vector, (name, known, most) in zip(found, _LIKELY, strict=True):
        if (off := separation.angle(vector, known)) > most:
            raise Unfit(
                f"its colours are not those of haematoxylin and eosin ({off:.0f} degrees from "
                f"{name}, and up to {most:g} is likely)"
            )
    return stains


def fit(strips: Iterable[np.ndarray], method: Method, *, name: str) -> Fit | None:
    """`fitted`; None for an image without a fit, which keeps its colours, with a warning why."""
    try:
        return fitted(strips, method, name=name)
    except Unfit as reason:
        _log.warning("%s keeps its colours, because %s", name, reason)
        return None


def normalize(image: np.ndarray, source: Fit | None, target: Fit) -> np.ndarray:
    """Recolours an image, or a part of one: uint8 (H, W, 3) -> the same.

    `source` is the fit of the whole image, None for one that keeps its colours; `target`, of the
    same method, has the new ones.
    """
    if source is None:
        return image
    if type(source) is not type(target):
        raise TypeError(f"{type(source).__name__} cannot be mapped to {type(target).__name__}")
    recolored: Callable[..., np.ndarray] = source.recolored
    out = np.empty(image.shape, np.uint8)
    flat, pixels = out.reshape(-1, 3), image.reshape(-1, 3)
    for start in range(0, len(flat), _BLOCK):
        block = slice(start, start + _BLOCK)
        flat[block] = recolored(pixels[block], target)
    return out


def from_json(content: Mapping[str, Any]) -> Fit:
    """The fit of `dataclasses.asdict`, before or after a way through JSON."""
    values = {name: _tuples(value) for name, value in content.items()}
    return (StainFit if "stains" in values else ColorFit)(**values)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, (list, tuple)) else value
