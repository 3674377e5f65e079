import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from PIL import Image

from histojax.data import degradation as D
from histojax.errors import UserError

PILLOW = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "box": Image.Resampling.BOX,
    "lanczos3": Image.Resampling.LANCZOS,
}


def picture(height, width, seed=0):
    """Smooth structure, hard edges and noise, so that kernels overshoot and borders matter."""
    rng = np.random.default_rng(seed)
    image = scipy.ndimage.gaussian_filter(rng.random((height, width, 3)), (2, 2, 0))
    image = (image - image.min()) / np.ptp(image) * 255
    image[height // 3 : height // 2, width // 4 : width // 2] = 0
    image[: height // 5] = 255
    return np.clip(image + rng.normal(0, 10, image.shape), 0, 255).astype(np.uint8)


def pillow(image, height, width, kernel):
    return np.asarray(Image.fromarray(image).resize((width, height), PILLOW[kernel]))


@pytest.mark.parametrize("kernel", D.KERNELS)
@pytest.mark.parametrize(("height", "width", "scale"), [(96, 64, 4), (48, 75, 3), (64, 120, 8)])
def test_downsample_is_pillows(kernel, height, width, scale):
    image = picture(height, width)
    expected = pillow(image, height // scale, width // scale, kernel)
    on_host = D.downsample(image, scale, kernel)
    on_device = D.downsample(jnp.asarray(image), scale, kernel)
    assert isinstance(on_host, np.ndarray)
    assert isinstance(on_device, jax.Array)
    assert on_host.dtype == on_device.dtype == np.uint8
    np.testing.assert_array_equal(on_host, expected)
    difference = np.abs(np.asarray(on_device).astype(int) - expected)
    assert difference.max() <= 1
    assert difference.mean() < 0.05


@pytest.mark.parametrize("kernel", D.KERNELS)
def test_upsample_is_pillows(kernel):
    image = picture(20, 33)
    expected = pillow(image, 80, 132, kernel)
    np.testing.assert_array_equal(D.upsample(image, 4, kernel), expected)
    difference = np.abs(
        np.asarray(D.upsample(jnp.asarray(image), 4, kernel)).astype(int) - expected
    )
    assert difference.max() <= 1
    assert difference.mean() < 0.05


def test_float_images_are_neither_rounded_nor_clipped():
    image = picture(32, 48).astype(np.float32) / 255
    on_host, on_device = D.downsample(image, 4), D.downsample(jnp.asarray(image), 4)
    assert on_host.dtype == on_device.dtype == np.float32
    np.testing.assert_allclose(on_host, on_device, atol=1e-5)
    step = np.zeros((8, 32, 1), np.float32)
    step[:, 16:] = 1
    assert D.downsample(step, 4).max() > 1.01


def test_a_ramp_keeps_its_values_at_block_centres():
    ramp = np.broadcast_to(np.arange(64, dtype=np.float32)[None, :, None], (16, 64, 1))
    for kernel in D.KERNELS:
        reduced = D.downsample(jnp.asarray(ramp), 4, kernel)
        np.testing.assert_allclose(reduced[0, 4:-4, 0], 4 * np.arange(4, 12) + 1.5, atol=1e-3)


def test_box_is_the_mean_of_blocks_also_with_leading_axes():
    images = np.random.default_rng(0).random((2, 3, 8, 12, 5)).astype(np.float32)
    expected = images.reshape(2, 3, 2, 4, 3, 4, 5).mean(axis=(3, 5))
    np.testing.assert_allclose(D.downsample(images, 4, "box"), expected, atol=1e-6)
    np.testing.assert_allclose(D.downsample(jnp.asarray(images), 4, "box"), expected, atol=1e-6)


def test_weights_sum_to_one_and_mirror():
    for kernel in D.KERNELS:
        for sizes in ((40, 10), (10, 40), (45, 15)):
            weights = D.resize_weights(*sizes, kernel)
            np.testing.assert_allclose(weights.sum(1), 1, atol=1e-6)
            if kernel != "box":
                np.testing.assert_allclose(weights, weights[::-1, ::-1], atol=1e-6)


@pytest.mark.parametrize("sigma", [0.0, 0.3, 1.7, 4.0])
def test_blur_is_the_sampled_gaussian_with_reflected_borders(sigma):
    signal = np.random.default_rng(0).random(40)
    expected = scipy.ndimage.gaussian_filter1d(signal, sigma, truncate=9.0) if sigma else signal
    for namespace in (np, jnp):
        weights = D.blur_weights(40, namespace.asarray(sigma, dtype=np.float32))
        np.testing.assert_allclose(weights @ signal, expected, atol=1e-5)


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
    expected = D.downsample(blurred, 4)
    got = run(microscope(blur_sigma=(3.0, 3.0), blur_probability=1.0), image)
    np.testing.assert_allclose(got, np.clip(expected, 0, 255), atol=0.51)


def test_noise_has_the_stated_variance():
    grey = np.full((256, 256, 3), 128, np.uint8)
    read = run(microscope(noise_sigma=(8.0, 8.0), noise_probability=1.0), grey)
    assert read.std() == pytest.approx((8.0**2 + 1 / 12) ** 0.5, rel=0.03)
    shot = run(microscope(photons=(100.0, 100.0), photons_probability=1.0), grey)
    assert shot.std() == pytest.approx(255 * (128 / 255 / 100) ** 0.5, rel=0.03)
    assert shot.mean() == pytest.approx(128, abs=0.6)


def test_jpeg_is_the_last_step():
    image = picture(64, 64)
    noisy = run(microscope(noise_sigma=(5.0, 5.0), noise_probability=1.0), image)
    settings = {"noise_sigma": (5.0, 5.0), "noise_probability": 1.0, "jpeg_quality": (40, 40)}
    got = run(microscope(**settings, jpeg_probability=1.0), image)
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


def test_evaluation_is_seeded_by_seed_and_name():
    def draw(*key):
        return D.evaluation_rng(*key).random()

    assert draw(0, "a") == draw(0, "a")
    assert len({draw(0, "a"), draw(0, "b"), draw(1, "a")}) == 3


def test_what_runs_on_the_device():
    assert D.runs_on_device(D.Degradation(name="bicubic"))
    assert D.runs_on_device(microscope())
    jpeg = microscope(jpeg_probability=0.1)
    assert not D.runs_on_device(jpeg)
    image = jnp.zeros((16, 16, 3), jnp.uint8)
    parameters = D.sample_parameters(jpeg, jax.random.key(0), (4, 4, 3))
    with pytest.raises(UserError, match=r"jpeg_probability=0\.1"):
        D.degrade(image, jpeg, parameters)


def test_config_is_read_and_checked():
    read = D.Degradation.from_config({"name": "microscope", "noise_sigma": [1, 2]}, 2)
    assert read == D.Degradation(name="microscope", noise_sigma=(1, 2), scale=2)
    assert D.Degradation.from_config(None, 4) == D.Degradation()
    hash(read)


@pytest.mark.faults
@pytest.mark.parametrize(
    ("config", "scale", "match"),
    [
        ({"name": "cubic"}, 4, r"'cubic'.*\['bicubic', 'bilinear', 'microscope'\]"),
        ({"kernel": "sinc"}, 4, r"'sinc'.*lanczos3"),
        ({"blurr": 1}, 4, r"'blurr'.*blur_sigma"),
        ({"blur_sigma": (2.0, 1.0)}, 4, r"blur_sigma=\(2.0, 1.0\)"),
        ({"noise_sigma": (-1.0, 1.0)}, 4, "noise_sigma"),
        ({"jpeg_quality": (0, 90)}, 4, "jpeg_quality"),
        ({"photons": 100}, 4, "photons=100"),
        ({"blur_probability": 1.5}, 4, "blur_probability=1.5"),
        ({}, 5, r"5.*\[2, 3, 4, 8\]"),
    ],
)
def test_bad_config_is_refused(config, scale, match):
    with pytest.raises(UserError, match=match):
        D.Degradation.from_config(config, scale)


@pytest.mark.faults
def test_bad_sizes_and_names_are_refused():
    with pytest.raises(UserError, match="30x32"):
        D.downsample(np.zeros((30, 32, 3), np.uint8), 4)
    with pytest.raises(UserError, match="'area'"):
        D.downsample(np.zeros((32, 32, 3), np.uint8), 4, "area")
    with pytest.raises(UserError, match="scale factor 6"):
        D.upsample(np.zeros((32, 32, 3), np.uint8), 6)
