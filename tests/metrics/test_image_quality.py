import json
import math

import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
import scipy.ndimage
import skimage.data

from histojax.errors import UserError
from histojax.metrics import image_quality, registry


def _gray(level, size=32):
    return np.full((size, size, 3), level, np.uint8)


def _noisy(image, amplitude, seed=0):
    noise = np.random.default_rng(seed).integers(-amplitude, amplitude + 1, image.shape)
    return np.clip(image.astype(int) + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("offset", [1, 5, 100])
def test_psnr_of_a_constant_offset(offset):
    score = image_quality.psnr(_gray(100), _gray(100 + offset))
    assert score == pytest.approx(20 * math.log10(255 / offset), abs=1e-12)


def test_psnr_is_taken_over_pixels_and_channels_together():
    a, b = _gray(0), _gray(0)
    b[:16, :, 0] = 6
    # One in six values is off by 6: the mean square is 6.
    assert image_quality.psnr(a, b) == pytest.approx(10 * math.log10(255**2 / 6))
    assert image_quality.psnr(a, a) == math.inf


@pytest.mark.faults
def test_ssim_of_constants_is_the_luminance_term():
    c1 = (0.01 * 255) ** 2
    expected = (2 * 100 * 150 + c1) / (100**2 + 150**2 + c1)
    assert image_quality.ssim(_gray(100), _gray(150)) == pytest.approx(expected, abs=1e-9)


def test_ssim_of_the_negative_is_below_zero_and_of_itself_one():
    image = skimage.data.astronaut()[:64, :64]
    assert image_quality.ssim(image, image) == pytest.approx(1)
    assert image_quality.ssim(image, 255 - image) < 0


def test_ssim_by_hand_in_the_one_window():
    taps = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    weights = np.outer(taps, taps) / taps.sum() ** 2
    a, b = (np.random.default_rng(seed).integers(0, 256, (11, 11)) for seed in (0, 1))
    x, y = np.sum(weights * a), np.sum(weights * b)
    variances = np.sum(weights * (a - x) ** 2) + np.sum(weights * (b - y) ** 2)
    covariance = np.sum(weights * (a - x) * (b - y))
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    quotient = (2 * x * y + c1) * (2 * covariance + c2)
    quotient /= (x**2 + y**2 + c1) * (variances + c2)
    assert image_quality.ssim(a.astype(np.uint8), b.astype(np.uint8)) == pytest.approx(quotient)


def test_luma_is_matlabs():
    colors = np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]]])
    luma = image_quality.luma_bt601(colors.astype(np.uint8))
    np.testing.assert_allclose(luma, [[16, 235, 81.481, 144.553, 40.966]], atol=1e-9)


def test_the_luma_protocol_ignores_the_border():
    a, b = _gray(50), _gray(50)
    b[:4] = b[-4:] = b[:, :4] = b[:, -4:] = 200
    assert image_quality.psnr_y(a, b) == math.inf
    assert image_quality.ssim_y(a, b) == pytest.approx(1)
    assert math.isfinite(image_quality.psnr_y(a, b, 3))
    # A grey offset of d is one of d * 219 / 255 in luma.
    score = image_quality.psnr_y(_gray(50), _gray(60), 0)
    assert score == pytest.approx(20 * math.log10(255 / (10 * 219 / 255)))


def test_the_rgb_protocol():
    a, b = _gray(100), _gray(105)
    assert image_quality.psnr_rgb(a, b) == image_quality.psnr(a, b)
    assert image_quality.ssim_rgb(a, b) == image_quality.ssim(a, b)


def test_only_quantized_images_of_one_shape_are_scored():
    for score in (image_quality.psnr_rgb, image_quality.ssim_rgb):
        with pytest.raises(ValueError, match="float32"):
            score(_gray(1).astype(np.float32), _gray(1))
        with pytest.raises(ValueError, match="cannot be compared"):
            score(_gray(1, 16), _gray(1, 32))
    for score in (image_quality.psnr_y, image_quality.ssim_y):
        with pytest.raises(ValueError, match="uint8"):
            score(_gray(1)[..., 0], _gray(1)[..., 0])


@pytest.mark.faults
def test_images_below_the_window_are_refused():
    with pytest.raises(UserError, match="11 x 11 px and got 10 x 10"):
        image_quality.ssim(_gray(1, 10), _gray(1, 10))
    assert image_quality.ssim_y(_gray(1, 19), _gray(1, 19)) == pytest.approx(1)


def _pattern(amplitude, size=(96, 80)):
    signs = np.random.default_rng(0).choice([-1, 1], (*size, 1))
    return np.broadcast_to(128 + amplitude * signs, (*size, 3)).astype(np.uint8)


def test_spectrum_error_of_a_doubled_amplitude_is_6_db():
    error = image_quality.power_spectrum_error(_pattern(40), _pattern(20))
    assert error == pytest.approx(20 * math.log10(2), abs=0.01)
    assert image_quality.power_spectrum_error(_pattern(40), _pattern(40)) == 0
    # No phase: the same texture elsewhere is no error but for the window.
    mirrored = image_quality.power_spectrum_error(_pattern(40)[::-1, ::-1], _pattern(40))
    assert mirrored == pytest.approx(0, abs=1e-6)


def test_spectrum_excess_has_a_sign():
    stronger = image_quality.power_spectrum_excess(_pattern(40), _pattern(20))
    assert stronger == pytest.approx(20 * math.log10(2), abs=0.01)
    weaker = image_quality.power_spectrum_excess(_pattern(20), _pattern(40))
    assert weaker == pytest.approx(-stronger)


@pytest.mark.faults
def test_spectrum_error_of_a_flat_image_is_bounded():
    # Grey +-20 has luma power (20 * 219 / 255)^2 per frequency, rounding has 1/12.
    power = (20 * 219 / 255) ** 2
    error = image_quality.power_spectrum_error(_gray(128, 96), _pattern(20, (96, 96)))
    assert error == pytest.approx(10 * math.log10(12 * power), abs=0.5)


def test_spectrum_error_sees_frequencies_above_lr_alone():
    x, texture = np.arange(128), _pattern(10, (128, 128))

    def with_wave(period):
        wave = np.rint(60 * np.cos(2 * np.pi * x / period)).astype(int)
        return (texture + wave[:, None, None]).astype(np.uint8)

    # At x4 the limit is a period of 8 px; waves of 32 and of 4 px lie to either side of it.
    assert image_quality.power_spectrum_error(texture, with_wave(32), scale=4) < 0.1
    assert image_quality.power_spectrum_error(texture, with_wave(4), scale=4) > 0.5
    # At x32 the limit is a period of 64 px, and the coarse wave counts.
    assert image_quality.power_spectrum_error(texture, with_wave(32), scale=32) > 0.5


def test_spectrum_error_of_tiny_images_is_finite():
    for size in (1, 2, 5):
        a, b = _noisy(_gray(128, size), 50, 0), _noisy(_gray(128, size), 50, 1)
        assert math.isfinite(image_quality.power_spectrum_error(a, b))


@pytest.mark.parametrize("xp", [np, jnp])
def test_feature_distance_of_known_angles(xp):
    a = np.zeros((2, 3, 4, 2), np.float32)
    b = np.zeros((2, 3, 4, 2), np.float32)
    a[..., 0] = 5
    b[0, ..., 0], b[1, ..., 1] = 0.1, 7
    # Image 0 points the same way whatever its length, image 1 is orthogonal: |u - v|^2 = 2.
    distance = image_quality.feature_distance({"l": xp.asarray(a)}, {"l": xp.asarray(b)})
    np.testing.assert_allclose(distance, [0, 2], atol=1e-6)
    opposite = image_quality.feature_distance({"l": xp.asarray(a)}, {"l": xp.asarray(-a)})
    np.testing.assert_allclose(opposite, [4, 4], atol=1e-6)


def test_feature_distance_averages_positions_then_layers():
    a, b = np.zeros((1, 4, 2)), np.zeros((1, 4, 2))
    a[..., 0] = 1
    b[0, 0, 1] = 1
    b[0, 1:, 0] = 1
    small_a, small_b = np.ones((1, 1, 3)), np.ones((1, 1, 3))
    # 2 at one of four positions, .5; the other layer agrees; so .25.
    distance = image_quality.feature_distance({"a": a, "b": small_a}, {"a": b, "b": small_b})
    assert distance == pytest.approx(0.25)
    # A position without any feature is at distance 1 of one with some.
    nothing = image_quality.feature_distance({"a": np.zeros((1, 1, 3))}, {"a": small_b})
    assert nothing == pytest.approx(1)


def test_feature_distance_refuses_other_layers():
    one = {"a": np.ones((1, 1, 1))}
    for a, b in ((one, {"b": one["a"]}), (one, {}), ({}, {})):
        with pytest.raises(ValueError, match="cannot be compared"):
            image_quality.feature_distance(a, b)


def test_bicubic_enlargement_of_real_tissue(real_data):
    root = real_data / "monuseg"
    scores = []
    for name in json.loads((root / "splits.json").read_text())["val"]:
        (path,) = (root / "images").glob(name.split(".")[0] + ".*")
        hr = PIL.Image.open(path).convert("RGB")
        small = hr.resize((hr.width // 4, hr.height // 4), PIL.Image.Resampling.BICUBIC)
        sr = small.resize(hr.size, PIL.Image.Resampling.BICUBIC)
        pair = np.asarray(sr), np.asarray(hr)
        scores.append((image_quality.psnr_rgb(*pair), image_quality.ssim_rgb(*pair)))
    # Another implementation measured 28.04 dB and .801 on these six images.
    psnr, ssim = np.mean(scores, axis=0)
    assert psnr == pytest.approx(28.04, abs=0.01)
    assert ssim == pytest.approx(0.801, abs=0.001)


def _grainy(side=192, sigma=6.0, seed=0):
    """A gray image of white noise, and the variance of its luma, rounding included."""
    noise = np.random.default_rng(seed).normal(128, sigma, (side, side, 1))
    return np.broadcast_to(noise, (side, side, 3)), (sigma**2 + 1 / 12) * (219 / 255) ** 2


def _rounded(image):
    return np.round(image).astype(np.uint8)


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
def test_white_noise_has_no_grid(scale):
    noise, _ = _grainy()
    assert image_quality.grid(_rounded(noise), _gray(128, 192), scale) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_grid_of_known_amplitude(axis):
    noise, variance = _grainy()
    amplitude = 2.0
    wave = amplitude * np.cos(np.pi / 2 * np.arange(192) + 0.4)
    wave = np.expand_dims(wave, [i for i in range(3) if i != axis])
    found = image_quality.grid(_rounded(noise + wave), _gray(128, 192), 4)
    # A Hann window of n px a side lifts a sinusoid by (2 n / 3)^2 over white noise. It has two of
    # the fifteen lines, of a fourth of its square each.
    power = 2 * (amplitude * 219 / 255) ** 2 / 4 * (2 * 32 / 3) ** 2
    assert found == pytest.approx(1 + power / (15 * (variance + 1)), rel=0.05)


def test_a_grid_of_another_period_is_none():
    noise, _ = _grainy()
    image = _rounded(noise + 2 * np.cos(2 * np.pi / 3 * np.arange(192))[:, None])
    assert image_quality.grid(image, _gray(128, 192), 4) == pytest.approx(1, abs=0.15)
    assert image_quality.grid(image, _gray(128, 192), 3) > 2


def test_a_grid_counts_where_the_real_image_is_flat():
    hr = _gray(128, 128)
    hr[:64] = np.random.default_rng(0).choice([60, 200], (16, 32, 1)).repeat(4, 0).repeat(4, 1)
    grid = np.tile(np.array([6, 0, 0, 0], np.uint8), 32)[:, None]
    above, below = hr.copy(), hr.copy()
    above[:56] += grid
    below[64:] += grid
    assert image_quality.grid(above, hr) == pytest.approx(1, abs=0.05)
    assert image_quality.grid(below, hr) > 10
    assert math.isnan(image_quality.grid(above[:64], hr[:64]))
    assert math.isnan(image_quality.grid(hr[:31], hr[:31]))
    with pytest.raises(ValueError, match="float32"):
        image_quality.grid(hr.astype(np.float32), hr)


@pytest.mark.parametrize("scale", [2, 4])
def test_blur_error_is_the_loss_of_a_gaussian(scale):
    """exp(-(2 pi f sigma)^2) of the power at f cycles per px is left behind it."""
    noise = np.random.default_rng(0).normal(128, 30, (256, 256))
    sigma = 0.8 * scale
    blurred = scipy.ndimage.gaussian_filter(noise, sigma, mode="wrap")
    f = np.linspace(0.16, 0.4, 100) / scale
    expected = np.mean(10 * np.log10(np.e) * (2 * np.pi * f * sigma) ** 2)
    hr, sr = (_rounded(np.stack([image] * 3, -1)) for image in (noise, blurred))
    assert image_quality.blur_error(sr, hr, scale) == pytest.approx(expected, rel=0.05)
    # Detail that no low-resolution image holds plays no part.
    fine = hr + np.uint8([0, 5])[np.arange(256) % 2][:, None]
    assert image_quality.blur_error(fine, hr, scale) < 0.1


def test_drift_is_the_change_of_what_a_blurred_image_holds():
    bicubic = np.full((96, 96, 3), 100, np.uint8)
    redder = bicubic + np.uint8([6, 0, 0])
    assert image_quality.drift(redder, bicubic) == pytest.approx(2)
    stripes = bicubic.copy()
    stripes[:, ::2] += 20
    stripes[:, 1::2] -= 20
    assert image_quality.drift(stripes, bicubic) < 0.3  # of 20; mirrored at the border
    half = bicubic.copy()
    half[:48] += 9
    assert image_quality.drift(half, bicubic) == pytest.approx(4.5, rel=0.01)
    with pytest.raises(ValueError, match="cannot be compared"):
        image_quality.drift(half[:48], bicubic)


@pytest.mark.faults
@pytest.mark.parametrize("value", [0, 128, 255])
def test_blank_images_have_scores(value):
    image = np.full((40, 40, 3), value, np.uint8)
    expected = {
        "psnr_rgb": math.inf,
        "ssim_rgb": 1.0,
        "psnr_y": math.inf,
        "ssim_y": 1.0,
        "power_spectrum_error": 0,
        "blur_error": 0,
        "grid": pytest.approx(1),
    }
    scores = registry.scores("image", image, image, 4)
    assert scores == expected
    assert registry.scores("input", image, image, 4) == {"drift": 0}
    features = {"layer": np.zeros((4, 4, 8))}  # what a network without biases makes of black
    assert image_quality.feature_distance(features, features) == 0
    assert image_quality.smallest_side() == 19
