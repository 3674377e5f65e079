import functools
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from histojax.errors import UserError
from histojax.imaging import tiling

STRIDE, RADIUS, SCALE = 4, 16, 2


def _network_weights():
    rng = np.random.default_rng(0)
    shapes = [(3, 3, 3, 8), (3, 3, 8, 8), (3, 3, 8, 8), (3, 3, 8, 8), (3, 3, 8, 8), (3, 3, 16, 5)]
    return [rng.normal(size=s).astype(np.float32) / np.sqrt(9 * s[2]) for s in shapes]


WEIGHTS = _network_weights()


def _conv(x, kernel, stride=1, dilation=1):
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(dilation, dilation)] * 2,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def encoder_decoder(windows):
    """Two stride-2 levels, a skip, zero padding, and outputs at scales 2 and 1.

    Radii, px: 3x3 at stride 1, 1; 3x3 into stride 2, 1; dilated by 2 at stride 2, 4; 3x3 into
    stride 4, 2; 3x3 at stride 4, 4; nearest x4, 3; 3x3 at stride 1, 1. Together 16.
    """
    x = windows.astype(jnp.float32) / 255.0
    first = jax.nn.relu(_conv(x, WEIGHTS[0]))
    y = jax.nn.relu(_conv(first, WEIGHTS[1], stride=2))
    y = jax.nn.relu(_conv(y, WEIGHTS[2], dilation=2))
    y = jax.nn.relu(_conv(y, WEIGHTS[3], stride=2))
    y = jnp.repeat(jnp.repeat(_conv(y, WEIGHTS[4]), 4, 1), 4, 2)
    y = _conv(jnp.concatenate([first, y], -1), WEIGHTS[5])
    b, h, w, _ = y.shape
    sr = y[..., :4].reshape(b, h, w, 2, 2).transpose(0, 1, 3, 2, 4).reshape(b, 2 * h, 2 * w, 1)
    return {"sr": sr, "logit": y[..., 4]}


def _image(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


WHOLE = jax.jit(encoder_decoder)


def whole(image):
    """The network on the whole reflect-extended image: what tiles are to agree with."""
    size = [tiling.round_up(side, STRIDE) + 2 * RADIUS for side in image.shape[:2]]
    outputs = WHOLE(tiling.read_window(image, -RADIUS, -RADIUS, *size)[None])
    cropped = {}
    for name, scale in (("sr", SCALE), ("logit", 1)):
        top = scale * RADIUS
        bottom, right = (top + scale * side for side in image.shape[:2])
        cropped[name] = np.asarray(outputs[name][0, top:bottom, top:right])
    return cropped


def test_tiles_agree_with_the_whole_at_any_size():
    shapes = []

    @jax.jit
    def network(windows):
        shapes.append(windows.shape)
        return encoder_decoder(windows)

    sizes = [(17, 17), (96, 257), (255, 96), (257, 255), (1000, 1000), (1, 1), (2, 1), (5, 300)]
    for height, width in sizes:
        image = _image(height, width)
        tiles = tiling.tiled(network, image, core=128, halo=RADIUS, scale=SCALE, stride=STRIDE)
        joined = tiling.assemble(tiles)
        reference = whole(image)
        assert joined["sr"].shape == (height * SCALE, width * SCALE, 1)
        assert joined["logit"].shape == (height, width)
        for name in ("sr", "logit"):
            np.testing.assert_allclose(joined[name], reference[name], rtol=0, atol=1e-5)
    assert shapes == [(1, 160, 160, 3)]


def test_a_small_halo_or_unaligned_origin_does_not_agree():
    image = _image(96, 96)
    reference = whole(image)["logit"]

    def error(**geometry):
        tiles = tiling.tiled(WHOLE, image, core=32, scale=SCALE, **geometry)
        return np.abs(tiling.assemble(tiles)["logit"] - reference).max()

    assert error(halo=RADIUS, stride=STRIDE) < 1e-5
    assert error(halo=RADIUS - 8, stride=STRIDE) > 1e-3
    assert error(halo=RADIUS + 2, stride=1) > 1e-3
    assert error(halo=RADIUS + 2, stride=STRIDE) < 1e-5


@pytest.mark.parametrize("size", [1, 2, 17, 40])
def test_the_extension_is_numpys_reflection_repeated(size):
    image = _image(size, size)
    window = tiling.read_window(image, -50, -30, size + 100, size + 60)
    expected = np.pad(image, ((50, 50), (30, 30), (0, 0)), mode="reflect")
    np.testing.assert_array_equal(window, expected)


class CountingReader:
    """Reads from an array, inside its bounds only, and counts pixels and threads."""

    def __init__(self, image):
        self.image, (self.height, self.width) = image, image.shape[:2]
        self.largest, self.threads = 0, set()

    def read(self, y, x, height, width):
        assert y >= 0
        assert x >= 0
        assert y + height <= self.height
        assert x + width <= self.width
        self.largest = max(self.largest, height * width)
        self.threads.add(threading.get_ident())
        return self.image[y : y + height, x : x + width]


def _identity(windows):
    return {"copy": windows}


def test_a_reader_is_asked_for_one_window_at_most():
    image = _image(300, 210)
    reader = CountingReader(image)
    tiles = tiling.tiled(_identity, reader, core=32, halo=8)
    np.testing.assert_array_equal(tiling.assemble(tiles)["copy"], image)
    assert reader.largest == 48 * 48
    assert reader.threads
    assert threading.get_ident() not in reader.threads


def test_tiles_come_in_raster_order_cropped_to_the_image():
    shapes = []

    def network(windows):
        shapes.append(windows.shape)
        return {"copy": windows}

    tiles = list(tiling.tiled(network, _image(70, 100), core=32, halo=0))
    corners = [(y, x) for y in (0, 32, 64) for x in (0, 32, 64, 96)]
    assert [(tile.y, tile.x) for tile in tiles] == corners
    assert tiles[-1].outputs["copy"].shape == (6, 4, 3)
    assert shapes == [(1, 32, 32, 3)] * 12


@pytest.mark.parametrize(
    ("batch", "devices", "seen"),
    [
        (5, 1, [4, 4, 4]),
        (8, 1, [6, 6]),
        (7, 1, [6, 6]),
        (99, 1, [12]),
        # Six would be three on each of two devices of four, or all on one of seven.
        (8, 4, [8, 8]),
        (7, 7, [6, 6]),
        (14, 7, [14]),
    ],
)
def test_an_image_has_its_batches_in_equal_parts(batch, devices, seen):
    shapes, image = [], _image(70, 100)

    def network(windows):
        shapes.append(len(windows))
        return {"copy": windows}

    tiles = tiling.tiled(network, image, core=32, halo=8, batch=batch, devices=devices)
    np.testing.assert_array_equal(tiling.assemble(tiles)["copy"], image)
    assert shapes == seen


def test_a_last_batch_is_filled_up():
    def network(windows):
        assert len(windows) == 4
        return {"sum": windows.sum((1, 2, 3), keepdims=True)}

    corners = [(y, 0) for y in range(6)]
    made = list(tiling.by_batches(network, lambda y, x: np.full((2, 2, 3), y), corners, 4))
    assert [corner for corner, _ in made] == corners
    assert [outputs["sum"].item() for _, outputs in made] == [12 * y for y in range(6)]


def test_only_two_windows_are_in_flight():
    started = []

    def network(windows):
        started.append(len(windows))
        return {"copy": windows}

    tiles = tiling.tiled(network, _image(320, 32), core=32, halo=0)
    next(tiles)
    assert len(started) == 2
    next(tiles)
    assert len(started) == 3
    tiles.close()


def test_errors_of_the_reader_reach_the_caller():
    class Broken(CountingReader):
        def read(self, y, x, height, width):
            if y:
                raise UserError("The file is truncated.")
            return super().read(y, x, height, width)

    tiles = tiling.tiled(_identity, Broken(_image(64, 32)), core=32, halo=0)
    with pytest.raises(UserError, match="truncated"):
        list(tiles)


def test_strips_are_full_rows_of_tiles():
    image = _image(70, 100)
    tiles = tiling.tiled(_identity, image, core=32, halo=4)
    strips = list(tiling.strips(tiles))
    assert [strip["copy"].shape[:2] for strip in strips] == [(32, 100), (32, 100), (6, 100)]
    np.testing.assert_array_equal(np.concatenate([s["copy"] for s in strips]), image)


@pytest.mark.parametrize("rows", [1, 7, 16, 100])
@pytest.mark.parametrize("heights", [[50], [7, 0, 20, 23], [1] * 50])
def test_recut_keeps_every_row(heights, rows):
    image = _image(50, 3)
    pieces = list(tiling.recut(np.split(image, np.cumsum(heights)[:-1]), rows))
    np.testing.assert_array_equal(np.concatenate(pieces), image)
    assert [len(piece) for piece in pieces[:-1]] == [rows] * (50 // rows - (50 % rows == 0))


@pytest.mark.parametrize(
    ("sizes", "core"),
    [
        # One small image: its own size, up to the stride; nothing of the window is wasted.
        ([(96, 96)], 96),
        ([(17, 9)], 20),
        # 1000 in equal parts of 500 rather than 512 and 488.
        ([(1000, 1000)], 500),
        # All images of a set share one core: 256-px tiles fit both.
        ([(256, 256), (512, 512), (256, 256)], 256),
    ],
)
def test_core_size_wastes_little(sizes, core):
    assert tiling.core_size(sizes, halo=8, stride=4, largest=512) == core


def test_core_size_takes_large_cores_where_the_halo_is_large():
    assert tiling.core_size([(2048, 2048)], halo=128, stride=16, largest=512) == 512


@pytest.mark.parametrize(
    ("geometry", "words"),
    [
        ({"core": 30, "halo": 8, "stride": 4}, "30 px.*multiple of 4"),
        ({"core": 0, "halo": 8}, "0 px"),
        ({"core": 32, "halo": -1}, "-1 px is negative"),
    ],
)
def test_impossible_geometry_is_refused_before_anything_runs(geometry, words):
    with pytest.raises(UserError, match=words):
        tiling.tiled(_identity, _image(32, 32), **geometry)


def test_an_empty_image_and_a_tile_below_the_stride_are_refused():
    with pytest.raises(UserError, match="nothing to read"):
        tiling.tiled(_identity, np.zeros((0, 5, 3), np.uint8), core=4, halo=0)
    with pytest.raises(UserError, match="stride of 32"):
        tiling.core_size([(64, 64)], halo=0, stride=32, largest=16)


def test_outputs_that_are_no_multiple_of_the_window_are_named():
    shrink = functools.partial(lambda windows: {"valid": windows[:, 1:-1, 1:-1]})
    with pytest.raises(ValueError, match="'valid'"):
        list(tiling.tiled(shrink, _image(32, 32), core=32, halo=4))
