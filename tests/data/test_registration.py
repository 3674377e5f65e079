import logging
import math
import re

import numpy as np
import pytest
import scipy.ndimage

from histojax.data import degradation, registration
from histojax.errors import UserError
from histojax.imaging import resampling


def scene(seed=0, size=480):
    """Blobs of the size of nuclei on a pale ground, uint8 (size, size, 3)."""
    rng = np.random.default_rng(seed)
    field = scipy.ndimage.gaussian_filter(rng.standard_normal((size, size)), 4)
    field = field / field.std()
    image = 200 - 60 / (1 + np.exp(-6 * (field - 0.7)))[..., None] * np.array([0.9, 1.3, 0.6])
    return np.clip(image + rng.normal(0, 2, image.shape), 0, 255).astype(np.uint8)


def moved(image, down, right):
    """The image with its content moved by so many px, mirrored borders, cubic in between."""
    made = scipy.ndimage.shift(image.astype(float), (down, right, 0), order=3, mode="mirror")
    return np.clip(made + 0.5, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("scale", resampling.SCALES)
@pytest.mark.parametrize("shift", [(0, 0), (1.5, -0.5), (-7, 12)])
def test_the_displacement_is_the_one_made(scale, shift):
    image = scene()
    lr = resampling.downsample(moved(image, *shift), scale, "box")
    found = registration.displacement(image, lr, scale)
    np.testing.assert_allclose(found, shift, atol=0.06 * scale)


def test_noise_blur_jpeg_stain_and_shading_do_not_mislead_it():
    spec = degradation.Degradation(
        name="second_order",
        noise_sigma=(8.0, 8.0),
        second_blur_probability=1.0,
        second_jpeg_quality=(60, 60),
        second_jpeg_probability=1.0,
    )
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:120, :120] / 120
    shading = (1.1 - 0.5 * ((y - 0.2) ** 2 + (x - 0.4) ** 2))[..., None] * [0.9, 1.0, 0.8]
    for shift in ((0, 0), (3, -2)):
        image = scene(1)
        parameters = degradation.sample_parameters(spec, rng, (120, 120, 3))
        lr = degradation.degrade(moved(image, *shift), spec, parameters)
        lr = np.clip(lr * shading, 0, 255).astype(np.uint8)
        found = registration.displacement(image, lr, 4)
        np.testing.assert_allclose(found, shift, atol=0.5)


def test_a_reduction_that_picks_every_fourth_pixel_is_found_out():
    image = scipy.ndimage.gaussian_filter(scene(), (2, 2, 0))
    # The pixel taken is the first of each four, 1.5 px before their middle, so things lie later.
    found = registration.displacement(image, image[::4, ::4], 4)
    np.testing.assert_allclose(found, (1.5, 1.5), atol=0.2)


def test_sides_lose_what_the_scale_does_not_divide():
    image = scene()[:470, :431]
    lr = resampling.downsample(image[:464, :424], 8)
    np.testing.assert_allclose(registration.displacement(image, lr, 8), (0, 0), atol=0.2)


def test_the_middle_of_a_large_image_is_looked_at(monkeypatch):
    monkeypatch.setattr(registration, "_LARGEST_SIDE", 64)
    image = scene()
    lr = resampling.downsample(moved(image, 2, 3), 2)
    # Only the middle 64 of 240 px are still a pair.
    middle = np.full_like(lr, 128)
    middle[88:152, 88:152] = lr[88:152, 88:152]
    np.testing.assert_allclose(registration.displacement(image, middle, 2), (2, 3), atol=0.4)


@pytest.mark.faults
@pytest.mark.parametrize("noise", [0, 4, 20])
@pytest.mark.parametrize("side", [32, 120])
def test_blank_small_and_unlike_pairs_are_not_judged(noise, side):
    rng = np.random.default_rng(0)

    def blank(size):
        # Both fields are shaded, each in its own way.
        shading = np.linspace(0, rng.uniform(-20, 20), size)[:, None, None]
        made = 230 + shading + rng.normal(0, noise, (size, size, 3))
        return np.clip(made, 0, 255).astype(np.uint8)

    for _ in range(5):
        assert registration.displacement(blank(4 * side), blank(side), 4) is None
    image, other = scene(2), scene(3)
    assert registration.displacement(image, blank(120), 4) is None
    assert registration.displacement(image, resampling.downsample(other, 4), 4) is None
    small = image[:96, :480]
    assert registration.displacement(small, resampling.downsample(small, 4), 4) is None


class Pairs:
    """Pairs at 1/4, each with its lr image moved by so many hr px; None leaves lr out."""

    def __init__(self, shifts):
        self.names = [f"n{index}" for index in range(len(shifts))]
        self._shifts = shifts

    def __len__(self):
        return len(self._shifts)

    def __getitem__(self, index):
        image, shift = scene(index, 256), self._shifts[index]
        record = {"name": self.names[index], "hr": image}
        if shift == "blank":
            record["lr"] = np.full((64, 64, 3), 240, np.uint8)
        elif shift is not None:
            record["lr"] = resampling.downsample(moved(image, *shift), 4)
        return record


@pytest.mark.faults
def test_pairs_within_the_limit_pass_and_blank_ones_are_named(caplog):
    with caplog.at_level(logging.WARNING):
        registration.check_registration(Pairs([(0, 0), (0.4, -0.4)]), 4, 1.0)
        registration.check_registration(Pairs([None, None]), 4, 1.0)
        registration.check_registration(Pairs([]), 4, 1.0)
        assert not caplog.messages
        registration.check_registration(Pairs([(0, 0), "blank"]), 4, 1.0)
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("1 of 2 lr images are too plain")
    assert caplog.messages[0].endswith("checked: 'n1'")


@pytest.mark.faults
def test_the_worst_pair_is_named_with_its_shift_and_a_remedy():
    pairs = Pairs([(0, 0), (0, 2), (-6, 3), "blank"])
    with pytest.raises(UserError) as refusal:
        registration.check_registration(pairs, 4, 1.0)
    said = str(refusal.value)
    found = re.fullmatch(
        r"lr images off their hr images by more than data\.max_shift=1 hr px: 2 of 4, 'n2' the "
        r"furthest, (.*) hr px up and (.*) hr px right, then 'n1'; register them, take them "
        r"out, or raise max_shift \(0: no check\)",
        said,
    )
    assert math.dist(map(float, found.groups()), (6, 3)) < 0.5
    registration.check_registration(pairs, 4, 8.0)
    registration.check_registration(pairs, 4, 0)


@pytest.mark.faults
def test_five_are_named_and_the_rest_counted(caplog):
    shifts = [(0, 3), "blank", (0, 9), (0, 4), (0, 6), "blank", (0, 7), (0, 5)]
    with pytest.raises(UserError, match=r"6 of 14, 'n2' the furthest, ") as refusal:
        registration.check_registration(Pairs(shifts + ["blank"] * 4 + [(0, 0)] * 2), 4, 1.0)
    assert " right, then 'n6', 'n4', 'n7', 'n3' and 1 more; register" in str(refusal.value)
    assert caplog.messages[0].startswith("6 of 14 lr images are too plain")
    assert caplog.messages[0].endswith(": 'n1', 'n5', 'n8', 'n9', 'n10' and 1 more")


@pytest.mark.parametrize("limit", [-1, "two", float("nan"), float("inf"), None])
def test_a_limit_that_is_no_distance_is_refused(limit):
    with pytest.raises(
        UserError, match=r"data.max_shift=.* has to be a number of hr px .*0 or more"
    ):
        registration.check_registration(Pairs([]), 4, limit)
