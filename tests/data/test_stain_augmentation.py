import jax
import numpy as np
import pytest

from histojax.data import stain_augmentation
from histojax.data.stain_normalization import Method, StainFit, fit
from tests import stained

OWN = StainFit(tuple(map(tuple, stained.STAINS)), (2.0, 1.2), None)
ACROSS = np.cross(*stained.STAINS)


def jittered(density, alpha=(1, 1, 1), beta=(0, 0, 0)):
    """Optical density (3,) of a pixel -> that of the jittered pixel."""
    parameters = {"alpha": np.array(alpha, np.float32), "beta": np.array(beta, np.float32)}
    rgb = np.exp(-np.asarray(density)).astype(np.float32)[None, None]
    return -np.log(stain_augmentation.jitter(rgb, OWN, parameters))[0, 0]


def test_each_scale_acts_on_its_stain_and_on_nothing_else():
    # What the stains do not explain lies across them and stays.
    density = 0.8 * stained.HAEMATOXYLIN + 0.5 * stained.EOSIN + 0.05 * ACROSS
    np.testing.assert_allclose(jittered(density), density, atol=1e-5)
    expected = density + 0.8 * 0.5 * stained.HAEMATOXYLIN
    np.testing.assert_allclose(jittered(density, alpha=(1.5, 1, 1)), expected, atol=1e-5)
    expected = density - 0.5 * 0.3 * stained.EOSIN
    np.testing.assert_allclose(jittered(density, alpha=(1, 0.7, 1)), expected, atol=1e-5)


def test_the_shift_is_along_a_stain():
    # A mean density of .6 is three times stain.TISSUE_DENSITY: 9/10 of the bias acts.
    density = np.full(3, 0.6)
    expected = density + 0.9 * 0.1 * stained.EOSIN
    np.testing.assert_allclose(jittered(density, beta=(0, 0.1, 0)), expected, atol=1e-5)


@pytest.mark.faults
def test_glass_stays_white():
    parameters = stain_augmentation.sample_parameters(OWN, 0.3, 0.1, np.random.default_rng(0))
    white = np.full((4, 4, 3), 255, np.uint8)
    np.testing.assert_array_equal(stain_augmentation.jitter(white, OWN, parameters), white)


def test_drawn_parameters_leave_the_residual_and_follow_the_maxima():
    rng = np.random.default_rng(0)
    drawn = [stain_augmentation.sample_parameters(OWN, 0.2, 0.05, rng) for _ in range(2000)]
    alpha, beta = (np.stack([d[name] for d in drawn]) for name in ("alpha", "beta"))
    np.testing.assert_array_equal(alpha[:, 2], 1)
    np.testing.assert_array_equal(beta[:, 2], 0)
    np.testing.assert_allclose(np.abs(alpha[:, :2] - 1).max(axis=0), 0.2, rtol=0.01)
    np.testing.assert_allclose(np.abs(beta[:, :2]).max(axis=0), [0.1, 0.06], rtol=0.01)
    again = stain_augmentation.sample_parameters(OWN, 0.2, 0.05, np.random.default_rng(0))
    np.testing.assert_array_equal(again["alpha"], alpha[0])


def test_a_jittered_images_fit_is_scaled_by_what_was_drawn():
    image = stained.image(side=96)
    method = Method("macenko")
    own = fit(image, method, name="image")
    parameters = {"alpha": np.array([0.8, 1.2, 1.0], np.float32), "beta": np.zeros(3, np.float32)}
    got = fit(stain_augmentation.jitter(image, own, parameters), method, name="jittered")
    np.testing.assert_allclose(got.stains, own.stains, atol=0.01)
    np.testing.assert_allclose(np.divide(got.maxima, own.maxima), [0.8, 1.2], rtol=0.03)


def test_host_and_device_agree():
    image = stained.image(side=16)
    key = jax.random.key(0)

    @jax.jit
    def device(rgb):
        parameters = stain_augmentation.sample_parameters(OWN, 0.25, 0.05, key)
        return stain_augmentation.jitter(rgb, OWN, parameters), parameters

    on_device, parameters = device(image)
    parameters = {name: np.asarray(value) for name, value in parameters.items()}
    on_host = stain_augmentation.jitter(image, OWN, parameters)
    assert on_host.dtype == on_device.dtype == np.uint8
    assert not np.array_equal(on_host, image)
    assert np.abs(on_host.astype(int) - np.asarray(on_device)).max() <= 1
