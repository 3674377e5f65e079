import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from histojax.data import degradation_steps


@pytest.mark.parametrize("sigma", [0.0, 0.3, 1.7, 4.0])
def test_blur_is_the_sampled_gaussian_with_reflected_borders(sigma):
    signal = np.random.default_rng(0).random(40)
    expected = scipy.ndimage.gaussian_filter1d(signal, sigma, truncate=9.0) if sigma else signal
    for namespace in (np, jnp):
        weights = degradation_steps.blur_weights(40, namespace.asarray(sigma, dtype=np.float32))
        np.testing.assert_allclose(weights @ signal, expected, atol=1e-5)


@pytest.mark.parametrize(("along", "across", "angle"), [(2, 2, 0.3), (3, 1.2, 0), (1.5, 4, 0.6)])
def test_a_gaussian_has_the_widths_and_the_direction(along, across, angle):
    weights = degradation_steps.gaussian_filter(along, across, angle)
    radius = len(weights) // 2
    assert weights.sum() == pytest.approx(1, abs=1e-5)
    assert radius == int(np.ceil(4 * max(along, across)))
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    covariance = turn @ np.diag([along**2, across**2]) @ turn.T  # of (x, y)
    found = [[(weights * a * b).sum() for a in (x, y)] for b in (x, y)]
    np.testing.assert_allclose(found, covariance, atol=0.01 * max(along, across) ** 2)


def test_an_impulse_is_turned_into_the_filter():
    weights = np.random.default_rng(0).random((5, 5)).astype(np.float32)
    impulse = np.zeros((12, 16, 3), np.float32)
    impulse[6, 7] = (1, 2, 0)
    expected = np.zeros_like(impulse)
    expected[4:9, 5:10] = weights[..., None] * np.array([1, 2, 0])
    got = degradation_steps.filtered(impulse, weights)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_a_filter_sees_mirrored_borders():
    image = np.random.default_rng(0).random((20, 9, 3)).astype(np.float32)
    expected = scipy.ndimage.gaussian_filter(image, (2.5, 2.5, 0), truncate=4)
    got = degradation_steps.filtered(image, degradation_steps.gaussian_filter(2.5, 2.5, 0))
    np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("cutoff", [0.4, 0.7])
def test_sinc_passes_what_lies_below_its_cutoff_and_rings(cutoff):
    weights = degradation_steps.sinc_filter(cutoff)
    assert weights.shape == (21, 21)
    # The filter's frequency response along one axis; .5 cycles per px is Nyquist's frequency.
    response = np.abs(np.fft.fft(weights.sum(0), 256))
    share = np.fft.fftfreq(256) / 0.5
    passed = response[(share >= 0) & (share < cutoff - 0.2)]
    stopped = response[(share > cutoff + 0.2) & (share <= 1)]
    np.testing.assert_allclose(passed, 1, atol=0.12)
    assert stopped.max() < 0.12
    edge = np.full((40, 40, 1), 50, np.float32)
    edge[:, 20:] = 200
    rung = degradation_steps.filtered(edge, weights)
    assert rung.max() > 205
    assert rung.min() < 45


@pytest.mark.parametrize("namespace", [np, jnp])
def test_read_and_shot_noise_add_up_in_variance(namespace):
    rng = np.random.default_rng(0)
    image = np.full((200, 200, 3), 102, np.float32)
    noise = rng.standard_normal(image.shape, dtype=np.float32)
    made = degradation_steps.noisy(
        namespace.asarray(image), 3.0, 1 / 1000, namespace.asarray(noise)
    )
    # At 102 / 255 = .4 of white, 400 photons arrive: 20 / 400 of the signal.
    assert np.var(np.asarray(made)) == pytest.approx(3.0**2 + (102 * 20 / 400) ** 2, rel=0.02)
    # Dark pixels, which resampling may have made negative, get read noise alone.
    dark = degradation_steps.noisy(namespace.asarray(-image), 0.0, 1.0, namespace.asarray(noise))
    np.testing.assert_array_equal(dark, -image)


def test_jpeg_keeps_size_and_loses_more_at_lower_quality():
    image = np.random.default_rng(0).integers(0, 256, (17, 30, 3), dtype=np.uint8)
    errors = [
        np.abs(degradation_steps.jpeg(image, q).astype(int) - image).mean() for q in (95, 60, 10)
    ]
    assert degradation_steps.jpeg(image, 60).shape == image.shape
    assert 0 < errors[0] < errors[1] < errors[2]
