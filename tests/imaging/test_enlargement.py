import jax
import jax.numpy as jnp
import numpy as np
import pytest

from histojax.errors import UserError
from histojax.imaging import enlargement, resampling, tiling
from tests.data.pictures import picture, pillow

# Input px around a pixel that decide what becomes of it; a round of back-projection adds 4.
HALOS = {"bicubic": 2, "lanczos": 3, "back_projection": 2 + 4 * enlargement.ROUNDS, "linear": 5}


@pytest.mark.parametrize("name", enlargement.ENHANCERS)
def test_host_and_device_agree(name):
    enhance = enlargement.ENHANCERS[name]
    images = np.stack([picture(12, 21), picture(21, 12).transpose(1, 0, 2)])
    on_host, on_device = enhance(images, 4), enhance(jnp.asarray(images), 4)
    assert isinstance(on_host, np.ndarray)
    assert isinstance(on_device, jax.Array)
    assert on_host.shape == on_device.shape == (2, 48, 84, 3)
    assert on_host.dtype == on_device.dtype == np.uint8
    np.testing.assert_array_equal(on_host[1], enhance(images[1], 4))
    assert np.abs(on_host.astype(int) - on_device).max() <= 1


@pytest.mark.parametrize("name", enlargement.ENHANCERS)
def test_tiles_agree_with_the_whole_at_the_halo(name):
    def windows(images):
        return {"sr": enlargement.ENHANCERS[name](images, 4)}

    image = picture(60, 75)
    fields = {"halo": HALOS[name], "scale": 4, "stride": 1, "batch": 1}
    whole, tiles = (
        tiling.assemble(tiling.tiled(windows, image, core=core, **fields))["sr"].astype(int)
        for core in (75, 16)
    )
    # Weights of one kernel differ in the last bit by where a window begins.
    assert np.abs(whole - tiles).max() <= 1
    assert np.mean(whole != tiles) < 1e-3


@pytest.mark.parametrize("name", ["bicubic", "lanczos", "linear"])
def test_nothing_beyond_the_halo_counts_and_its_border_does(name):
    image = np.full((31, 31, 3), 90, np.uint8)
    dotted = image.copy()
    dotted[15, 15] = 200
    enhance = enlargement.ENHANCERS[name]
    changed = np.argwhere((enhance(image, 4) != enhance(dotted, 4)).any(-1)) // 4
    assert np.abs(changed - 15).max() == HALOS[name]


@pytest.mark.parametrize("name", enlargement.ENHANCERS)
def test_a_flat_image_stays_flat(name):
    for level in (0, 90, 255):
        image = np.full((4, 6, 3), level, np.uint8)
        assert np.abs(enlargement.ENHANCERS[name](image, 4).astype(int) - level).max() == 0


def test_bicubic_and_lanczos_are_pillows():
    image = picture(12, 21)
    for name, kernel in (("bicubic", "bicubic"), ("lanczos", "lanczos3")):
        expected = pillow(image, 48, 84, kernel)
        np.testing.assert_array_equal(enlargement.ENHANCERS[name](image, 4), expected)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_reduction_of_a_back_projection_is_the_input(scale):
    image = picture(24, 36) // 2 + 64  # which leaves room for overshoot
    errors = {
        name: np.abs(
            resampling.downsample(enlargement.ENHANCERS[name](image, scale), scale).astype(int)
            - image
        )
        for name in ("bicubic", "back_projection")
    }
    assert errors["back_projection"].mean() < 0.1 * errors["bicubic"].mean()


def test_the_linear_filter_has_one_scale():
    assert enlargement.names(4) == ["bicubic", "lanczos", "back_projection", "linear"]
    assert "linear" not in enlargement.names(2)
    with pytest.raises(UserError, match="enlarges x4 alone, and not x2: take one of bicubic, lanc"):
        enlargement.linear(picture(8, 8), 2)
