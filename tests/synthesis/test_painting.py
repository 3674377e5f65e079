import numpy as np
import pytest
from scipy import ndimage

from histojax.synthesis import painting


def pair(seed=0, side=96, sigma=1.0):
    """A disc of 90 on 200, with noise of deviation 10 behind a Gaussian filter."""
    y, x = np.mgrid[:side, :side] - side // 2
    labels = (y**2 + x**2 < (side // 4) ** 2).astype(np.int32)
    noise = np.random.default_rng(seed).standard_normal((side, side, 3))
    if sigma:
        noise = ndimage.gaussian_filter(noise, (sigma, sigma, 0), mode="wrap")
        noise /= noise.std()
    image = np.where(labels[..., None] > 0, 90, 200) + 10 * noise
    return np.rint(image).astype(np.uint8), labels


def test_statistics_are_those_an_image_was_made_with():
    statistics = painting.statistics_of(*pair())
    np.testing.assert_allclose(statistics.colors, [[200] * 3, [90] * 3], atol=3)
    np.testing.assert_allclose(statistics.covariances[0], 100 * np.eye(3), atol=15)
    # exp(-1 / (4 sigma^2)) of neighbours
    assert statistics.correlation == pytest.approx(np.exp(-0.25), abs=0.02)
    assert painting.statistics_of(*pair(sigma=0)).correlation == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize("sigma", [0, 1.0, 2.0])
def test_a_painted_image_has_the_statistics_again(sigma):
    image, labels = pair(side=192, sigma=sigma)
    statistics = painting.statistics_of(image, labels)
    drawn = painting.paint(labels, statistics, np.random.default_rng(1))
    again = painting.statistics_of(drawn, labels)
    assert drawn.dtype == np.uint8
    assert drawn.shape == image.shape
    assert not np.array_equal(drawn, image)
    np.testing.assert_allclose(again.colors, statistics.colors, atol=4)
    deviations = [
        np.sqrt(np.diagonal(x.covariances, axis1=1, axis2=2)) for x in (statistics, again)
    ]
    np.testing.assert_allclose(*deviations, rtol=0.15)
    assert again.correlation == pytest.approx(statistics.correlation, abs=0.05)


def test_channels_keep_what_they_have_in_common():
    image, labels = pair()
    gray = np.repeat(image[..., :1], 3, 2)
    drawn = painting.paint(labels, painting.statistics_of(gray, labels), np.random.default_rng(0))
    assert np.abs(np.diff(drawn.astype(int), axis=2)).max() <= 1


def test_a_square_of_one_kind_has_no_statistics():
    image, labels = pair()
    assert painting.statistics_of(image, 0 * labels) is None
    assert painting.statistics_of(image, 0 * labels + 1) is None


def test_mean_statistics_are_between_them():
    several = [painting.statistics_of(*pair(seed, sigma=seed)) for seed in (0, 1)]
    mean = painting.mean_statistics(several)
    np.testing.assert_allclose(mean.colors, (several[0].colors + several[1].colors) / 2)
    assert mean.correlation == pytest.approx((several[0].correlation + several[1].correlation) / 2)
    assert painting.mean_statistics(several[:1]).correlation == several[0].correlation
