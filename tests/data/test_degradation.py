import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from PIL import Image

from histojax.data import degradation as D
from histojax.data import degradation_steps
from histojax.errors import UserError
from histojax.imaging import resampling
from tests.data.pictures import picture, pillow


def microscope(**fields):
    off = {
        "blur_probability": 0.0,
        "noise_probability": 0.0,
        "photons_probability": 0.0,
        "jpeg_probability": 0.0,
    }
    return D.Degradation(name="microscope", **{**off, **fields})


def run(degradation, image, seed=0):
    shape = (image.shape[0] // degradation.scale, image.shape[1] // degradation.scale, 3)
    parameters = D.sample_parameters(degradation, np.random.default_rng(seed), shape)
    return D.degrade(image, degradation, parameters)


def test_named_kernels_are_exact():
    image = picture(64, 32)
    for name in ("bicubic", "bilinear"):
        np.testing.assert_array_equal(
            run(D.Degradation(name=name), image), pillow(image, 16, 8, name)
        )


def test_microscope_with_every_step_off_is_the_reduction():
    image = picture(64, 48)
    difference = run(microscope(), image).astype(int) - pillow(image, 16, 12, "bicubic")
    # One rounding instead of Pillow's two.
    assert np.abs(difference).max() <= 1


def test_microscope_blurs_in_hr_pixels():
    image = picture(64, 64)
    blurred = scipy.ndimage.gaussian_filter(image.astype(np.float64), (3, 3, 0), truncate=6)
    expected = resampling.downsample(blurred, 4)
    got = run(microscope(blur_sigma=(3.0, 3.0), blur_probability=1.0), image)
    np.testing.assert_allclose(got, np.clip(expected, 0, 255), atol=0.51)


def test_noise_has_the_stated_variance():
    gray = np.full((256, 256, 3), 128, np.uint8)
    read = run(microscope(noise_sigma=(8.0, 8.0), noise_probability=1.0), gray)
    assert read.std() == pytest.approx((8.0**2 + 1 / 12) ** 0.5, rel=0.03)
    shot = run(microscope(photons=(100.0, 100.0), photons_probability=1.0), gray)
    assert shot.std() == pytest.approx(255 * (128 / 255 / 100) ** 0.5, rel=0.03)
    assert shot.mean() == pytest.approx(128, abs=0.6)


def test_jpeg_is_the_last_step():
    image = picture(64, 64)
    noisy = run(microscope(noise_sigma=(5.0, 5.0), noise_probability=1.0), image)
    config = {"noise_sigma": (5.0, 5.0), "noise_probability": 1.0, "jpeg_quality": (40, 40)}
    got = run(microscope(**config, jpeg_probability=1.0), image)
    buffer = io.BytesIO()
    Image.fromarray(noisy).save(buffer, "jpeg", quality=40, subsampling=2)
    np.testing.assert_array_equal(got, np.asarray(Image.open(buffer)))
    assert (got != noisy).any()


def test_host_and_device_agree_for_equal_parameters():
    image = picture(96, 64)
    degradation = D.Degradation(
        name="microscope", photons_probability=1.0, jpeg_probability=0.0, noise_sigma=(3.0, 6.0)
    )
    parameters = D.sample_parameters(degradation, np.random.default_rng(3), (24, 16, 3))
    on_host = D.degrade(image, degradation, parameters)
    on_device = jax.jit(lambda hr, p: D.degrade(hr, degradation, p))(image, parameters)
    assert on_device.dtype == np.uint8
    difference = np.abs(on_host.astype(int) - np.asarray(on_device))
    assert difference.max() <= 1
    assert difference.mean() < 0.01


def test_drawn_parameters_fill_their_ranges():
    degradation = D.Degradation(
        name="microscope", blur_sigma=(1.0, 2.0), blur_probability=0.5, jpeg_quality=(70, 72),
        jpeg_probability=1.0, photons=(10.0, 20.0), photons_probability=0.25,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    on_host = [D.sample_parameters(degradation, rng, (2, 2, 3)) for _ in range(2000)]
    on_host = {name: np.stack([p[name] for p in on_host]) for name in on_host[0]}
    keys = jax.random.split(jax.random.key(0), 2000)
    draw = jax.vmap(lambda key: D.sample_parameters(degradation, key, (2, 2, 3)))
    on_device = jax.jit(draw)(keys)
    for drawn in (on_host, on_device):
        sigma = np.asarray(drawn["blur_sigma"])
        assert (sigma > 0).mean() == pytest.approx(0.5, abs=0.05)
        assert 1.0 <= sigma[sigma > 0].min() < 1.01 < 1.99 < sigma.max() <= 2.0
        inverse = np.asarray(drawn["inverse_photons"])
        assert (inverse > 0).mean() == pytest.approx(0.25, abs=0.05)
        assert inverse.max() <= 0.1 + 1e-6
        assert set(np.asarray(drawn["jpeg_quality"]).tolist()) == {70, 71, 72}
        assert np.asarray(drawn["noise"]).std() == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("name", ["microscope", "blind", "second_order"])
def test_a_clean_image_is_bicubic_whatever_the_kernel(name):
    image = picture(64, 48)
    kernels = {"kernel": "box", "kernels": ("box",)}
    clean = D.Degradation(name=name, clean_probability=1.0, **kernels)
    np.testing.assert_array_equal(run(clean, image), pillow(image, 16, 12, "bicubic"))
    third = D.Degradation(name=name, clean_probability=1 / 3, **kernels)
    rng = np.random.default_rng(0)
    drawn = [D.sample_parameters(third, rng, (2, 2, 3)) for _ in range(1500)]
    share = np.mean([parameters.get("clean", False) for parameters in drawn])
    assert share == pytest.approx(1 / 3, abs=0.04)
    seen = {(run(third, image, seed) == run(clean, image)).all() for seed in range(20)}
    assert seen == {True, False}
    # Nothing is drawn for it where it is off, so that the others stay as they were.
    off = D.Degradation(name=name, **kernels)
    assert "clean" not in D.sample_parameters(off, np.random.default_rng(0), (2, 2, 3))


def test_clean_images_of_a_jitted_step_are_bicubic():
    images = jnp.stack([picture(32, 32)] * 64)
    mixed = microscope(
        clean_probability=0.5, noise_sigma=(9.0, 9.0), noise_probability=1.0, kernel="box"
    )  # fmt: skip

    def make(key, image):
        return D.degrade(image, mixed, D.sample_parameters(mixed, key, (8, 8, 3)))

    made = np.asarray(jax.jit(jax.vmap(make))(jax.random.split(jax.random.key(0), 64), images))
    bicubic = np.asarray(jax.jit(lambda image: D.degrade(image, D.Degradation(), {}))(images[0]))
    clean = (made == bicubic).all((1, 2, 3))
    assert 20 <= clean.sum() <= 44
    assert (np.abs(made[~clean].astype(int) - bicubic).max((1, 2, 3)) > 9).all()


OFF = dict.fromkeys(
    [f"{order}{step}_probability" for order in ("", "second_") for step in D._STEPS]
    + ["anisotropic_probability", "sinc_probability"],
    0.0,
)


def blind(name="blind", **fields):
    return D.Degradation(name=name, **{**OFF, "kernels": ("bicubic",), **fields})


def test_blind_with_every_step_off_is_one_of_its_kernels():
    image = picture(48, 36)
    reduced = {k: resampling.downsample(image.astype(np.float32), 3, k) for k in resampling.KERNELS}
    three = {k: np.clip(reduced[k], 0, 255) for k in ("bicubic", "bilinear", "box")}
    seen = set()
    for seed in range(20):
        lr = run(blind(scale=3, kernels=tuple(three)), image, seed)
        near = [name for name, one in three.items() if np.abs(lr - one).max() <= 0.51]
        assert len(near) == 1
        seen.update(near)
    assert seen == set(three)


def test_blind_blurs_in_hr_pixels():
    image = picture(64, 64)
    blurred = scipy.ndimage.gaussian_filter(image.astype(np.float64), (3, 3, 0), truncate=4)
    expected = resampling.downsample(blurred, 4)
    got = run(blind(blur_sigma=(3.0, 3.0), blur_probability=1.0), image)
    np.testing.assert_allclose(got, np.clip(expected, 0, 255), atol=0.52)


def widths(weights):
    """Standard deviations of a filter along its two axes, the larger first."""
    radius = len(weights) // 2
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    moments = [[(weights * a * b).sum() for a in (y, x)] for b in (y, x)]
    return np.sqrt(np.linalg.eigvalsh(moments))[::-1]


def test_blind_blurs_have_the_widths_asked_for():
    degradation = blind(
        blur_sigma=(1.0, 3.0), blur_probability=0.8, anisotropic_probability=0.25
    )  # fmt: skip
    rng = np.random.default_rng(0)
    drawn = [
        D.sample_parameters(degradation, rng, (2, 2, 3))["orders"][0]["blur"] for _ in range(800)
    ]
    found = np.array([widths(blur) for blur in drawn if blur is not None])
    assert len(found) / 800 == pytest.approx(0.8, abs=0.04)
    # The tails beyond four sigmas are cut off.
    assert 0.99 < found.min() < 1.05
    assert 2.95 < found.max() < 3.01
    assert (found[:, 0] > 1.001 * found[:, 1]).mean() == pytest.approx(0.25, abs=0.04)


@pytest.mark.faults
@pytest.mark.parametrize("scale", [2, 3, 4, 8])
@pytest.mark.parametrize("name", ["blind", "second_order"])
def test_a_flat_image_stays_flat_without_noise(name, scale):
    fields = {"blur_probability": 1.0, "anisotropic_probability": 1.0, "sinc_probability": 1.0}
    flat = np.full((48, 72, 3), 201, np.uint8)
    lr = run(blind(name, scale=scale, second_blur_probability=1.0, **fields), flat)
    np.testing.assert_array_equal(lr, np.full((48 // scale, 72 // scale, 3), 201, np.uint8))


@pytest.mark.parametrize("name", D.NAMES)
@pytest.mark.parametrize("scale", resampling.SCALES)
def test_the_lr_image_has_its_size_and_is_the_generator_s_alone(name, scale):
    image = picture(48, 72)
    degradation = D.Degradation(name=name, scale=scale)
    first, again, other = (run(degradation, image, seed) for seed in (5, 5, 6))
    assert first.shape == (48 // scale, 72 // scale, 3)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, again)
    assert (first != other).any() == (name not in ("bicubic", "bilinear"))


def test_noise_of_both_orders_has_the_stated_variance():
    gray = np.full((512, 512, 3), 128, np.uint8)
    between = {"name": "second_order", "kernels": ("box",), "resize": (2.0, 2.0)}
    rounding = 1 / 12
    read = run(blind(noise_sigma=(8.0, 8.0), noise_probability=1.0), gray)
    assert read.var() == pytest.approx(8.0**2 + rounding, rel=0.03)
    shot = run(blind(photons=(100.0, 100.0), photons_probability=1.0), gray)
    assert shot.var() == pytest.approx(255**2 * 128 / 255 / 100, rel=0.03)
    # The second order's reduction averages four pixels of the first.
    first = run(blind(**between, noise_sigma=(8.0, 8.0), noise_probability=1.0), gray)
    assert first.var() == pytest.approx((8.0**2 + rounding) / 4 + rounding, rel=0.03)
    second = {"second_noise_sigma": (6.0, 6.0), "second_noise_probability": 1.0}
    both = run(blind(**between, **second, noise_sigma=(8.0, 8.0), noise_probability=1.0), gray)
    assert both.var() == pytest.approx((8.0**2 + rounding) / 4 + 6.0**2 + rounding, rel=0.03)


def test_a_second_order_that_does_nothing_leaves_the_first():
    image = picture(64, 48)
    first = {"blur_sigma": (1.5, 1.5), "blur_probability": 1.0, "resize": (1.0, 1.0)}
    one = run(blind(**first), image)
    np.testing.assert_array_equal(run(blind("second_order", **first), image), one)
    second = {"second_blur_sigma": (1.0, 1.0), "second_blur_probability": 1.0}
    two = run(blind("second_order", **first, **second), image)
    assert two.var() < 0.95 * one.var()


def test_the_image_between_is_never_larger_than_hr():
    degradation = blind("second_order", scale=2, resize=(8.0, 8.0))
    drawn = D.sample_parameters(degradation, np.random.default_rng(0), (5, 7, 3))
    assert [order["noise"].shape for order in drawn["orders"]] == [(10, 14, 3), (5, 7, 3)]


def test_ringing_and_jpeg_come_last_in_either_order():
    image = picture(96, 96)
    degradation = blind(
        "second_order",
        resize=(1.0, 1.0),
        sinc_probability=1.0,
        sinc_cutoff=(0.6, 0.6),
        second_jpeg_probability=1.0,
        second_jpeg_quality=(70, 70),
    )
    rng = np.random.default_rng(0)
    drawn = [D.sample_parameters(degradation, rng, (24, 24, 3)) for _ in range(20)]
    assert {parameters["jpeg_last"] for parameters in drawn} == {True, False}
    reduced = run(blind(resize=(1.0, 1.0)), image)
    sinc = degradation_steps.sinc_filter(0.6)

    def rung(image):
        made = degradation_steps.filtered(image.astype(np.float32), sinc)
        return resampling.round_to_uint8(made)

    expected = {
        True: degradation_steps.jpeg(rung(reduced), 70),
        False: rung(degradation_steps.jpeg(reduced, 70)),
    }
    assert (expected[True] != expected[False]).any()
    for parameters in drawn[:4]:
        got = D.degrade(image, degradation, parameters)
        np.testing.assert_array_equal(got, expected[parameters["jpeg_last"]])


def test_evaluation_is_seeded_by_seed_and_name():
    def draw(*key):
        return D.evaluation_rng(*key).random()

    assert draw(0, "a") == draw(0, "a")
    assert len({draw(0, "a"), draw(0, "b"), draw(1, "a")}) == 3


def test_what_runs_on_the_device():
    assert D.needs_host(D.Degradation(name="bicubic")) is None
    assert D.needs_host(microscope()) is None
    assert D.needs_host(microscope(jpeg_probability=0.1)).startswith("JPEG degradation runs on the")
    assert D.needs_host(D.Degradation(name="blind")).endswith("'blind' runs on the host only")


def test_config_is_read_and_checked():
    read = D.Degradation.from_config({"name": "microscope", "noise_sigma": [1, 2]}, 2)
    assert read == D.Degradation(name="microscope", noise_sigma=(1, 2), scale=2)
    assert D.Degradation.from_config(None, 4) == D.Degradation()
    hash(read)


@pytest.mark.faults
@pytest.mark.parametrize(
    ("config", "scale", "match"),
    [
        ({"name": "cubic"}, 4, r"'cubic'.*bicubic, .*, blind, second_order"),
        ({"kernel": "sinc"}, 4, r"'sinc'.*lanczos3"),
        ({"blurr": 1}, 4, r"degradation.blurr is not known.*blur_sigma"),
        ({"blur_sigma": (2.0, 1.0)}, 4, r"blur_sigma=\(2.0, 1.0\)"),
        ({"noise_sigma": (-1.0, 1.0)}, 4, "noise_sigma"),
        ({"jpeg_quality": (0, 90)}, 4, "jpeg_quality"),
        ({"photons": 100}, 4, "photons=100"),
        ({"blur_probability": 1.5}, 4, "blur_probability=1.5"),
        ({"kernels": ("box", "nearest")}, 4, r"'nearest'.*lanczos3"),
        ({"kernels": ()}, 4, r"kernels=\(\)"),
        ({"kernels": "box"}, 4, "kernels='box'"),
        ({"resize": (0.0, 1.0)}, 4, r"resize=\(0.0, 1.0\).*from 0.25 to 8"),
        ({"second_photons": (0, 1)}, 4, r"second_photons=\(0, 1\)"),
        ({"second_jpeg_probability": -1}, 4, "second_jpeg_probability=-1"),
        ({"sinc_probability": "often"}, 4, "sinc_probability='often'"),
        ({"sinc_cutoff": (0.5, 1.5)}, 4, "sinc_cutoff"),
        ({"clean_probability": 2}, 4, "clean_probability=2"),
        ({}, 5, r"5.*\[2, 3, 4, 8\]"),
    ],
)
def test_bad_config_is_refused(config, scale, match):
    with pytest.raises(UserError, match=match):
        D.Degradation.from_config(config, scale)
