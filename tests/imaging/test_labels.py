import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from histojax.errors import UserError
from histojax.imaging.labels import read_label_mpp, read_label_region, read_labels
from histojax.imaging.reader import read_image

NOISE = np.random.default_rng(5).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def _refusal(call, *words):
    """Asserts that a call is refused in one line that holds all the words."""
    with pytest.raises(UserError) as refusal:
        call()
    message = str(refusal.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message, f"{word!r} is not in: {message}"


def test_a_region_of_labels_is_read(tmp_path):
    labels = np.arange(40 * 30, dtype=np.uint32).reshape(40, 30)
    tifffile.imwrite(tmp_path / "l.tif", labels, tile=(16, 16))
    got = read_label_region(tmp_path / "l.tif", 5, 7, 20, 11)
    assert got.dtype == np.int32
    np.testing.assert_array_equal(got, labels[5:25, 7:18])
    with pytest.raises(ValueError, match="is not inside"):
        read_label_region(tmp_path / "l.tif", 30, 0, 20, 10)
    Image.fromarray(labels.astype(np.uint8)).save(tmp_path / "l.png")
    with pytest.raises(UserError, match="is not a TIFF"):
        read_label_region(tmp_path / "l.png", 0, 0, 2, 2)


@pytest.mark.parametrize(
    ("dtype", "ending"),
    [("uint8", "png"), ("uint16", "png"), ("uint16", "tif"), ("uint32", "tif"), ("uint8", "bmp")],
)
def test_labels_keep_their_values(tmp_path, dtype, ending):
    labels = np.array([[0, 1, 5], [5, 0, 255]], dtype)
    labels[1, 2] = min(np.iinfo(dtype).max, 2**31 - 1)
    path = tmp_path / f"a.{ending}"
    if ending == "tif":
        tifffile.imwrite(path, labels)
    else:
        Image.fromarray(labels).save(path)
    read = read_labels(path)
    assert read.dtype == np.int32
    np.testing.assert_array_equal(read, labels)


def test_labels_of_few_bits_and_palettes_are_their_numbers(tmp_path):
    labels = np.array([[0, 1, 2, 3]], np.uint8)
    palette = Image.fromarray(labels)
    palette.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    palette.save(tmp_path / "palette.png", bits=2)
    np.testing.assert_array_equal(read_labels(tmp_path / "palette.png"), labels)
    # The header of a palette PNG, turned into that of a 2-bit grey one, with the same samples.
    (tmp_path / "grey.png").write_bytes(_as_gray((tmp_path / "palette.png").read_bytes()))
    np.testing.assert_array_equal(read_labels(tmp_path / "grey.png"), labels)
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png")[..., 0], labels * 85)
    Image.fromarray(labels > 1).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "bits.png"), labels > 1)


def test_the_scale_of_labels_is_read_where_their_file_states_it(tmp_path):
    labels = np.arange(12, dtype=np.uint32).reshape(3, 4)
    options = {"resolution": (20000, 20000), "resolutionunit": "centimeter"}
    tifffile.imwrite(tmp_path / "a.tif", labels, **options)
    tifffile.imwrite(tmp_path / "b.tif", labels)
    Image.fromarray(labels.astype(np.uint8)).save(tmp_path / "a.png")
    assert read_label_mpp(tmp_path / "a.tif") == pytest.approx(0.5)
    assert read_label_mpp(tmp_path / "b.tif") is None
    assert read_label_mpp(tmp_path / "a.png") is None
    with pytest.raises(UserError, match="does not exist"):
        read_label_mpp(tmp_path / "c.tif")


def _as_gray(png):
    assert png[24:26] == b"\x02\x03", "bit depth 2, colour type palette"
    header = b"IHDR" + png[16:25] + b"\0" + png[26:29]
    crc = zlib.crc32(header).to_bytes(4, "big")
    start = png.index(b"PLTE") - 4
    end = start + 12 + int.from_bytes(png[start : start + 4], "big")
    return png[:12] + header + crc + png[33:start] + png[end:]


@pytest.mark.faults
def test_equal_channels_are_one_label_map(tmp_path):
    mask = np.array([[0, 255], [255, 0]], np.uint8)
    Image.fromarray(np.repeat(mask[..., None], 3, -1)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "a.png"), mask)


@pytest.mark.faults
def test_labels_that_are_not_labels_are_refused(tmp_path):
    lossy = tmp_path / "a.jpg"
    Image.fromarray(NOISE).save(lossy)
    _refusal(lambda: read_labels(lossy), lossy, "JPEG", "save labels as uint16 PNG")
    colors = tmp_path / "a.png"
    Image.fromarray(NOISE).save(colors)
    _refusal(lambda: read_labels(colors), colors, "3 different channels", "uint16 PNG")
    large = tmp_path / "large.tif"
    tifffile.imwrite(large, np.array([[0, 2**31]], np.uint32))
    _refusal(lambda: read_labels(large), large, 2**31, "renumber them")
    negative = tmp_path / "negative.tif"
    tifffile.imwrite(negative, np.array([[-1, 2]], np.int32))
    _refusal(lambda: read_labels(negative), negative, "-1", "renumber them")
    missing = tmp_path / "missing.tif"
    _refusal(lambda: read_labels(missing), missing, "does not exist")


@pytest.mark.faults
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_labels_of_a_float_type_are_read_where_they_are_whole(tmp_path, dtype):
    path = tmp_path / "a.tif"
    last = 2 ** (np.finfo(dtype).nmant + 1) - 1  # from the next on, two may be rounded into one
    labels = np.array([[0, 1, 7], [2, 300, min(last, 2**31 - 1)]], dtype)
    tifffile.imwrite(path, labels)
    read = read_labels(path)
    assert read.dtype == np.int32
    np.testing.assert_array_equal(read, labels.astype(np.int64))
    np.testing.assert_array_equal(read_label_region(path, 1, 1, 1, 2), read[1:, 1:])
    for value, said in ((0.5, "0.5"), (np.nan, "nan"), (np.inf, "inf")):
        labels[0, 1] = value
        tifffile.imwrite(path, labels)
        for call in (read_labels, lambda path: read_label_region(path, 0, 0, 1, 3)):
            _refusal(lambda call=call: call(path), path, dtype, said, "whole numbers")


@pytest.mark.faults
def test_float_labels_that_may_be_rounded_are_refused(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.array([[0, 7, 2049]], np.float16))  # kept as 2048
    _refusal(lambda: read_labels(path), path, "2048", "float16", "below 2048", "uint32 TIFF")
