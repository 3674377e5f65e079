import numpy as np
import pytest

from histojax.errors import UserError
from histojax.inference import tiled
from histojax.inference.regions import cut
from histojax.inference.regions.cut import (
    DamagedReader,
    Region,
    margin_for,
    regions_of,
    run_network,
)
from tests import tiny
from tests.inference.regions import dark

RNG = np.random.default_rng(2)
IMAGE = RNG.integers(0, 256, (300, 420, 3), np.uint8)


class Array:
    """An image as a reader, of which some parts (y, x, height, width) cannot be read."""

    def __init__(self, image, *broken):
        self.image, self.broken = image, broken
        self.height, self.width = image.shape[:2]

    def read(self, y, x, height, width):
        assert 0 <= y < y + height <= self.height
        assert 0 <= x < x + width <= self.width
        for top, left, rows, columns in self.broken:
            if y < top + rows and top < y + height and x < left + columns and left < x + width:
                raise UserError("a tile is damaged")
        return self.image[y : y + height, x : x + width]


def always(y, x, height, width):
    return True


def covered(found, height, width):
    """How many regions own each pixel."""
    count = np.zeros((height, width), int)
    for y, x, rows, columns in (region.owned for region in found):
        count[y : y + rows, x : x + columns] += 1
    return count


@pytest.mark.parametrize("size", [(1, 1), (300, 300), (301, 299), (70, 1000), (1000, 777)])
@pytest.mark.parametrize(("window", "stride"), [(512, 4), (600, 16), (4096, 1)])
def test_every_pixel_is_owned_once_and_seen_with_its_margin(size, window, stride):
    found = regions_of(*size, stride=stride, window=window, wanted=always)
    assert (covered(found, *size) == 1).all()
    assert [r.owned for r in found] == sorted(r.owned for r in found)
    for owned, seen in found:
        assert max(seen[2:]) <= window
        for axis in (0, 1):
            begin, end = owned[axis], owned[axis] + owned[axis + 2]
            assert seen[axis] % stride == 0
            assert seen[axis] in (0, begin - 128)
            last = seen[axis] + seen[axis + 2]
            assert last == size[axis] or last >= end + 128


def test_margins_and_sides_are_multiples_of_the_stride():
    found = regions_of(2000, 2000, stride=48, window=1000, wanted=always)
    # 128 px become 144, and 1000 - 2 * 144 = 712 become 672: three regions a side, of 667 px and
    # so of 672.
    assert found[-1] == Region((1344, 1344, 656, 656), (1200, 1200, 800, 800))


def test_regions_are_alike():
    found = regions_of(1000, 500, stride=4, window=512, wanted=always)
    # Of at most 256 px: four of 250, and so of 252, and two of 252 at most.
    assert {region.owned[2:] for region in found[:-2]} == {(252, 252), (252, 248)}
    assert len(found) == 8


def test_regions_without_tissue_are_left_out():
    found = regions_of(600, 600, stride=4, window=512, wanted=lambda y, x, *_: x == 200 > y)
    assert [region.owned for region in found] == [(0, 200, 200, 200)]
    assert found[0].name == "y000000-x000200"


@pytest.mark.faults
def test_the_margin_has_room_for_cells_and_their_neighbours():
    assert margin_for(0) == margin_for(20) == 128
    # A nucleus of 80 px, its cell of 40 px more, and one of a neighbour that ends there.
    assert margin_for(40) == 88 + 80


def test_a_window_that_holds_no_more_than_margins_is_refused():
    with pytest.raises(UserError, match=r"--window=383 is below 384 px: give more"):
        regions_of(10, 10, stride=1, window=383, wanted=always)
    assert len(regions_of(10, 10, stride=1, window=384, wanted=always)) == 1


@pytest.mark.parametrize("tile", [64, 128, 256])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("scale", [1, 2])
def test_regions_agree_with_the_whole(tile, batch, scale):
    network = dark.Network(scale, enhances=True).tiled
    whole = network(IMAGE)
    found = regions_of(*IMAGE.shape[:2], stride=4, window=200, margin=40, wanted=always)
    assert len(found) == 12
    made = run_network(network, Array(IMAGE), found, tile=tile, batch=batch, wanted=always)
    for seen, region in zip(made, found, strict=True):
        assert seen.region == region
        y, x, height, width = region.seen
        np.testing.assert_array_equal(seen.own, IMAGE[y : y + height, x : x + width])
        place = np.s_[y * scale : (y + height) * scale, x * scale : (x + width) * scale]
        np.testing.assert_array_equal(seen.outputs["sr"], whole["sr"][place])
        np.testing.assert_array_equal(seen.image, whole["sr"][place])
        np.testing.assert_allclose(seen.outputs["mask"], whole["mask"][place], atol=1e-5)


def test_a_trained_network_sees_in_regions_what_it_sees_in_the_whole():
    run = tiny.run("unet")
    network = tiled.predictor(run, largest=32)
    image = np.stack([IMAGE[:96, :80, 0]] * 3, axis=-1)
    whole = network(image)
    margin = 2 * network.stride
    found = regions_of(
        96, 80, stride=network.stride, window=2 * margin + 32, margin=margin, wanted=always
    )
    assert len(found) > 1
    for seen in run_network(network, Array(image), found, tile=32, batch=2, wanted=always):
        y, x, height, width = seen.region.seen
        for name, values in seen.outputs.items():
            expected = whole[name][y : y + height, x : x + width]
            np.testing.assert_allclose(values, expected, atol=1e-5)


def test_tiles_without_tissue_are_0_and_the_network_does_not_see_them():
    network = dark.Network()

    def wanted(y, x, height, width):
        return x < 128

    found = regions_of(300, 420, stride=4, window=4096, wanted=always)
    (seen,) = run_network(network.tiled, Array(IMAGE), found, tile=64, batch=1, wanted=wanted)
    assert network.windows == 10
    whole = dark.Network().tiled(IMAGE)["mask"]
    np.testing.assert_allclose(seen.outputs["mask"][:, :128], whole[:, :128], atol=1e-5)
    assert not seen.outputs["mask"][:, 128:].any()

    made = run_network(
        network.tiled, Array(IMAGE), found, tile=64, batch=1, wanted=lambda *_: False
    )
    assert next(made).outputs == {}


def test_a_last_batch_that_is_not_full_keeps_its_shape():
    shapes = []

    def windows(images):
        shapes.append(images.shape)
        return {"mask": images[..., :1].astype(np.float32)}

    network = tiled.TiledNetwork(windows, halo=0, stride=1, scale=1, largest=64)
    found = [Region((0, 0, 100, 150), (0, 0, 100, 150))]
    (seen,) = run_network(network, Array(IMAGE), found, tile=64, batch=4, wanted=always)
    assert shapes == [(4, 64, 64, 3)] * 2
    np.testing.assert_array_equal(seen.outputs["mask"], IMAGE[:100, :150, :1])


def test_no_regions_give_nothing():
    network = dark.Network().tiled
    assert not list(run_network(network, Array(IMAGE), [], tile=64, batch=1, wanted=always))


@pytest.mark.faults
def test_what_the_reader_refuses_reaches_the_caller():
    broken = Array(IMAGE, (0, 0, 9, 9))
    found = regions_of(300, 420, stride=4, window=4096, wanted=always)
    with pytest.raises(UserError, match="a tile is damaged"):
        list(run_network(dark.Network().tiled, broken, found, tile=64, batch=1, wanted=always))


@pytest.mark.faults
def test_damaged_blocks_are_white_and_named_once(monkeypatch):
    monkeypatch.setattr(cut, "_MOST_DAMAGED", 0.5)
    reader = DamagedReader(Array(IMAGE, (260, 10, 5, 5), (20, 300, 1, 1)))
    assert reader.check("a.svs") == ""
    whole = reader.read(0, 0, 300, 420)
    # Blocks of 256 px from the corner of the image, cut off at its edge.
    assert reader.damaged == {(256, 0, 44, 256), (0, 256, 256, 164)}
    assert (whole[256:, :256] == 255).all()
    assert (whole[:256, 256:] == 255).all()
    np.testing.assert_array_equal(whole[:256, :256], IMAGE[:256, :256])
    np.testing.assert_array_equal(whole[256:, 256:], IMAGE[256:, 256:])
    # A part beside the damage is read, and the same block counts once.
    np.testing.assert_array_equal(reader.read(0, 256, 20, 40), IMAGE[:20, 256:296])
    part = reader.read(10, 290, 40, 20)
    assert (part == 255).all()
    assert len(reader.damaged) == 2
    # What is read twice counts twice, damaged or not.
    share = (44 * 256 + 256 * 164 + 800) / (300 * 420 + 2 * 800)
    assert reader.check("a.svs") == f"2 damaged parts ({share:.2%} of what was read) taken as white"


@pytest.mark.faults
def test_damage_above_1_percent_is_refused():
    image = np.zeros((2600, 2600, 3), np.uint8)
    reader = DamagedReader(Array(image, (0, 0, 1, 1)))
    reader.read(0, 0, 2600, 2600)
    # 256 * 256 of 2600 * 2600 px are 0.97 %.
    assert reader.check("a.svs").startswith("1 damaged part (0.97% of")
    reader = DamagedReader(Array(image, (0, 0, 1, 257)))
    reader.read(0, 0, 2600, 2600)
    with pytest.raises(UserError, match=r"a\.svs is damaged in 1\.9% of what was read, above 1%"):
        reader.check("a.svs")
