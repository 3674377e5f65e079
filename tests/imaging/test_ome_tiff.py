import itertools
import os
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import openslide
import PIL.Image
import pytest
import tifffile

from histojax.errors import DiskError
from histojax.imaging import ome_tiff
from histojax.imaging.labels import read_labels
from histojax.imaging.reader import open_image
from tests import tiny

RNG = np.random.default_rng(4)
# Odd sides, so that every level is rounded up.
HEIGHT, WIDTH = 1_357, 2_101
COARSE = RNG.integers(0, 256, (HEIGHT // 16 + 1, WIDTH // 16 + 1, 3), np.uint8)
IMAGE = COARSE.repeat(16, 0).repeat(16, 1)[:HEIGHT, :WIDTH]


def in_strips(array, *rows):
    ends = [0, *np.cumsum(rows), len(array)]
    return [array[a:b] for a, b in itertools.pairwise(ends)]


def write(path, array=IMAGE, mpp=0.25, **options):
    height, width = array.shape[:2]
    strips = in_strips(array, height // 7, height // 2)
    ome_tiff.write(path, strips, height=height, width=width, mpp=mpp, **options)
    return path


def test_levels_halve_until_a_side_of_1024_px():
    assert ome_tiff.level_sizes(1024, 3) == [(1024, 3)]
    assert ome_tiff.level_sizes(1, 4097) == [(1, 4097), (1, 2049), (1, 1025), (1, 513)]


def test_half_an_image_is_the_mean_of_2_x_2_px():
    image = np.zeros((3, 3, 3), np.uint8)
    image[:2, :2, 0] = [[10, 20], [30, 41]]  # 25.25
    image[:2, 2, 1] = 10, 21  # the last column counts twice: 15.5, rounded up
    image[2, 2] = 7
    half = ome_tiff.half(image)
    np.testing.assert_array_equal(half[0, 0], [25, 0, 0])
    np.testing.assert_array_equal(half[0, 1], [0, 16, 0])
    np.testing.assert_array_equal(half[1, 1], [7, 7, 7])
    labels = np.arange(15).reshape(3, 5)
    np.testing.assert_array_equal(ome_tiff.half(labels), [[0, 2, 4], [10, 12, 14]])


def test_an_image_is_read_back_with_its_levels_and_scale(tmp_path):
    path = write(tmp_path / "a.tif", description="An image <& more>.")
    with tifffile.TiffFile(path) as file:
        assert file.is_bigtiff
        assert file.is_ome
        (series,) = file.series
        assert [level.shape for level in series.levels] == [
            (1357, 2101, 3),
            (679, 1051, 3),
            (340, 526, 3),
        ]
        np.testing.assert_array_equal(series.asarray(), IMAGE)
        expected = IMAGE
        for level in series.levels[1:]:
            expected = ome_tiff.half(expected)
            np.testing.assert_array_equal(level.asarray(), expected)
        # The scale of a level is that of its own px.
        for level, factor in zip(series.levels, (1, 2101 / 1051, 2101 / 526), strict=True):
            page = level.keyframe
            assert page.tags.valueof(296) == 3
            for tag in (282, 283):
                px, cm = page.tags.valueof(tag)
                assert 1e4 * cm / px == pytest.approx(0.25 * factor, rel=1e-6)
            assert page.is_reduced == (factor > 1)
        pixels = next(
            e for e in ElementTree.fromstring(file.ome_metadata).iter() if "SizeX" in e.attrib
        )
        assert pixels.get("SizeC") == "3"
        (channel,) = (e for e in pixels if e.tag.endswith("Channel"))
        # One channel of three samples: red, green and blue, no fluorescence.
        assert channel.get("SamplesPerPixel") == "3"
        for axis in "XY":
            assert float(pixels.get(f"PhysicalSize{axis}")) == 0.25
            assert pixels.get(f"PhysicalSize{axis}Unit") == "µm"
        assert "An image &lt;&amp; more&gt;." in file.ome_metadata


def test_other_readers_agree(tmp_path):
    path = write(tmp_path / "a.tif")
    with PIL.Image.open(path) as image:
        assert image.size == (WIDTH, HEIGHT)
        np.testing.assert_array_equal(np.asarray(image), IMAGE)
    with openslide.OpenSlide(path) as slide:
        assert slide.level_dimensions[0] == (WIDTH, HEIGHT)
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.25)
        region = np.asarray(slide.read_region((1_900, 1_200), 0, (201, 157)))
        np.testing.assert_array_equal(region[..., :3], IMAGE[1_200:, 1_900:])
    with open_image(path) as image:
        assert (image.mpp, image.mpp_from) == (0.25, "OME")
        assert [(r.height, r.width) for r in image.reductions] == [(679, 1051), (340, 526)]
        got = image.reductions[0].read(500, 700, 90, 80)
        np.testing.assert_array_equal(got, ome_tiff.half(IMAGE)[500:590, 700:780])


def test_colors_stay_in_their_order(tmp_path):
    image = np.zeros((40, 60, 3), np.uint8)
    for channel in range(3):
        image[:, 20 * channel : 20 * (channel + 1), channel] = 255
    path = write(tmp_path / "a.tif", image)
    with PIL.Image.open(path) as other, openslide.OpenSlide(path) as slide:
        for got in (np.asarray(other), np.asarray(slide.read_region((0, 0), 0, (60, 40)))):
            np.testing.assert_array_equal(got[..., :3], image)


def test_a_scale_that_is_unknown_is_not_stated(tmp_path):
    path = write(tmp_path / "a.tif", IMAGE[:50, :50], mpp=None)
    with tifffile.TiffFile(path) as file:
        assert "PhysicalSize" not in file.ome_metadata
    with open_image(path) as image:
        assert image.mpp is None


@pytest.mark.faults
def test_the_micro_sign_does_not_depend_on_the_locale(tmp_path):
    path = tmp_path / "a.tif"
    code = (
        "import numpy as np; from histojax.imaging import ome_tiff; "
        f"ome_tiff.write({str(path)!r}, [np.zeros((9, 9, 3), np.uint8)], height=9, width=9, mpp=2)"
    )
    plain = os.environ | {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run([sys.executable, "-c", code], env=plain, check=True)
    with tifffile.TiffFile(path) as file:
        assert 'PhysicalSizeXUnit="µm"' in file.ome_metadata


@pytest.mark.faults
def test_levels_of_labels_hold_no_other_labels(tmp_path):
    labels = np.zeros((1_100, 1_300), np.uint32)
    labels[:, :651], labels[:, 651:] = 10, 200
    path = write(tmp_path / "a.tif", labels)
    with tifffile.TiffFile(path) as file:
        levels = [level.asarray() for level in file.series[0].levels]
    assert [level.shape for level in levels] == [(1100, 1300), (550, 650)]
    assert all(level.dtype == np.uint32 for level in levels)
    np.testing.assert_array_equal(levels[0], labels)
    np.testing.assert_array_equal(levels[1], labels[::2, ::2])
    assert set(np.unique(levels[1])) == {10, 200}


@pytest.mark.faults
def test_labels_beyond_16_bits_are_kept(tmp_path):
    count = 260 * 260
    labels = np.arange(1, count + 1, dtype=np.uint32).reshape(260, 260)
    labels = labels.repeat(4, 0).repeat(4, 1)
    path = write(tmp_path / "a.tif", labels, mpp=None)
    got = read_labels(path)
    assert got.max() == count == 67_600
    np.testing.assert_array_equal(got, labels)


@pytest.mark.faults
@pytest.mark.parametrize("height", [1_356, 1_358, 1_024, 1_537])
@pytest.mark.parametrize("array", [IMAGE, IMAGE[..., 0].astype(np.uint32)], ids=["rgb", "labels"])
def test_another_number_of_rows_is_refused_and_leaves_no_file(tmp_path, height, array):
    with pytest.raises(ValueError, match=rf"the strips .* {height}( rows)?$"):
        ome_tiff.write(
            tmp_path / "a.tif", in_strips(array[:, :600], 700), height=height, width=600, mpp=None
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.faults
def test_strips_of_another_width_are_refused(tmp_path):
    strips = [IMAGE[:700], IMAGE[700:, :-1]]
    with pytest.raises(ValueError, match=r"2100|2101"):
        ome_tiff.write(tmp_path / "a.tif", strips, height=HEIGHT, width=WIDTH, mpp=None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.faults
def test_a_full_disk_leaves_no_file(tmp_path):
    with pytest.raises(DiskError, match="failed"), tiny.full_disk(10_000):
        write(tmp_path / "a.tif")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 1), (513, 2, 3)])
def test_small_images_are_written(tmp_path, shape):
    array = RNG.integers(0, 256, shape).astype(np.uint8 if len(shape) == 3 else np.uint32)
    path = tmp_path / "a.tif"
    ome_tiff.write(path, [array], height=shape[0], width=shape[1], mpp=1.0)
    np.testing.assert_array_equal(tifffile.imread(path), array)
