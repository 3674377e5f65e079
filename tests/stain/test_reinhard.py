import numpy as np
import skimage.color

from histojax.stain import reinhard
from tests import stained


def test_statistics_are_those_of_cielab():
    # sRGB of L* = 50 (mid-grey by lightness), and white: a* = b* = 0 of both.
    pixels = np.array([[119, 119, 119], [255, 255, 255]], np.uint8)
    mean, spread = reinhard.statistics(pixels)
    np.testing.assert_allclose(mean, [75, 0, 0], atol=0.1)
    np.testing.assert_allclose(spread, [25, 0, 0], atol=0.1)


def test_a_shift_and_a_scale_of_lightness():
    pixels = np.array([[119, 119, 119], [255, 255, 255]], np.uint8)
    # L* 50 -> 60 + 0.5 (50 - 70) = 50, and 100 -> 75, by scikit-image's own conversion.
    got = reinhard.transfer(pixels, (70, 0, 0), (2, 1, 1), (60, 0, 0), (1, 1, 1))
    expected = 255 * skimage.color.lab2rgb(np.array([[50.0, 0, 0], [75.0, 0, 0]]))
    np.testing.assert_allclose(got, expected, atol=1)


def test_colors_out_of_reach_are_cut():
    pixels = stained.image(side=8).reshape(-1, 3)
    mean, spread = reinhard.statistics(pixels)
    # Yellower than any light by far: no blue is left, and red and green stay in range.
    got = reinhard.transfer(pixels, mean, spread, np.add(mean, [0, 0, 300]), spread)
    assert got[:, 2].max() == 0
    # Far beyond white.
    np.testing.assert_array_equal(
        reinhard.transfer(pixels, mean, spread, (900, 0, 0), (1e-9, 1e-9, 1e-9)), 255
    )
