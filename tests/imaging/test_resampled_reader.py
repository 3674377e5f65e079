import numpy as np
import PIL.Image
import pytest

from histojax.imaging import reader as reading
from histojax.imaging.reader import ResampledReader


class Array:
    """An array as a reader, which remembers how much was read of it."""

    def __init__(self, array):
        self.array = array
        self.height, self.width = array.shape[:2]
        self.largest = 0

    def read(self, y, x, height, width):
        assert 0 <= y < y + height <= self.height
        assert 0 <= x < x + width <= self.width
        self.largest = max(self.largest, height * width)
        return self.array[y : y + height, x : x + width]


@pytest.fixture
def image():
    coarse = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    return np.asarray(PIL.Image.fromarray(coarse).resize((131, 97), PIL.Image.Resampling.BICUBIC))


@pytest.mark.parametrize("factor", [0.37, 0.5, 1.6, 2.0])
def test_the_whole_is_pillow_s_lanczos(image, factor):
    reader = ResampledReader(Array(image), factor)
    assert (reader.height, reader.width) == (round(97 * factor), round(131 * factor))
    expected = PIL.Image.fromarray(image).resize(
        (reader.width, reader.height), PIL.Image.Resampling.LANCZOS
    )
    got = reader.read(0, 0, reader.height, reader.width)
    np.testing.assert_array_equal(got, np.asarray(expected))


@pytest.mark.parametrize("factor", [0.37, 0.5, 1.6, 2.0])
def test_regions_agree_with_the_whole(image, factor):
    reader = ResampledReader(Array(image), factor)
    whole = reader.read(0, 0, reader.height, reader.width).astype(int)
    for y in range(0, reader.height, 13):
        for x in range(0, reader.width, 17):
            height, width = min(13, reader.height - y), min(17, reader.width - x)
            part = reader.read(y, x, height, width).astype(int)
            # Pillow rounds to 8 bits after each of its two passes.
            assert np.abs(part - whole[y : y + height, x : x + width]).max() <= 2


def test_a_region_costs_the_pixels_around_it():
    source = Array(np.zeros((1000, 1000, 3), np.uint8))
    ResampledReader(source, 0.5).read(200, 200, 20, 20)
    assert source.largest <= (40 + 2 * 8) ** 2


def test_a_strong_reduction_reads_few_pixels_at_once(image, monkeypatch):
    whole = ResampledReader(Array(image), 0.1).read(0, 0, 10, 13).astype(int)
    monkeypatch.setattr(reading, "_AT_ONCE", 80 * 131)
    source = Array(image)
    parts = ResampledReader(source, 0.1).read(0, 0, 10, 13).astype(int)
    assert source.largest <= 80 * 131
    assert np.abs(parts - whole).max() <= 2
