import jax
import jax.numpy as jnp
import numpy as np
import pytest

from histojax.errors import UserError
from histojax.imaging import resampling
from tests.data.pictures import picture, pillow


@pytest.mark.parametrize("kernel", resampling.KERNELS)
@pytest.mark.parametrize(("height", "width", "scale"), [(96, 64, 4), (48, 75, 3), (64, 120, 8)])
def test_downsample_is_pillows(kernel, height, width, scale):
    image = picture(height, width)
    expected = pillow(image, height // scale, width // scale, kernel)
    on_host = resampling.downsample(image, scale, kernel)
    on_device = resampling.downsample(jnp.asarray(image), scale, kernel)
    assert isinstance(on_host, np.ndarray)
    assert isinstance(on_device, jax.Array)
    assert on_host.dtype == on_device.dtype == np.uint8
    np.testing.assert_array_equal(on_host, expected)
    difference = np.abs(np.asarray(on_device).astype(int) - expected)
    assert difference.max() <= 1
    assert difference.mean() < 0.05


@pytest.mark.parametrize("kernel", resampling.KERNELS)
def test_upsample_is_pillows(kernel):
    image = picture(20, 33)
    expected = pillow(image, 80, 132, kernel)
    np.testing.assert_array_equal(resampling.upsample(image, 4, kernel), expected)
    difference = np.abs(
        np.asarray(resampling.upsample(jnp.asarray(image), 4, kernel)).astype(int) - expected
    )
    assert difference.max() <= 1
    assert difference.mean() < 0.05


def test_float_images_are_neither_rounded_nor_clipped():
    image = picture(32, 48).astype(np.float32) / 255
    on_host, on_device = (
        resampling.downsample(image, 4),
        resampling.downsample(jnp.asarray(image), 4),
    )
    assert on_host.dtype == on_device.dtype == np.float32
    np.testing.assert_allclose(on_host, on_device, atol=1e-5)
    step = np.zeros((8, 32, 1), np.float32)
    step[:, 16:] = 1
    assert resampling.downsample(step, 4).max() > 1.01


def test_double_precision_stays_double():
    # Rounded to float32 on the way, devices of which each has a part of a batch disagree by 1e-8.
    values = picture(12, 8)
    with jax.enable_x64(True):
        image = jnp.asarray(values, jnp.float64) / 255
        reduced = resampling.downsample(image, 4)
        assert reduced.dtype == jnp.float64
        rows, columns = (
            resampling.resize_weights(n, n // 4, "bicubic").astype(float) for n in (12, 8)
        )
        expected = np.einsum("oh,pw,hwc->opc", rows, columns, values / 255)
        np.testing.assert_allclose(reduced, expected, rtol=1e-13)
        assert resampling.upsample(image.astype(jnp.bfloat16), 2).dtype == jnp.float32


def test_a_ramp_keeps_its_values_at_block_centers():
    ramp = np.broadcast_to(np.arange(64, dtype=np.float32)[None, :, None], (16, 64, 1))
    for kernel in resampling.KERNELS:
        reduced = resampling.downsample(jnp.asarray(ramp), 4, kernel)
        np.testing.assert_allclose(reduced[0, 4:-4, 0], 4 * np.arange(4, 12) + 1.5, atol=1e-3)


def test_box_is_the_mean_of_blocks_also_with_leading_axes():
    images = np.random.default_rng(0).random((2, 3, 8, 12, 5)).astype(np.float32)
    expected = images.reshape(2, 3, 2, 4, 3, 4, 5).mean(axis=(3, 5))
    np.testing.assert_allclose(resampling.downsample(images, 4, "box"), expected, atol=1e-6)
    np.testing.assert_allclose(
        resampling.downsample(jnp.asarray(images), 4, "box"), expected, atol=1e-6
    )


def test_weights_sum_to_one_and_mirror():
    for kernel in resampling.KERNELS:
        for sizes in ((40, 10), (10, 40), (45, 15)):
            weights = resampling.resize_weights(*sizes, kernel)
            np.testing.assert_allclose(weights.sum(1), 1, atol=1e-6)
            if kernel != "box":
                np.testing.assert_allclose(weights, weights[::-1, ::-1], atol=1e-6)


@pytest.mark.faults
def test_bad_sizes_and_names_are_refused():
    with pytest.raises(UserError, match="30x32"):
        resampling.downsample(np.zeros((30, 32, 3), np.uint8), 4)
    with pytest.raises(UserError, match="'area'"):
        resampling.downsample(np.zeros((32, 32, 3), np.uint8), 4, "area")
    with pytest.raises(UserError, match="scale factor 6"):
        resampling.upsample(np.zeros((32, 32, 3), np.uint8), 6)


@pytest.mark.parametrize("rows", [1, 3, 8])
def test_labels_take_the_pixel_that_each_centre_lies_in(rows):
    labels = np.arange(8 * 6, dtype=np.int32).reshape(8, 6)

    def on(size, most=512):
        grid = resampling.NearestRows((8, 6), size)
        strips = (labels[y : y + rows] for y in range(0, 8, rows))
        pieces = [piece for strip in strips for piece in grid.pieces(strip, most)]
        assert max(map(len, pieces)) <= most
        return np.concatenate(pieces)

    np.testing.assert_array_equal(on((8, 6)), labels)
    np.testing.assert_array_equal(on((24, 12), most=2), labels.repeat(3, 0).repeat(2, 1))
    # Centres at 1, 3, 5, 7 of 8 rows and at 1.5, 4.5 of 6 columns.
    np.testing.assert_array_equal(on((4, 2)), labels[1::2, 1::3])
    # Centres at 0.8, 2.4, 4, 5.6, 7.2 and at 0.75, 2.25, 3.75, 5.25.
    np.testing.assert_array_equal(on((5, 4)), labels[[0, 2, 4, 5, 7]][:, [0, 2, 3, 5]])
