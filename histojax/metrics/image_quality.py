"""How near an enhanced image is to its original: PSNR, SSIM, spectra and feature distances.

Two protocols, never mixed. P1 (`psnr_rgb`, `ssim_rgb`): the three channels of uint8 RGB, data range
255, SSIM per channel and averaged. P2 (`psnr_y`, `ssim_y`): BT.601 luma without the outer `scale`
pixels. Networks' outputs are quantised to uint8 (rounded, clipped) before they are scored.

"sr" is an enhanced image, "hr" its original, "bicubic" the bicubic enlargement of its input, all
uint8 RGB (H, W, 3); scale is output px per low-resolution px.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.ndimage
import skimage.metrics

from histojax.errors import UserError

# Windows of `grid`: side in low-resolution px, and the deviation of luma up to which one is flat.
_FLAT_SIDE, _FLAT = 8, 8.0
# Bins from a line of a grid to those beside it, beyond the leakage of a Hann window, one bin.
_BESIDE = ((0, 3), (2, 2), (3, 0), (2, -2), (0, -3), (-2, -2), (-3, 0), (-2, 2))
# Side of the Gaussian window of SSIM, px: 11 taps of sigma 1.5 (Wang et al. 2004, section III.C).
_WINDOW = 11
# Of the Gaussian whose pass band an enhanced image shares with its input, low-resolution px.
_DRIFT_SIGMA = 3.0
# Cycles per low-resolution px between which `blur_error` looks: what a real field's own blur takes.
_BLURRED = (0.16, 0.4)


def _check_same(a: np.ndarray, b: np.ndarray) -> None:
    if a.shape != b.shape:
        raise ValueError(f"images of {a.shape} and {b.shape} cannot be compared")


def _check_quantized(sr: np.ndarray, hr: np.ndarray) -> None:
    for image in (sr, hr):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(
                f"images are scored as uint8 (H, W, 3), not as {image.dtype} {image.shape}"
            )
    _check_same(sr, hr)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio over all pixels and channels, dB, by scikit-image.

    Infinite for identical images; means over images leave such values out and count them
    (`intervals.bootstrap_mean`), since one of them would hide all others.
    """
    with np.errstate(divide="ignore"):
        return float(skimage.metrics.peak_signal_noise_ratio(a, b, data_range=255.0))


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Structural similarity (Wang et al. 2004, eq. 13) of (H, W) or (H, W, C), by scikit-image.

    The mean over channels and over the windows that lie inside the image (the outer 5 px are
    centres of none), with weighted population variances.

    Raises:
        UserError: H or W is below 11.
    """
    if min(a.shape[:2]) < _WINDOW:
        raise UserError(
            f"SSIM needs images of at least {_WINDOW} x {_WINDOW} px and got {a.shape[0]} x "
            f"{a.shape[1]}: leave such images out of the evaluation."
        )
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    axis = -1 if a.ndim == 3 else None
    score = skimage.metrics.structural_similarity
    return float(score(a, b, data_range=255.0, channel_axis=axis, **options))


def luma_bt601(image: np.ndarray) -> np.ndarray:
    """BT.601 luma of uint8 RGB, 16 (black) to 235 (white), not rounded: float64 (H, W).

    The Y of MATLAB's rgb2ycbcr, which the super-resolution literature scores.
    """
    return 16.0 + image.astype(np.float64) @ (np.array([65.481, 128.553, 24.966]) / 255.0)


def psnr_rgb(sr: np.ndarray, hr: np.ndarray, scale: int = 4) -> float:
    """PSNR of protocol P1, dB, at any scale."""
    _check_quantized(sr, hr)
    return psnr(sr, hr)


def ssim_rgb(sr: np.ndarray, hr: np.ndarray, scale: int = 4) -> float:
    """SSIM of protocol P1, at any scale."""
    _check_quantized(sr, hr)
    return ssim(sr, hr)


def psnr_y(sr: np.ndarray, hr: np.ndarray, scale: int = 4) -> float:
    """PSNR of protocol P2, dB."""
    return psnr(*_shaved_luma(sr, hr, scale))


def ssim_y(sr: np.ndarray, hr: np.ndarray, scale: int = 4) -> float:
    """SSIM of protocol P2."""
    return ssim(*_shaved_luma(sr, hr, scale))


def smallest_side(scale: int = 4) -> int:
    """The least side of an image that both protocols score, px."""
    return 2 * scale + _WINDOW


def _shaved_luma(sr: np.ndarray, hr: np.ndarray, scale: int) -> tuple[np.ndarray, np.ndarray]:
    _check_quantized(sr, hr)
    inside = slice(scale, -scale or None)
    return luma_bt601(sr)[inside, inside], luma_bt601(hr)[inside, inside]


def _radial_power(luma: np.ndarray, lowest: float, highest: float = 0.5) -> np.ndarray:
    """Mean power per annulus of spatial frequency between `lowest` and `highest` cycles per px."""
    height, width = luma.shape
    window = np.outer(np.hanning(height + 2)[1:-1], np.hanning(width + 2)[1:-1])
    # The window's own mean is taken out with the image's, so that a flat image has no power.
    centered = window * (luma - np.sum(window * luma) / np.sum(window))
    power = np.abs(np.fft.fft2(centered)) ** 2 / np.sum(window**2)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))
    bins = max(math.floor((highest - lowest) * min(height, width)), 1)
    annulus = np.floor((frequency - lowest) / (highest - lowest) * bins).astype(int)
    inside = (annulus >= 0) & (annulus < bins)
    counts = np.bincount(annulus[inside], minlength=bins)
    sums = np.bincount(annulus[inside], weights=power[inside], minlength=bins)
    return sums[counts > 0] / counts[counts > 0]


def _detail_excess(
    sr: np.ndarray, hr: np.ndarray, scale: int, low: float = 0.5, high: float | None = None
) -> np.ndarray:
    """10 log10(P_sr / P_hr) of every annulus, dB.

    Annuli lie between `low` and `high` cycles per low-resolution px, by default beyond its Nyquist
    frequency.
    """
    _check_quantized(sr, hr)
    band = low / scale, 0.5 if high is None else high / scale
    ours, theirs = (_radial_power(luma_bt601(image), *band) + 1.0 / 12.0 for image in (sr, hr))
    return 10.0 * np.log10(ours / theirs)


def power_spectrum_error(sr: np.ndarray, hr: np.ndarray, scale: int = 4) -> float:
    """How far the power of fine detail is from the original's, dB; 0 for identical images.

    The power spectrum of the Hann-windowed luma is averaged over annuli of one frequency step
    (1 / min(H, W) cycles per px). The error is the mean over annuli of
    |10 log10(P_sr) - 10 log10(P_hr)|.

    Annuli run from the low-resolution Nyquist frequency, 1 / (2 scale), scale >= 2, to the image's
    own, 1/2 cycles per px. Below it the input already holds the detail, and every method would
    score near 0. Above it blur (too little power) and noise or checkerboards (too much) both cost.
    Phase plays no part, so plausible texture in the wrong place is not punished as it is by PSNR.
    The power of rounding to uint8, 1/12 grey level squared, is added to both spectra.
    """
    excess = _detail_excess(sr, hr, scale)
    return float(np.mean(np.abs(excess))) if len(excess) else 0.0


def power_spectrum_excess(sr: np.ndarray, hr: np.ndarray, scale: int = 4) -> float:
    """How much more power of fine detail there is than in the original, dB; 0 for as much.

    As `power_spectrum_error`, with its sign kept: below 0 blur, above 0 noise or checkerboards.
    """
    excess = _detail_excess(sr, hr, scale)
    return float(np.mean(excess)) if len(excess) else 0.0


def blur_error(sr: np.ndarray, hr: np.ndarray, scale: int = 4) -> float:
    """How far the power that blur takes is from the original's, dB; 0 for identical images.

    As `power_spectrum_error`, between 0.16 and 0.4 cycles per low-resolution px (0.04 and 0.1 per
    px at x4). A low-resolution image can hold these frequencies, and a blurred one has little of
    them.
    """
    excess = _detail_excess(sr, hr, scale, *_BLURRED)
    return float(np.mean(np.abs(excess))) if len(excess) else 0.0


def drift(sr: np.ndarray, bicubic: np.ndarray, scale: int = 4) -> float:
    """How far light and colour are from the input's, levels; 0 where they stay.

    Mean over px and channels of the absolute difference to the bicubic enlargement of the input,
    behind a Gaussian of 3 low-resolution px. What passes it the input holds, however blurred.
    """
    _check_quantized(sr, bicubic)
    change = sr.astype(np.float32) - bicubic
    sigma = _DRIFT_SIGMA * scale
    return float(np.abs(scipy.ndimage.gaussian_filter(change, (sigma, sigma, 0))).mean())


def grid(sr: np.ndarray, hr: np.ndarray, scale: int = 4) -> float:
    """How far a grid of `scale` px stands out where the image is flat; 1 without one, then higher.

    Luma's power at (k, l) / scale cycles per px, summed over k, l in 0 .. scale - 1 without (0, 0),
    over the power beside these lines. A network leaves such a grid where the phases of its
    enlargement answer a constant differently.

    Hann windows of 8 scale px, half overlapping, count where hr is flat: averaged over scale x
    scale px, its luma has a standard deviation of at most 8 levels. So all images of one hr are
    judged in the same places. NaN where nothing is flat.

    The power beside a line is the geometric mean of eight bins around it, which is exact for a
    power law, once power is averaged over mirrored and transposed frequencies. White noise of one
    level, below which nothing shows, is added to all. Without it, rounding to uint8 would count:
    it gives a bicubic image a grid of a tenth of a level.
    """
    _check_quantized(sr, hr)
    height, width = (n // scale * scale for n in hr.shape[:2])
    if min(height, width) < _FLAT_SIDE * scale:
        return math.nan
    luma, small = (luma_bt601(image[:height, :width]) for image in (sr, hr))
    small = small.reshape(height // scale, scale, width // scale, scale).mean((1, 3))
    flat = _windows(small, _FLAT_SIDE).std((2, 3)) <= _FLAT
    if not flat.any():
        return math.nan
    side = _FLAT_SIDE * scale
    hann = np.hanning(side + 1)[:-1]
    window = np.outer(hann, hann)
    power = np.zeros((side, side))
    for row, chosen in zip(_windows(luma, side), flat, strict=True):  # which bounds its memory
        means = np.tensordot(row[chosen], window, 2) / window.sum()
        transformed = np.fft.fft2(window * (row[chosen] - means[:, None, None]))
        power += np.square(np.abs(transformed)).sum(0)
    power = power / flat.sum() / np.square(window).sum() + 1.0
    power += np.roll(power[::-1], 1, 0)
    power += power.T
    beside = np.exp(np.mean([np.log(np.roll(power, bins, (0, 1))) for bins in _BESIDE], 0))
    lines, around = (p[::_FLAT_SIDE, ::_FLAT_SIDE].ravel()[1:] for p in (power, beside))
    return float(lines.sum() / around.sum())


def _windows(image: np.ndarray, side: int) -> np.ndarray:
    """Windows (rows, columns, side, side) of an image (H, W), half a side apart."""
    step = side // 2
    return np.lib.stride_tricks.sliding_window_view(image, (side, side))[::step, ::step]


def feature_distance(
    a: Mapping[str, Any], b: Mapping[str, Any], heads: Mapping[str, Any] | None = None
) -> Any:
    """Distance of two images in a network's features: LPIPS without its calibrated heads.

    Each position's feature vector is scaled to unit length; squared differences are summed over
    channels, averaged over positions, then over layers (Zhang et al. 2018, equation 1, w = 1).
    0 for identical features, 2 for orthogonal ones, 4 for opposite ones. With `heads`, weights (C,)
    of the channels by layer, it is LPIPS: layers are summed.

    Both hold NumPy or JAX arrays (..., H, W, C) by layer, alike in shape; the result is (...).
    """
    if a.keys() != b.keys() or not a:
        raise ValueError(f"layers {list(a)} and {list(b)} cannot be compared")
    distances = []
    for layer in a:
        _check_same(a[layer], b[layer])
        squares = (_unit(a[layer]) - _unit(b[layer])) ** 2
        weighted = squares if heads is None else squares * heads[layer]
        distances.append(weighted.sum(-1).mean((-2, -1)))
    return sum(distances) / (len(distances) if heads is None else 1)


def _unit(features: Any) -> Any:
    return features / ((features**2).sum(-1, keepdims=True) ** 0.5 + 1e-10)
