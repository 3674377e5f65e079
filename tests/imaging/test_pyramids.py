"""Levels of pyramids: which are found, and which is read for what is asked for."""

import numpy as np
import PIL.Image
import pytest
import tifffile

from histojax.imaging import mpp
from histojax.imaging.reader import ResampledReader, open_image

# As scanners have it: the sides of the levels are rounded down, and their factors 4.001 and 16.05.
HEIGHT, WIDTH = 3001, 4001
LEVELS = [(3001, 4001), (750, 1000), (187, 250)]
# The dot near the far corner: rows and columns, px of the full resolution.
DOT = np.s_[2880:2944, 3840:3904]
MIDDLE = 2911.5, 3871.5
TILES = {"tile": (128, 128), "photometric": "rgb", "compression": "adobe_deflate", "metadata": None}


def level(height, width):
    image = np.full((HEIGHT, WIDTH, 3), 240, np.uint8)
    image[DOT] = 0
    box = PIL.Image.Resampling.BOX
    return np.asarray(PIL.Image.fromarray(image).resize((width, height), box))


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    """A pyramid whose pages are not flagged as reduced."""
    path = tmp_path_factory.mktemp("pyramid") / "a.tif"
    with tifffile.TiffWriter(path) as file:
        for size in LEVELS:
            density = 4e4 * size[1] / WIDTH
            options = {"resolution": (density, density), "resolutionunit": "CENTIMETER"}
            file.write(level(*size), **TILES, **options)
    return path


@pytest.mark.faults
def test_pages_that_shrink_are_levels_whether_they_are_flagged_or_not(slide):
    with open_image(slide) as image:
        assert (image.height, image.width) == LEVELS[0]
        assert [(one.height, one.width) for one in image.reductions] == LEVELS[1:]
        np.testing.assert_array_equal(
            image.reductions[0].read(700, 940, 50, 60), level(*LEVELS[1])[700:, 940:]
        )
        assert image.mpp == pytest.approx(0.25)
    # Each page states the scale of its own px.
    with tifffile.TiffFile(slide) as file:
        stated = [next(iter(mpp.stated_in_tiff(file, page)))[1] for page in file.pages]
    assert [1e4 * size for size in stated] == pytest.approx([0.25, 1.00025, 4.001])


@pytest.mark.faults
@pytest.mark.parametrize("factor", [1 / 2, 1 / 4, 0.2499, 1 / 5, 1 / 16, 1 / 17])
def test_a_dot_in_the_far_corner_lies_at_the_same_um_at_every_level(slide, factor):
    with open_image(slide) as image:
        reader = ResampledReader(image, factor)
        assert (reader.height, reader.width) == (round(HEIGHT * factor), round(WIDTH * factor))
        y, x = round(2600 * factor), round(3500 * factor)
        part = reader.read(y, x, reader.height - y, reader.width - x)
        # The smallest level that is no smaller: 4.001 is taken for 4.
        assert (image.segments.decoded > 0) == (factor > 1 / 4)
    dark = 240.0 - part[..., 0]
    dark[dark < 24] = 0
    rows, columns = np.mgrid[: part.shape[0], : part.shape[1]]
    found = (
        ((rows * dark).sum() / dark.sum() + y + 0.5) * HEIGHT / reader.height - 0.5,
        ((columns * dark).sum() / dark.sum() + x + 0.5) * WIDTH / reader.width - 0.5,
    )
    # In px of the full resolution: a tenth of a px of what is read.
    assert found == pytest.approx(MIDDLE, abs=0.1 / factor + 0.25)
    # The dot keeps its area in um2.
    area = dark.sum() / 240 * (0.25 / factor) ** 2
    assert area == pytest.approx((64 * 0.25) ** 2, rel=0.06)


@pytest.mark.faults
def test_regions_of_a_level_are_cut_alike(slide):
    with open_image(slide) as image:
        reader = ResampledReader(image, 0.2)
        whole = reader.read(0, 0, reader.height, reader.width).astype(int)
        part = reader.read(560, 750, 37, 43).astype(int)
    assert np.abs(part - whole[560:597, 750:793]).max() <= 2


@pytest.mark.faults
def test_what_is_no_level_is_left_out(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (192, 256, 3), np.uint8)
    half, quarter = pixels[::2, ::2], pixels[::4, ::4]
    tiles = TILES | {"tile": (32, 32)}
    strips = {"photometric": "rgb", "metadata": None}
    with tifffile.TiffWriter(tmp_path / "a.svs") as file:
        file.write(pixels, **tiles)
        file.write(quarter, **strips)  # a thumbnail
        file.write(half, **tiles)
        file.write(quarter[..., 0], **tiles | {"photometric": "minisblack"})  # a mask
        file.write(pixels[:96:2, ::2], **tiles)  # of another shape
        file.write(quarter, description="macro 64x48", **tiles)
    with open_image(tmp_path / "a.svs") as image:
        assert [(one.height, one.width) for one in image.reductions] == [(96, 128)]
        np.testing.assert_array_equal(image.reductions[0].read(5, 7, 80, 90), half[5:85, 7:97])


@pytest.mark.faults
def test_a_level_that_is_not_all_there_is_left_out(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (192, 256, 3), np.uint8)
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as file:
        for step in (1, 2):
            file.write(pixels[::step, ::step], **TILES | {"tile": (32, 32)})
    with tifffile.TiffFile(path) as file:
        far = [path.stat().st_size + 1] * len(file.pages[1].dataoffsets)
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages[1].tags[324].overwrite(far)
    with open_image(path) as image:
        assert image.reductions == ()
        np.testing.assert_array_equal(image.read(0, 0, 192, 256), pixels)
        # The full resolution is read in its place.
        reader = ResampledReader(image, 0.5)
        assert reader.read(0, 0, 96, 128).shape == (96, 128, 3)


def test_levels_that_hang_on_the_image_are_found(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (128, 192, 3), np.uint8)
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(pixels, subifds=1, **TILES | {"tile": (32, 32)})
        file.write(pixels[::2, ::2], subfiletype=1, **TILES | {"tile": (32, 32)})
    with open_image(tmp_path / "a.tif") as image:
        (one,) = image.reductions
        np.testing.assert_array_equal(one.read(0, 0, 64, 96), pixels[::2, ::2])


def test_an_image_that_is_decoded_whole_has_no_levels(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for step in (1, 2):
            turned = [(274, 3, 1, 3, False)]
            file.write(pixels[::step, ::step], extratags=turned, **TILES | {"tile": (16, 16)})
    with open_image(tmp_path / "a.tif") as image:
        assert image.reductions == ()
        np.testing.assert_array_equal(image.read(0, 0, 64, 64), pixels[::-1, ::-1])
