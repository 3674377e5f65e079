"""The finest detail that an image holds: whether it uses its pixels or has been blown up.

The frequency up to which octaves hold a sixteenth of the strongest octave's variance moves with the
size of a picture alone: in the same way for every kernel, and through JPEG, whose noise lies lower.
Frequencies are cycles per px; n is the side of a window, px.
"""

import itertools
import math

import numpy as np

_WINDOWS = (256, 128, 64)
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
# Share of the strongest octave's variance below which an octave has no detail to show, and the
# frequency where sharp scans reach it: 30 fields of MoNuSeg from 0.15 to 0.40, median 0.23.
_LEAST_SHARE, _SHARP = 1 / 16, 0.25
# Noise, also blurred a little, has next to nothing at the coarsest scale of a window; tissue has
# this share of the strongest octave or more, times the side of the window in px.
_LEAST_COARSE = 10.0
# Variance of the strongest octave in a blank image: the rounding of grey levels and faint noise.
_BLANK = 1.0


def shrinkable(image: np.ndarray) -> float | None:
    """By how much an image (H, W, 3), uint8, could be shrunk and lose no detail: 1 or more.

    A scan that uses its pixels has about 1. One blown up k times has k times the factor of what it
    was made of, to within 15 %; that of the sharpest scans, which have more than a median scan
    shows, up to a third less. Pictures out of focus have more than 1 too. None where it cannot be
    determined: a blank image, one of noise, or one with a side below 64 px.
    """
    side = next((n for n in _WINDOWS if n <= min(image.shape[:2])), None)
    if side is None:
        return None
    frequency, variance = octaves(image, side)
    strongest = int(np.argmax(variance))
    level = variance[strongest]
    if level < _BLANK or variance[: max(1, side // 96)].mean() < _LEAST_COARSE / side * level:
        return None
    fine = np.flatnonzero(variance[strongest:] < _LEAST_SHARE * level)
    if not len(fine):
        return 1.0
    last = strongest + int(fine[0])
    # Between two bins both are straight lines in the logarithm.
    high, low, bound = np.log([*variance[last - 1 : last + 1], _LEAST_SHARE * level])
    share = (high - bound) / (high - low)
    finest = frequency[last - 1] ** (1 - share) * frequency[last] ** share
    return max(1.0, _SHARP / float(finest))


def octaves(image: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """(frequency, variance per octave in squared grey levels) of the luma, float64 (n/2 - 1,) each.

    2 pi f^2 S(f), with the power spectral density S averaged over directions and over Hann windows
    of n x n px that overlap by half.
    """
    luma = image.astype(np.float32) @ _LUMA
    window = np.hanning(side)[:, None] * np.hanning(side)
    tops, lefts = (range(0, size - side + 1, side // 2) for size in luma.shape)
    power = np.zeros((side, side // 2 + 1))
    for y, x in itertools.product(tops, lefts):
        part = luma[y : y + side, x : x + side]
        power += np.abs(np.fft.rfft2((part - part.mean()) * window)) ** 2
    power /= len(tops) * len(lefts) * np.square(window).sum()
    radius = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)) * side
    ring = np.rint(radius).astype(int).ravel()
    density = (np.bincount(ring, power.ravel()) / np.bincount(ring))[2 : side // 2 + 1]
    frequency = np.arange(2, side // 2 + 1) / side
    variance = np.pad(2 * math.pi * frequency**2 * density, 1, mode="edge")
    return frequency, np.convolve(variance, [0.25, 0.5, 0.25], "valid")
