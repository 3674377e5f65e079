import os

import numpy as np
import pytest
import tifffile

from histojax.errors import DiskError
from histojax.inference.sinks import SINKS
from tests import tiny

HEIGHT, WIDTH = 40, 30


def strips():
    """Outputs by name, in strips of 16 rows: five nuclei, of which the last strip holds one."""
    labels = np.repeat([[1], [2], [4], [3], [5]], 8, axis=0).repeat(WIDTH, 1).astype(np.int32)
    sr = np.repeat(labels[..., None] * 10, 3, axis=2).astype(np.uint8)
    whole = {"sr": sr, "labels": labels, "classes": (labels % 3).astype(np.uint8)}
    return [
        {name: values[y : y + 16] for name, values in whole.items()} for y in range(0, HEIGHT, 16)
    ]


def opened(name, folder, seen=None):
    kind = SINKS[name]
    size = HEIGHT, WIDTH
    return kind(folder / f"a{kind.suffix}", size=size, seen=seen or size, mpp=0.25)


def write(name, folder, count=None):
    with opened(name, folder) as sink:
        for strip in strips()[:count]:
            sink.add({key: strip[key] for key in sink.reads})
        if count is not None:
            raise KeyboardInterrupt
        sink.close()


@pytest.mark.parametrize("name", SINKS)
def test_a_raster_is_the_output_that_it_reads(name, tmp_path):
    write(name, tmp_path / "out")
    path = tmp_path / "out" / f"a.{name}.tif"
    assert os.listdir(tmp_path / "out") == [path.name]
    expected = np.concatenate([strip[SINKS[name].reads[0]] for strip in strips()])
    np.testing.assert_array_equal(tifffile.imread(path), expected)
    with tifffile.TiffFile(path) as tiff:
        assert tiff.pages[0].resolution == pytest.approx((40_000, 40_000))  # px per cm


@pytest.mark.parametrize("name", ["labels", "classes"])
def test_a_raster_of_another_grid_takes_the_nearest_pixel(name, tmp_path):
    # The network saw each pixel of the file as 3 x 2.
    with opened(name, tmp_path, seen=(3 * HEIGHT, 2 * WIDTH)) as sink:
        for strip in strips():
            sink.add({key: values.repeat(3, 0).repeat(2, 1) for key, values in strip.items()})
        sink.close()
    expected = np.concatenate([strip[name] for strip in strips()])
    np.testing.assert_array_equal(tifffile.imread(tmp_path / f"a.{name}.tif"), expected)


@pytest.mark.faults
@pytest.mark.parametrize("name", SINKS)
@pytest.mark.parametrize("count", [0, 2])
def test_a_sink_that_is_left_early_leaves_nothing(name, count, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        write(name, tmp_path, count)
    assert os.listdir(tmp_path) == []


@pytest.mark.faults
@pytest.mark.parametrize("name", SINKS)
def test_a_full_disk_is_reported_and_leaves_nothing(name, tmp_path):
    with tiny.full_disk(10), pytest.raises(DiskError, match="Writing to"):
        write(name, tmp_path)
    assert os.listdir(tmp_path) == []


@pytest.mark.faults
def test_too_few_rows_are_no_file(tmp_path):
    with opened("sr", tmp_path) as sink:
        for strip in strips()[:2]:
            sink.add(strip)
        with pytest.raises(ValueError, match="32 rows, not 40"):
            sink.close()
    assert os.listdir(tmp_path) == []
