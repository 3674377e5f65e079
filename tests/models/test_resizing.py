import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from PIL import Image

from histojax.models import resizing


def test_pixel_shuffle_has_the_order_of_pytorch():
    r, channels = 3, 2
    x = jnp.arange(1 * 2 * 4 * channels * r * r, dtype=jnp.float32).reshape(1, 2, 4, -1)
    y = np.asarray(resizing.pixel_shuffle(x, r))
    assert y.shape == (1, 6, 12, 2)
    for row in range(6):
        for column in range(12):
            for c in range(channels):
                k = c * r * r + (row % r) * r + column % r
                assert y[0, row, column, c] == x[0, row // r, column // r, k]
    np.testing.assert_array_equal(resizing.pixel_unshuffle(jnp.asarray(y), r), x)


@pytest.mark.parametrize("r", [2, 3, 4, 8])
@pytest.mark.parametrize(
    ("method", "resample"),
    [("bilinear", Image.Resampling.BILINEAR), ("bicubic", Image.Resampling.BICUBIC)],
)
@pytest.mark.parametrize("size", [(7, 5), (1, 3)])
def test_upsample_is_pillows_to_float_accuracy_borders_included(r, method, resample, size):
    h, w = size
    x = np.random.default_rng(r).random((2, h, w, 3), np.float32)
    y = jax.jit(lambda x: resizing.upsample(x, r, method))(x)
    for b in range(2):
        for c in range(3):
            plane = Image.fromarray(x[b, :, :, c]).resize((w * r, h * r), resample)
            np.testing.assert_allclose(y[b, :, :, c], np.asarray(plane), atol=2e-6)


def test_bilinear_has_half_pixel_centers():
    x = jnp.array([0.0, 1.0]).reshape(1, 1, 2, 1)
    np.testing.assert_allclose(
        resizing.upsample(x, 2, "bilinear")[0, 0, :, 0], [0, 0.25, 0.75, 1], atol=1e-7
    )


@pytest.mark.parametrize("r", [2, 3])
@pytest.mark.parametrize("size", [(7, 4), (1, 2)])
def test_align_corners_interpolates_between_the_corner_pixels(r, size):
    # Output pixel o lies at o (n - 1) / (r n - 1) of the input: from its first to its last pixel.
    h, w = size
    x = np.random.default_rng(0).random((h, w))
    rows = np.linspace(0, h - 1, r * h)
    columns = np.linspace(0, w - 1, r * w)
    expected = np.stack([np.interp(rows, np.arange(h), x[:, j]) for j in range(w)], 1)
    expected = np.stack([np.interp(columns, np.arange(w), row) for row in expected])
    y = resizing.upsample(jnp.asarray(x[None, :, :, None]), r, "bilinear_align_corners")
    np.testing.assert_allclose(y[0, :, :, 0], expected, atol=1e-6)


def test_nearest_repeats_pixels():
    y = resizing.nearest_upsample(jnp.arange(4.0).reshape(1, 2, 2, 1), 2)
    np.testing.assert_array_equal(y[0, :, :, 0], np.kron([[0, 1], [2, 3]], np.ones((2, 2))))


def test_block_means_undo_repetition():
    x = jax.random.uniform(jax.random.key(0), (2, 3, 4, 3))
    np.testing.assert_allclose(resizing.block_mean(resizing.nearest_upsample(x, 3), 3), x, 1e-6)


def test_gaussian_blur_is_normalized_over_the_image():
    x = np.random.default_rng(0).random((1, 9, 14, 2), np.float32)
    y = jax.jit(lambda x: resizing.gaussian_blur(x, 1.5))(x)

    def blurred(image):
        return scipy.ndimage.gaussian_filter(image, (0, 1.5, 1.5, 0), mode="constant", radius=5)

    assert resizing.gaussian_radius(1.5) == 5
    np.testing.assert_allclose(y, blurred(x) / blurred(np.ones_like(x)), rtol=1e-5)


def test_an_unknown_method_is_refused_with_the_choices():
    with pytest.raises(ValueError, match="bilinear, bicubic, bilinear_align_corners"):
        resizing.upsample(jnp.zeros((1, 2, 2, 1)), 2, "lanczos")


def test_a_filter_has_a_kernel_for_each_phase():
    rng = np.random.default_rng(0)
    x, kernels = rng.random((2, 6, 4, 3), np.float32), rng.random((2, 2, 5, 5), np.float32)
    extended = np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect")
    expected = np.zeros((2, 12, 8, 3))
    for i, j in np.ndindex(12, 8):
        window = extended[:, i // 2 : i // 2 + 5, j // 2 : j // 2 + 5]
        expected[:, i, j] = np.einsum("byxc,yx->bc", window, kernels[i % 2, j % 2])
    np.testing.assert_allclose(resizing.filtered(x, kernels), expected, rtol=1e-5)
