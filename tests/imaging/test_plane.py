import os
import sys

import numpy as np
import pytest

from histojax.errors import DiskError
from histojax.imaging.plane import Plane


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.uint32])
def test_what_is_written_is_read(dtype):
    values = np.random.default_rng(0).integers(0, 2, (11, 7)).astype(dtype)
    with Plane(7, dtype) as plane:
        for rows in (values[:3], values[3:3], values[3:]):
            plane.append(rows)
        assert plane.height == 11
        np.testing.assert_array_equal(plane.read(0, 0, 11, 7), values)
        np.testing.assert_array_equal(plane.read(2, 3, 4, 2), values[2:6, 3:5])
        # Cut off at the border, like a slice.
        np.testing.assert_array_equal(plane.read(9, 5, 100, 100), values[9:, 5:])
        assert plane.read(11, 0, 3, 7).shape == (0, 7)
        assert plane.read(0, 7, 3, 7).shape == (3, 0)
        assert plane.read(0, 0, 1, 7).dtype == dtype


@pytest.mark.parametrize("region", [np.s_[2:5, 1:4], np.s_[4:6, :], np.s_[:, 6:]])
def test_a_region_is_overwritten_alone(region):
    expected = np.arange(77, dtype=np.uint32).reshape(11, 7)
    with Plane(7, np.uint32) as plane:
        plane.append(expected)
        expected = expected.copy()
        expected[region] += 1000
        plane.write(region[0].start or 0, region[1].start or 0, expected[region])
        np.testing.assert_array_equal(plane.read(0, 0, 11, 7), expected)
        # A later append goes below, not where the last region ended.
        plane.append(expected[:1])
        np.testing.assert_array_equal(plane.read(11, 0, 1, 7), expected[:1])


def test_rows_of_0_are_read_and_take_no_room():
    expected = np.zeros((4_096, 4_096), np.uint8)
    expected[2_048] = 7
    with Plane(4_096, np.uint8) as plane:
        for top in range(0, 4_096, 512):
            plane.append(expected[top : top + 512])
        np.testing.assert_array_equal(plane.read(0, 0, 4_096, 4_096), expected)
        if sys.platform == "linux":
            # Of 16 MiB, in blocks of 512 bytes.
            assert os.fstat(plane._file.fileno()).st_blocks * 512 < 2**22
        plane.write(5, 3, expected[2_048:2_049, :9])
        np.testing.assert_array_equal(plane.read(5, 0, 1, 13), [[0] * 3 + [7] * 9 + [0]])


def test_nothing_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with Plane(3, np.uint8) as plane:
        plane.append(np.ones((2, 3)))
    assert os.listdir(tmp_path) == []


@pytest.mark.faults
def test_a_folder_that_is_not_there_and_a_full_disk_are_refused(tmp_path, monkeypatch):
    with Plane(3, np.uint8) as plane:
        plane._file.close()
        # Linux's device that is always full.
        plane._file = open("/dev/full", "r+b")  # noqa: SIM115
        with pytest.raises(DiskError, match="No space left"):
            plane.append(np.ones((2, 3)))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "absent"))
    with pytest.raises(DiskError, match="Writing to the temporary folder failed"):
        Plane(3, np.uint8)
