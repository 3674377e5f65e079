import pickle

import jax
import numpy as np
import pytest

from histojax.data import augmentation
from histojax.data.pipeline import train_batches
from histojax.data.sources.base import Source
from histojax.data.sources.per_image_stains import PerImageStains, stains_of
from histojax.stain import hed
from histojax.stain.normalization import Method, fit
from tests import stained
from tests.data.coordinates import PIPELINE

ACROSS = np.cross(*stained.STAINS)
# As they are added to records: as long as the largest concentrations.
OWN = np.array([2.0 * stained.HAEMATOXYLIN, 1.2 * stained.EOSIN, ACROSS], np.float32)


class Images(Source):
    """Two images of known stains, and one of blank glass."""

    names, groups, mpp, classes = ("a", "b", "glass"), ("a", "b", "glass"), None, ()
    objects = "nuclei"

    def __len__(self):
        return 3

    def __getitem__(self, index):
        images = [stained.image(0), stained.image(1, maxima=(1.0, 2.0))]
        images.append(np.full((64, 64, 3), 250, np.uint8))
        return {"name": self.names[index], "hr": images[index]}

    def digests(self, index):
        return self.names[index], ""


def jittered(density, alpha=(1, 1, 1), beta=(0, 0, 0)):
    """Optical density (3,) of a pixel -> that of the jittered pixel."""
    parameters = {"alpha": np.array(alpha, np.float32), "beta": np.array(beta, np.float32)}
    rgb = np.exp(-np.asarray(density)).astype(np.float32)[None, None]
    return -np.log(hed.jitter(rgb, parameters, OWN))[0, 0]


def test_each_scale_acts_on_its_stain_and_on_nothing_else():
    # What the stains do not explain lies across them and stays.
    density = 0.8 * stained.HAEMATOXYLIN + 0.5 * stained.EOSIN + 0.05 * ACROSS
    np.testing.assert_allclose(jittered(density), density, atol=1e-5)
    expected = density + 0.8 * 0.5 * stained.HAEMATOXYLIN
    np.testing.assert_allclose(jittered(density, alpha=(1.5, 1, 1)), expected, atol=1e-5)
    expected = density - 0.5 * 0.3 * stained.EOSIN
    np.testing.assert_allclose(jittered(density, alpha=(1, 0.7, 1)), expected, atol=1e-5)


def test_the_shift_is_along_a_stain_in_shares_of_its_maximum():
    # A mean density of .6 is three times stain.TISSUE_DENSITY: 9/10 of the bias acts.
    density = np.full(3, 0.6)
    expected = density + 0.9 * 0.1 * 1.2 * stained.EOSIN
    np.testing.assert_allclose(jittered(density, beta=(0, 0.1, 0)), expected, atol=1e-5)


def test_stains_are_those_of_the_image_and_are_found_once(monkeypatch):
    source = PerImageStains(Images())
    np.testing.assert_allclose(source[0]["stains"], OWN, rtol=0.05, atol=0.02)
    lengths = np.linalg.norm(source[1]["stains"][:2], axis=1)
    np.testing.assert_allclose(lengths, [1.0, 2.0], rtol=0.05)
    again = pickle.loads(pickle.dumps(source))
    monkeypatch.setattr("histojax.data.sources.per_image_stains.stains_of", None)
    np.testing.assert_array_equal(again[1]["stains"], source[1]["stains"])
    assert (len(again), again.digests(1), again.names) == (3, ("b", ""), Images.names)


@pytest.mark.faults
def test_an_image_without_two_stains_gets_the_textbooks(caplog):
    source = PerImageStains(Images())
    for _ in range(2):
        np.testing.assert_array_equal(source[2]["stains"], hed.RGB_FROM_HED.astype(np.float32))
    [record] = caplog.records
    assert record.getMessage().startswith("glass is jittered in the textbook's stains, because of")


def test_a_jittered_images_fit_is_scaled_by_what_was_drawn():
    image, method = stained.image(side=96), Method("macenko")
    own = fit([image], method, name="image")
    parameters = {"alpha": np.array([0.8, 1.2, 1.0], np.float32), "beta": np.zeros(3, np.float32)}
    changed = hed.jitter(image, parameters, stains_of(image, name="image"))
    got = fit([changed], method, name="jittered")
    np.testing.assert_allclose(got.stains, own.stains, atol=0.01)
    np.testing.assert_allclose(np.divide(got.maxima, own.maxima), [0.8, 1.2], rtol=0.03)


def test_drawn_parameters_leave_the_residual_alone():
    textbook = {"stain_sigma": 0.2, "stain_bias": 0.05}
    own = augmentation.Augmentation(**textbook, own_stains=True)
    drawn = augmentation.sample_parameters(own, np.random.default_rng(0))
    other = augmentation.sample_parameters(
        augmentation.Augmentation(**textbook), np.random.default_rng(0)
    )
    assert (drawn["alpha"][2], drawn["beta"][2]) == (1, 0)
    for name in ("alpha", "beta"):
        np.testing.assert_array_equal(drawn[name][:2], other[name][:2])
    assert other["alpha"][2] != 1


def test_host_and_device_agree():
    image = stained.image(side=16)
    config = augmentation.Augmentation(stain_sigma=0.25, stain_bias=0.05, own_stains=True)
    parameters = augmentation.sample_parameters(config, np.random.default_rng(1))
    parameters = {**parameters, "dihedral": 0, "stains": OWN}

    def apply(rgb, parameters):
        return augmentation.apply({"hr": rgb}, parameters, config)["hr"]

    on_host, on_device = apply(image, parameters), jax.jit(apply)(image, parameters)
    assert on_host.dtype == on_device.dtype == np.uint8
    assert not np.array_equal(on_host, image)
    assert np.abs(on_host.astype(int) - np.asarray(on_device)).max() <= 1
    textbook = apply(image, {**parameters, "stains": hed.RGB_FROM_HED})
    assert np.abs(on_host.astype(int) - textbook).max() > 2


@pytest.mark.parametrize("placement", ["host", "device"])
def test_batches_keep_the_hues_of_their_images(placement):
    how = {"flips": False, "rotations": False, "stain_sigma": 0.5, "own_stains": True}
    batches = train_batches(
        Images(),
        {**PIPELINE, "crop": 32, "placement": placement, "augmentation": how},
        fields=("hr",),
        batch_size=6,
        seed=0,
    )
    hr = np.asarray(next(batches)["hr"])
    batches.close()
    density = hed.optical_density(hr[hr.min(axis=(1, 2, 3)) < 200])
    assert len(density) == 4
    # In both stains' plane, to what rounding to grey levels leaves.
    across = density @ ACROSS
    # Jittered in the textbook's stains they would be five times as far off, or more.
    assert np.abs(across).mean() < 0.004
    assert np.abs(density).mean() > 0.3
