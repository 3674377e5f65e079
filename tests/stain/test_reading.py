import logging

import numpy as np

from histojax.stain import reading
from histojax.stain.normalization import Method, fit, normalize
from histojax.stain.reading import NormalizedReader
from histojax.stain.targets import DEFAULT, target_fit
from tests import stained

METHOD = Method("macenko")
TARGET = target_fit(DEFAULT, METHOD)


class Reader:
    """An array as a reader, which notes what was read of it."""

    def __init__(self, image):
        self.image, self.reads = image, []
        self.height, self.width = image.shape[:2]

    def read(self, y, x, height, width):
        self.reads.append((y, x, height, width))
        assert y >= 0
        assert y + height <= self.height
        assert x + width <= self.width
        return self.image[y : y + height, x : x + width]


def test_a_region_is_that_of_the_whole_image_normalized():
    image = stained.image(0, side=128)
    expected = normalize(image, fit([image], METHOD, name="a"), TARGET)
    reader = NormalizedReader(Reader(image), METHOD, TARGET, name="a")
    assert (reader.height, reader.width) == (128, 128)
    np.testing.assert_array_equal(reader.read(17, 30, 50, 20), expected[17:67, 30:50])
    assert (expected != image).any()


def test_a_slide_is_looked_at_in_windows_that_reach_its_corners(monkeypatch):
    monkeypatch.setattr(reading, "_WHOLE", 1000)
    monkeypatch.setattr(reading, "_WINDOW", 16)
    inner = Reader(stained.image(0, side=128))
    reader = NormalizedReader(inner, METHOD, TARGET, name="a")
    assert len(inner.reads) == 16**2
    assert inner.reads[0] == (0, 0, 16, 16)
    assert inner.reads[-1] == (112, 112, 16, 16)
    assert reader.fit is not None


def test_glass_keeps_its_colors_and_says_so_once(caplog):
    glass = np.full((40, 50, 3), 250, np.uint8)
    with caplog.at_level(logging.WARNING):
        reader = NormalizedReader(Reader(glass), METHOD, TARGET, name="slide 7")
        np.testing.assert_array_equal(reader.read(0, 0, 40, 50), glass)
        reader.read(3, 3, 10, 10)
    (message,) = caplog.messages
    assert message.startswith("slide 7 keeps its colours, because")
