import errno
import json
import os
import stat

import numpy as np
import PIL.Image
import pytest
import tifffile

from histojax.errors import UserError
from histojax.imaging import writers


def write_tiff(path, image):
    writers.stream_tiff(path, [image], height=image.shape[0], width=image.shape[1])


def _image(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("size", [(1, 1), (17, 600), (512, 512), (1100, 513)])
@pytest.mark.parametrize("rows", [64, 512, 700])
def test_a_streamed_image_reads_back_by_another_reader(tmp_path, size, rows):
    image = _image(*size)
    path = tmp_path / "new" / "a.sr.tif"
    strips = (image[y : y + rows] for y in range(0, size[0], rows))
    writers.stream_tiff(path, strips, height=size[0], width=size[1], mpp=0.25)
    np.testing.assert_array_equal(np.asarray(PIL.Image.open(path)), image)
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        assert page.tile == (512, 512)
        assert page.photometric.name == "RGB"
        # .25 um per px are 40,000 px per cm.
        numerator, denominator = page.tags["XResolution"].value
        assert numerator / denominator == 40_000
        assert page.tags["ResolutionUnit"].value.name == "CENTIMETER"
    assert os.listdir(path.parent) == ["a.sr.tif"]


@pytest.mark.faults
def test_labels_beyond_16_bits_survive_as_uint32(tmp_path):
    labels = np.arange(700 * 600, dtype=np.int32).reshape(700, 600)
    write_tiff(tmp_path / "a.labels.tif", labels)
    back = tifffile.imread(tmp_path / "a.labels.tif")
    assert back.dtype == np.uint32
    np.testing.assert_array_equal(back, labels)


def test_big_images_become_bigtiff(tmp_path, monkeypatch):
    made = []

    class Recorder(tifffile.TiffWriter):
        def __init__(self, path, **options):
            made.append(options["bigtiff"])
            super().__init__(path, **options)

        def write(self, *args, **options):
            raise InterruptedError

    monkeypatch.setattr(writers.tifffile, "TiffWriter", Recorder)
    for height in (30_000, 40_000):
        image = np.broadcast_to(np.uint8(0), (height, 40_000, 3))
        with pytest.raises(UserError):
            writers.stream_tiff(tmp_path / "a.tif", [image], height=height, width=40_000)
    assert made == [False, True]


@pytest.mark.parametrize("height", [599, 601])
def test_a_wrong_number_of_rows_leaves_no_file(tmp_path, height):
    with pytest.raises(ValueError, match="rows"):
        writers.stream_tiff(tmp_path / "a.tif", [_image(600, 20)], height=height, width=20)
    assert os.listdir(tmp_path) == []


def test_wrong_widths_types_and_negative_labels_are_refused(tmp_path):
    path = tmp_path / "a.tif"
    with pytest.raises(ValueError, match="columns"):
        writers.stream_tiff(path, [_image(9, 20)], height=9, width=21)
    with pytest.raises(ValueError, match="float"):
        write_tiff(path, np.zeros((9, 9, 3), np.float32))
    with pytest.raises(ValueError, match="negative"):
        write_tiff(path, np.full((9, 9), -1, np.int32))
    with pytest.raises(ValueError, match="65,535"):
        writers.write_png(path, np.full((9, 9), 65_536, np.int32))
    assert os.listdir(tmp_path) == []


@pytest.mark.faults
def test_an_interrupted_write_keeps_the_file_before(tmp_path):
    path = tmp_path / "a.tif"
    write_tiff(path, _image(30, 30))
    before = path.read_bytes()

    def strips():
        yield _image(600, 30)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        writers.stream_tiff(path, strips(), height=1200, width=30)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.tif"]


@pytest.mark.faults
def test_png_of_images_and_labels(tmp_path):
    writers.write_png(tmp_path / "a.png", _image(5, 7))
    np.testing.assert_array_equal(np.asarray(PIL.Image.open(tmp_path / "a.png")), _image(5, 7))
    labels = np.array([[0, 300], [65_535, 7]], np.int32)
    writers.write_png(tmp_path / "l.png", labels)
    np.testing.assert_array_equal(np.asarray(PIL.Image.open(tmp_path / "l.png")), labels)


def test_json_holds_plain_values_and_null_for_what_it_cannot(tmp_path):
    path = tmp_path / "a.json"
    writers.write_json(
        path,
        {
            "a": np.float32(0.5),
            "b": [float("nan"), np.inf, np.int64(3)],
            4: np.array([1.0, np.nan]),
        },
    )
    assert json.loads(path.read_text(), parse_constant=pytest.fail) == {
        "a": 0.5,
        "b": [None, None, 3],
        "4": [1.0, None],
    }


def test_a_table_has_a_column_for_every_key(tmp_path):
    path = tmp_path / "a.csv"
    writers.write_csv(path, [{"name": "x, y", "dice": 0.5}, {"name": "z", "psnr": np.nan}])
    assert path.read_text().splitlines() == ["name,dice,psnr", '"x, y",0.5,', "z,,"]


@pytest.mark.faults
@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to read-only folders")
def test_a_read_only_folder_is_one_sentence(tmp_path):
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(UserError, match="Permission denied"):
        writers.write_json(tmp_path / "a.json", {})


@pytest.mark.faults
def test_a_file_where_a_folder_should_be_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/a\.png failed"):
        writers.write_png(tmp_path / "file" / "a.png", _image(3, 3))


@pytest.mark.faults
def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path):
    def strips():
        yield _image(600, 30)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(UserError, match=r"No space left on device.*free space"):
        writers.stream_tiff(tmp_path / "a.tif", strips(), height=1200, width=30)
    assert os.listdir(tmp_path) == []


def test_overlay_draws_the_inner_contour_and_nothing_else():
    image = np.full((9, 9, 3), 100, np.uint8)
    instances = np.zeros((9, 9), np.int32)
    instances[2:5, 2:5] = 1
    instances[2:5, 5:8] = 2
    instances[7:9, 0:3] = 3
    drawn = writers.overlay(image, instances, (1, 2, 3))
    changed = (drawn == (1, 2, 3)).all(-1)
    expected = np.zeros((9, 9), bool)
    expected[2:5, 2:8] = True
    expected[3, 3] = expected[3, 6] = False
    expected[7:9, 0:3] = True
    np.testing.assert_array_equal(changed, expected)
    assert (drawn[~changed] == 100).all()
    assert (image == 100).all()


def test_panels_show_small_pictures_enlarged_by_whole_pixels():
    red = np.full((64, 64, 3), (255, 0, 0), np.uint8)
    lr = np.zeros((16, 16, 3), np.uint8)
    lr[0, 0] = (0, 0, 255)
    mask = np.zeros((64, 64), np.uint8)
    mask[:, :32] = 1
    sheet = writers.panels([[("lr", lr), ("sr", red)], [("mask", mask)]], gap=6)
    # Row 1: gap, 64 px, gap, 64 px, gap.
    assert sheet.shape[1] == 6 + 64 + 6 + 64 + 6
    assert (sheet[6:70, 76:140] == (255, 0, 0)).all()
    assert (sheet == (0, 0, 255)).all(-1).sum() == 16
    assert (sheet == (255, 255, 255)).all(-1)[:6].all()
    # The captions are the one thing below the first row's pictures that is not white.
    below = sheet[70 : sheet.shape[0] - 64 - 30]
    assert (below < 128).all(-1).any()


def test_panels_reduce_to_the_cell():
    sheet = writers.panels([[("", _image(100, 50))]], cell=50, gap=2)
    assert sheet.shape[1] == 2 + 25 + 2


@pytest.mark.faults
def test_a_name_of_255_bytes_can_be_written(tmp_path):
    path = tmp_path / ("é" * 125 + "x.tif")
    assert len(os.fsencode(path.name)) == 255
    write_tiff(path, _image(5, 7))
    assert os.listdir(tmp_path) == [path.name]
