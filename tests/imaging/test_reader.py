"""Images and labels from every kind of file: converted rightly, or refused in one sentence."""

import concurrent.futures
import io
import logging
import os
import shutil
import struct
import tracemalloc
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps, TiffImagePlugin

from histojax.errors import UserError
from histojax.imaging.labels import read_labels
from histojax.imaging.reader import image_size, open_image, read_image


def _smooth(height=48, width=64):
    """An RGB image of smooth colours, on which lossy compression errs by a few grey levels."""
    y, x = np.mgrid[:height, :width]
    return np.stack([120 + y, 200 - x, 90 + (x + y) // 2], -1).astype(np.uint8)


def _noise(height=48, width=64):
    return np.random.default_rng(5).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _refusal(call, *words):
    """Asserts that a call is refused in one line that holds all the words."""
    with pytest.raises(UserError) as refusal:
        call()
    message = str(refusal.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message, f"{word!r} is not in: {message}"


@pytest.mark.parametrize("ending", ["png", "bmp", "tif"])
def test_rgb_is_read_unchanged(tmp_path, ending):
    pixels = _noise()
    path = tmp_path / f"a.{ending}"
    Image.fromarray(pixels).save(path)
    image = read_image(path)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, pixels)
    assert image_size(path) == (48, 64)
    with open_image(str(path)) as reader:
        assert (reader.height, reader.width, reader.mpp) == (48, 64, None)
        np.testing.assert_array_equal(reader.read(3, 60, 45, 4), pixels[3:48, 60:64])


def test_jpeg_is_read(tmp_path):
    Image.fromarray(_smooth()).save(tmp_path / "a.jpg", quality=95)
    error = np.abs(read_image(tmp_path / "a.jpg").astype(int) - _smooth())
    assert error.max() <= 8


@pytest.mark.faults
@pytest.mark.parametrize("ending", ["png", "tif"])
def test_gray_palette_and_one_bit_become_rgb(tmp_path, ending):
    gray = _noise()[..., 0]
    Image.fromarray(gray).save(tmp_path / f"grey.{ending}")
    np.testing.assert_array_equal(
        read_image(tmp_path / f"grey.{ending}"), np.repeat(gray[..., None], 3, -1)
    )
    indices = gray % 3
    colors = np.array([[10, 20, 30], [250, 128, 0], [255, 255, 255]], np.uint8)
    palette = Image.fromarray(indices)
    palette.putpalette(colors.tobytes())
    palette.save(tmp_path / f"palette.{ending}")
    np.testing.assert_array_equal(read_image(tmp_path / f"palette.{ending}"), colors[indices])
    bits = gray > 127
    Image.fromarray(bits).save(tmp_path / f"bits.{ending}")
    np.testing.assert_array_equal(
        read_image(tmp_path / f"bits.{ending}"), np.repeat(bits[..., None], 3, -1) * np.uint8(255)
    )


def test_white_is_zero_tiff_is_inverted(tmp_path):
    gray = _noise()[..., 0]
    tifffile.imwrite(tmp_path / "a.tif", 255 - gray, photometric="miniswhite")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif")[..., 1], gray)


@pytest.mark.faults
@pytest.mark.parametrize("ending", ["png", "tif"])
def test_transparency_is_composited_over_white_and_said_once(tmp_path, caplog, ending):
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[0, 0] = 100, 50, 0, 255
    rgba[0, 1] = 100, 50, 0, 0
    rgba[1, 0] = 100, 50, 0, 51  # a fifth: 255 - (255 - v) / 5
    rgba[1, 1] = 0, 0, 0, 128
    path = tmp_path / f"a.{ending}"
    Image.fromarray(rgba).save(path)
    with caplog.at_level(logging.WARNING):
        image = read_image(path)
        read_image(path)
    np.testing.assert_array_equal(image[0], [[100, 50, 0], [255, 255, 255]])
    np.testing.assert_array_equal(image[1], [[224, 214, 204], [127, 127, 127]])
    assert [str(path) in line and "white" in line for line in caplog.messages] == [True]


def test_premultiplied_alpha_is_not_multiplied_again(tmp_path):
    rgba = np.array([[[20, 10, 0, 51], [100, 50, 0, 255]]], np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", rgba, photometric="rgb", extrasamples=["assocalpha"])
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), [[[224, 214, 204], [100, 50, 0]]])


def test_opaque_alpha_is_dropped_in_silence(tmp_path, caplog):
    pixels = _noise()
    alpha = np.full((48, 64, 1), 255, np.uint8)
    Image.fromarray(np.concatenate([pixels, alpha], -1)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), pixels)
    assert not caplog.messages


def test_transparent_palette_entry_shows_white(tmp_path):
    image = Image.fromarray(np.array([[0, 1]], np.uint8))
    image.putpalette([9, 9, 9, 200, 0, 0])
    image.save(tmp_path / "a.png", transparency=0)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), [[[255] * 3, [200, 0, 0]]])


@pytest.mark.faults
@pytest.mark.parametrize("ending", ["png", "tif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_full_range_sixteen_bits_round_to_eight(tmp_path, ending, channels):
    # 128 / 257 rounds down and 129 / 257 up; taking the high byte would give 0 for both.
    values = np.array([[0, 128, 129, 65535], [257, 385, 386, 32768]], np.uint16)
    rounded = np.array([[0, 0, 1, 255], [1, 1, 2, 128]], np.uint8)
    samples = values if channels == 1 else np.repeat(values[..., None], 3, -1)
    path = tmp_path / f"a.{ending}"
    if ending == "png":
        path.write_bytes(imagecodecs.png_encode(samples))
    else:
        tifffile.imwrite(path, samples, photometric="rgb" if channels == 3 else "minisblack")
    np.testing.assert_array_equal(read_image(path), np.repeat(rounded[..., None], 3, -1))
    with open_image(path) as reader:
        np.testing.assert_array_equal(reader.read(1, 1, 1, 3)[..., 0], rounded[1:, 1:])


@pytest.mark.faults
@pytest.mark.parametrize("ending", ["png", "tif"])
def test_twelve_bits_in_sixteen_are_refused(tmp_path, ending):
    samples = np.full((8, 8, 3), 4095, np.uint16)
    path = tmp_path / f"a.{ending}"
    if ending == "png":
        path.write_bytes(imagecodecs.png_encode(samples))
    else:
        tifffile.imwrite(path, samples, photometric="rgb")
    _refusal(lambda: read_image(path), path, "16-bit", "4095", "convert it to 8-bit RGB")


@pytest.mark.faults
def test_other_colors_and_samples_are_refused_by_name(tmp_path):
    cmyk = tmp_path / "cmyk.jpg"
    Image.new("CMYK", (8, 8)).save(cmyk)
    _refusal(lambda: open_image(cmyk), cmyk, "CMYK", "convert it to 8-bit RGB")
    separated = tmp_path / "cmyk.tif"
    tifffile.imwrite(separated, np.zeros((8, 8, 4), np.uint8), photometric="separated")
    _refusal(lambda: open_image(separated), "SEPARATED", "convert it to 8-bit RGB")
    lab = tmp_path / "lab.tif"
    Image.new("LAB", (8, 8)).save(lab)
    _refusal(lambda: open_image(lab), "CIELAB", "convert it to 8-bit RGB")
    fractions = tmp_path / "float.tif"
    tifffile.imwrite(fractions, np.zeros((8, 8, 3), np.float32), photometric="rgb")
    _refusal(lambda: open_image(fractions), "float32", "convert it to 8-bit RGB")
    bands = tmp_path / "bands.tif"
    tifffile.imwrite(
        bands, np.zeros((8, 8, 5), np.uint8), photometric="minisblack", planarconfig="contig"
    )
    _refusal(lambda: open_image(bands), "5 bands", "export the RGB bands")
    stack = tmp_path / "stack.tif"
    tifffile.imwrite(stack, np.zeros((7, 8, 8), np.uint8), photometric="minisblack")
    _refusal(lambda: open_image(stack), "7 planes", "export a single plane")


@pytest.mark.faults
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png", "tif"])
def test_orientation_is_applied(tmp_path, orientation, ending):
    path = tmp_path / f"a.{ending}"
    image = Image.fromarray(_smooth())
    if ending == "tif":
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        tags[274] = orientation
        image.save(path, tiffinfo=tags)
    else:
        exif = Image.Exif()
        exif[274] = orientation
        image.save(path, exif=exif)
    with Image.open(path) as stored:
        upright = np.asarray(ImageOps.exif_transpose(stored))
    np.testing.assert_array_equal(read_image(path), upright)
    assert image_size(path) == upright.shape[:2]
    with open_image(path) as reader:
        assert (reader.height, reader.width) == upright.shape[:2]
        assert reader.orientation == orientation
        np.testing.assert_array_equal(reader.read(5, 7, 9, 11), upright[5:14, 7:18])


def _whole_files(tmp_path):
    """Yields small valid files of every container and compression that is read."""
    pixels = _noise()
    for name, options in {
        "a.png": {},
        "a.jpg": {},
        "progressive.jpg": {"progressive": True},
        "a.bmp": {},
        "libtiff.tif": {"compression": "tiff_lzw"},
    }.items():
        Image.fromarray(pixels).save(tmp_path / name, **options)
        yield tmp_path / name
    (tmp_path / "deep.png").write_bytes(imagecodecs.png_encode(pixels.astype(np.uint16) * 257))
    yield tmp_path / "deep.png"
    for name, options in {
        "raw.tif": {},
        "tiles.tif": {"tile": (16, 16)},
        "deflate.tif": {"tile": (16, 16), "compression": "zlib", "predictor": True},
        "jpeg.tif": {"tile": (16, 16), "compression": "jpeg"},
        "j2k.tif": {"tile": (32, 32), "compression": "jpeg2000"},
        "big.tif": {"rowsperstrip": 8, "bigtiff": True},
    }.items():
        tifffile.imwrite(tmp_path / name, pixels, photometric="rgb", **options)
        yield tmp_path / name


@pytest.mark.faults
def test_a_file_cut_anywhere_is_refused_or_whole(tmp_path):
    """Never a picture that differs from the complete one: decoders that fill gaps are caught."""
    for path in _whole_files(tmp_path):
        data = path.read_bytes()
        whole = read_image(path)
        cut = tmp_path / f"cut{path.suffix}"
        refused = 0
        for length in sorted({*range(0, len(data), max(1, len(data) // 60)), len(data) - 1}):
            cut.write_bytes(data[:length])
            try:
                pixels = read_image(cut)
            except UserError:
                refused += 1
            else:
                np.testing.assert_array_equal(pixels, whole, err_msg=f"{path} at {length}")
        assert refused >= 50, path


@pytest.mark.faults
@pytest.mark.parametrize("ending", ["png", "jpg", "bmp", "tif"])
def test_half_a_file_is_called_truncated(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    Image.fromarray(_noise()).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    _refusal(lambda: read_image(path), path, "truncated", "copy it again")
    if ending != "bmp":
        # Already at opening, from the header.
        _refusal(lambda: open_image(path), "truncated")


@pytest.mark.faults
def test_a_jpeg_tile_that_is_cut_inside_its_file_is_refused(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, _noise(), photometric="rgb", tile=(32, 32), compression="jpeg")
    with tifffile.TiffFile(path) as tiff:
        offset, count = tiff.pages[0].dataoffsets[1], tiff.pages[0].databytecounts[1]
    data = bytearray(path.read_bytes())
    data[offset + count // 2 : offset + count] = bytes(count - count // 2)
    path.write_bytes(data)
    with open_image(path) as reader:
        assert reader.read(0, 0, 32, 32).shape == (32, 32, 3)
        _refusal(lambda: reader.read(0, 32, 8, 8), path, "tile 1", "copy it again")


@pytest.mark.faults
def test_damage_inside_a_jpeg_tile_is_refused(tmp_path):
    """200 other bytes, none of them a marker, at which the decoder would stop by itself."""
    path, rng = tmp_path / "a.tif", np.random.default_rng(0)
    image = Image.fromarray(_noise()).resize((256, 256), Image.Resampling.BICUBIC)
    options = {"photometric": "rgb", "tile": (128, 128), "compression": "jpeg"}
    tifffile.imwrite(path, np.asarray(image), **options)
    with tifffile.TiffFile(path) as tiff:
        places = zip(tiff.pages[0].dataoffsets, tiff.pages[0].databytecounts, strict=True)
    whole, refusals = path.read_bytes(), []
    for index, (offset, count) in enumerate(list(places) * 6):
        data, start = bytearray(whole), offset + int(rng.integers(count // 8, count - 202))
        data[start : start + 200] = rng.integers(0, 255, 200, np.uint8).tobytes()
        path.write_bytes(data)
        y, x = index % 4 // 2 * 128, index % 2 * 128
        with open_image(path) as reader:
            try:
                reader.read(y, x, 128, 128)
            except UserError as error:
                refusals.append(str(error))
    assert len(refusals) >= 21
    assert sum("inside tile" in text for text in refusals) >= 18


@pytest.mark.parametrize("level", [0, 128, 243, 255])
@pytest.mark.parametrize("rows", [0, 70, 124])
def test_jpeg_tiles_may_end_in_any_even_color(tmp_path, level, rows):
    image = np.asarray(Image.fromarray(_noise()).resize((200, 140))).copy()
    image[rows:] = level
    options = {"photometric": "rgb", "tile": (64, 64), "compression": "jpeg"}
    tifffile.imwrite(tmp_path / "a.tif", image, **options)
    np.testing.assert_array_equal(
        read_image(tmp_path / "a.tif"), tifffile.imread(tmp_path / "a.tif")
    )


def test_files_are_closed_with_their_readers(tmp_path):
    """So that a cohort of any size is read with a few open files."""
    for name in ("a.tif", "a.png"):
        Image.fromarray(_noise()).save(tmp_path / name)
        numbers = set()
        for _ in range(3):
            with open_image(tmp_path / name) as reader:
                reader.read(0, 0, 8, 8)
            # A file gets the lowest number that is free.
            number = os.dup(1)
            os.close(number)
            numbers.add(number)
        assert len(numbers) == 1


@pytest.mark.faults
def test_what_is_not_an_image_is_refused(tmp_path):
    missing = tmp_path / "missing.png"
    _refusal(lambda: open_image(missing), missing, "does not exist", "give the path")
    _refusal(lambda: read_image(tmp_path), tmp_path, "is a folder", "name one image")
    empty = tmp_path / "empty.png"
    empty.touch()
    _refusal(lambda: read_image(empty), empty, "0 bytes", "copy or export")
    text = tmp_path / "text.png"
    text.write_text("not an image")
    _refusal(lambda: read_image(text), text, "not a PNG, JPEG, BMP or TIFF", "convert it")
    damaged = tmp_path / "damaged.png"
    Image.fromarray(_noise()).save(damaged)
    data = bytearray(damaged.read_bytes())
    data[60:90] = bytes(30)
    damaged.write_bytes(data)
    _refusal(lambda: read_image(damaged), damaged, "copy or export it again")


@pytest.mark.faults
@pytest.mark.parametrize("ending", ["png", "jpg", "tif"])
def test_scrambled_headers_are_refused_in_one_sentence_or_read(tmp_path, ending):
    """Whatever a parser raises on a malformed file, the user sees UserError alone."""
    path = tmp_path / f"a.{ending}"
    if ending == "tif":
        tifffile.imwrite(path, _noise(), photometric="rgb", tile=(16, 16), compression="zlib")
    else:
        Image.fromarray(_noise()).save(path)
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    refusals = []
    for _ in range(60):
        scrambled = bytearray(data)
        for position in rng.integers(8, 400, 3):
            scrambled[position] = rng.integers(256)
        path.write_bytes(scrambled)
        for call in (read_image, image_size):
            try:
                call(path)
            except UserError as error:
                refusals.append(str(error))
    assert len(refusals) > 10
    assert all(str(path) in refusal and "\n" not in refusal for refusal in refusals)


@pytest.mark.faults
def test_size_is_checked_on_the_header(tmp_path):
    png, tif = tmp_path / "a.png", tmp_path / "a.tif"
    Image.fromarray(_noise()).save(png)
    tifffile.imwrite(tif, _noise(), photometric="rgb", tile=(16, 16), compression="zlib")
    for path in (png, tif):
        _refusal(lambda path=path: read_image(path, max_pixels=3071), path, "3072", "3071", "tiled")
        assert read_image(path, max_pixels=3072).shape == (48, 64, 3)
    _refusal(lambda: open_image(png, max_pixels=3071), "3072")
    with open_image(tif, max_pixels=16 * 16) as reader:
        assert reader.read(40, 40, 8, 8).shape == (8, 8, 3)
    _refusal(lambda: open_image(tif, max_pixels=255), "a tile or strip of 256")


def _png_of(height, width):
    """A PNG whose header says any size, and that holds 64 KiB of zeros."""

    def chunk(kind, data):
        crc = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(2**16))
    chunks = ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, data) for kind, data in chunks)


def _saved(kind, place, size):
    """A small image in Pillow's format, with a size of another written into its header."""
    buffer = io.BytesIO()
    Image.fromarray(_noise()).save(buffer, kind)
    data = bytearray(buffer.getvalue())
    start = place(data)
    data[start : start + len(size)] = size
    return bytes(data)


def _huge(path):
    """Writes an image of a few KiB whose header says 100,000 x 100,000 (JPEG: 65,000) px."""
    side = 65_000 if path.suffix == ".jpg" else 100_000
    if path.suffix == ".png":
        path.write_bytes(_png_of(side, side))
    elif path.suffix == ".jpg":
        place = lambda data: data.index(b"\xff\xc0") + 5  # noqa: E731
        path.write_bytes(_saved("JPEG", place, struct.pack(">HH", side, side)))
    elif path.suffix == ".bmp":
        path.write_bytes(_saved("BMP", lambda data: 18, struct.pack("<ii", side, side)))
    else:
        tifffile.imwrite(path, _noise(), photometric="rgb", compression="zlib", metadata=None)
        with tifffile.TiffFile(path, mode="r+b") as tiff:
            for tag in ("ImageWidth", "ImageLength", "RowsPerStrip"):
                tiff.pages[0].tags[tag].overwrite(side)
    return side


@pytest.mark.faults
@pytest.mark.parametrize("ending", ["png", "jpg", "bmp", "tif"])
def test_an_absurd_size_is_refused_before_anything_is_decoded(tmp_path, ending, caplog):
    path = tmp_path / f"a.{ending}"
    side = _huge(path)
    assert path.stat().st_size < 50_000
    for call in (open_image, read_image, read_labels):
        if (call, ending) == (read_labels, "jpg"):
            continue
        tracemalloc.start()
        _refusal(lambda call=call: call(path), path, side**2, 2**28, "raise max_pixels")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2**24
    assert not caplog.messages


@pytest.mark.faults
@pytest.mark.parametrize("tile", [None, (16, 16)])
def test_a_tiff_with_too_few_strips_is_refused(tmp_path, tile, caplog):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, _noise(), photometric="rgb", tile=tile, metadata=None)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        for tag in ("ImageWidth", "ImageLength"):
            tiff.pages[0].tags[tag].overwrite(100_000)
    _refusal(lambda: open_image(path), path, "truncated", "copy it again")
    assert not caplog.messages


@pytest.mark.faults
def test_a_tiff_without_any_of_its_tiles_is_refused(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, _noise(32, 32), photometric="rgb", tile=(16, 16), metadata=None)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages[0].tags["TileByteCounts"].overwrite([0] * 4)
    _refusal(lambda: open_image(path), path, "32 x 32 px", "none of its 4 tiles", "copy or export")


@pytest.mark.faults
def test_a_palette_tiff_without_its_colors_is_refused(tmp_path):
    path = tmp_path / "a.tif"
    image = Image.fromarray(np.zeros((16, 16), np.uint8))
    image.putpalette([9, 9, 9, 200, 0, 0])
    image.save(path)
    # Entries of the directory are 12 bytes, of which the first two are the tag: ColorMap is 320.
    content = path.read_bytes()
    assert content.count(struct.pack("<HH", 320, 3)) == 1
    path.write_bytes(content.replace(struct.pack("<HH", 320, 3), struct.pack("<HH", 65000, 3)))
    _refusal(lambda: open_image(path), path, "cannot be decoded")


@pytest.mark.faults
def test_a_file_is_what_its_bytes_say_whatever_its_name(tmp_path):
    Image.fromarray(_smooth()).save(tmp_path / "a.jpg", quality=95)
    Image.fromarray(_smooth()).save(tmp_path / "b.png")
    expected = read_image(tmp_path / "a.jpg")
    shutil.copy(tmp_path / "a.jpg", tmp_path / "jpeg.png")
    np.testing.assert_array_equal(read_image(tmp_path / "jpeg.png"), expected)
    shutil.copy(tmp_path / "b.png", tmp_path / "png.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "png.tif"), _smooth())
    _refusal(lambda: read_labels(tmp_path / "jpeg.png"), "jpeg.png is compressed as JPEG")
    Image.fromarray(_smooth()).save(tmp_path / "c.webp")
    shutil.copy(tmp_path / "c.webp", tmp_path / "webp.png")
    _refusal(lambda: read_image(tmp_path / "webp.png"), "webp.png is not a PNG, JPEG, BMP or TIFF")


@pytest.mark.faults
@pytest.mark.parametrize("ending", ["png", "bmp", "tif"])
def test_one_pixel_is_an_image(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    Image.new("RGB", (1, 1), (200, 20, 90)).save(path)
    np.testing.assert_array_equal(read_image(path), [[[200, 20, 90]]])
    assert image_size(path) == (1, 1)
    Image.new("L", (1, 1), 7).save(path)
    np.testing.assert_array_equal(read_labels(path), [[7]])


@pytest.mark.parametrize(
    "region", [(-1, 0, 4, 4), (0, -1, 4, 4), (45, 0, 4, 4), (0, 61, 4, 4), (0, 0, 0, 4)]
)
def test_region_outside_is_a_programming_error(tmp_path, region):
    Image.fromarray(_noise()).save(tmp_path / "a.png")
    with open_image(tmp_path / "a.png") as reader, pytest.raises(ValueError, match="not inside"):
        reader.read(*region)


@pytest.mark.parametrize(
    "options",
    [
        {"tile": (32, 48), "compression": "zlib", "predictor": True},
        {"tile": (32, 48), "planarconfig": "separate"},
        {"rowsperstrip": 7, "compression": "lzw"},
        {"rowsperstrip": 7, "planarconfig": "separate"},
        {"tile": (32, 48), "bigtiff": True, "byteorder": ">"},
        {},
    ],
)
def test_regions_of_tiff_equal_the_array(tmp_path, options):
    pixels = _noise(101, 130)
    stored = pixels
    if options.get("planarconfig") == "separate":
        stored = np.moveaxis(pixels, -1, 0)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", **options)
    rng = np.random.default_rng(0)
    with open_image(tmp_path / "a.tif") as reader:
        assert (reader.height, reader.width) == (101, 130)
        for _ in range(30):
            y, x = rng.integers(0, 101), rng.integers(0, 130)
            height, width = rng.integers(1, 102 - y), rng.integers(1, 131 - x)
            np.testing.assert_array_equal(
                reader.read(y, x, height, width), pixels[y : y + height, x : x + width]
            )


def test_jpeg_tiles_in_ycbcr_come_out_as_rgb(tmp_path):
    pixels = _smooth(64, 64)
    tifffile.imwrite(
        tmp_path / "a.tif",
        pixels,
        photometric="rgb",
        tile=(32, 32),
        compression="jpeg",
        compressionargs={"level": 95},
    )
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        assert tiff.pages[0].photometric.name == "YCBCR"
    assert np.abs(read_image(tmp_path / "a.tif").astype(int) - pixels).max() <= 8


def test_aperio_ycbcr_jpeg2000_comes_out_as_rgb(tmp_path):
    pixels = _smooth(64, 64)
    ycbcr = np.asarray(Image.fromarray(pixels).convert("YCbCr"))
    tifffile.imwrite(
        tmp_path / "a.svs",
        ycbcr,
        photometric="rgb",
        tile=(32, 32),
        compression=33003,
        compressionargs={"level": 0, "mct": False},
    )
    assert np.abs(read_image(tmp_path / "a.svs").astype(int) - pixels).max() <= 3


def test_only_touched_tiles_are_decoded_and_kept(tmp_path):
    pixels = _noise(1024, 1024)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels, photometric="rgb", tile=(64, 64), compression="zlib")
    tile_bytes = 64 * 64 * 3
    with open_image(path, cache_bytes=4 * tile_bytes) as reader:
        assert reader.segments.decoded == 0
        reader.read(60, 130, 8, 8)  # rows 60..67 touch two tiles, columns 130..137 one
        assert reader.segments.decoded == 2
        reader.read(0, 128, 128, 64)  # the same two, from the cache
        assert reader.segments.decoded == 2
        reader.read(0, 0, 64, 256)  # four tiles of the first row, one of them there already
        assert reader.segments.decoded == 5
        reader.read(64, 128, 1, 1)  # the least recently used has gone
        assert reader.segments.decoded == 6
    with open_image(path, cache_bytes=0) as reader:
        reader.read(0, 0, 1, 1)
        reader.read(0, 0, 1, 1)
        assert reader.segments.decoded == 2
    with open_image(path) as reader:
        np.testing.assert_array_equal(reader.read(0, 0, 1024, 1024), pixels)
        assert reader.segments.decoded == 256


def test_one_uncompressed_strip_is_read_in_parts(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (2500, 1000, 3), dtype=np.uint8)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels, photometric="rgb", rowsperstrip=2500)
    with open_image(path, max_pixels=2**19) as reader:
        np.testing.assert_array_equal(reader.read(1200, 10, 20, 30), pixels[1200:1220, 10:40])
        # 2**20 bytes hold 349 rows: rows 1200..1219 lie in the fourth part, 1047..1395.
        assert reader.segments.decoded == 1


def test_tiles_that_the_file_leaves_out_are_white_and_said(tmp_path, caplog):
    path = tmp_path / "a.tif"
    pixels = _noise(32, 32)
    tiles = iter([pixels, None])
    tifffile.imwrite(
        path,
        tiles,
        shape=(32, 64, 3),
        dtype=np.uint8,
        photometric="rgb",
        tile=(32, 32),
        compression="zlib",
    )
    image = read_image(path)
    np.testing.assert_array_equal(image[:, :32], pixels)
    assert (image[:, 32:] == 255).all()
    assert any("leaves out 1 of 2 tiles" in line for line in caplog.messages)


def test_reader_serves_several_threads(tmp_path):
    pixels = _noise(256, 256)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels, photometric="rgb", tile=(32, 32), compression="zlib")
    regions = [(y, x) for y in range(0, 224, 14) for x in range(0, 224, 14)]
    with (
        open_image(path, cache_bytes=5 * 32 * 32 * 3) as reader,
        concurrent.futures.ThreadPoolExecutor(8) as pool,
    ):
        read = list(pool.map(lambda corner: reader.read(*corner, 32, 32), regions))
    for (y, x), region in zip(regions, read, strict=True):
        np.testing.assert_array_equal(region, pixels[y : y + 32, x : x + 32])


@pytest.mark.parametrize(
    ("options", "mpp"),
    [
        ({"resolution": (40000, 40000), "resolutionunit": "centimeter"}, 0.25),
        ({"resolution": (101600, 101600), "resolutionunit": "inch"}, 0.25),
        ({"resolution": (72, 72), "resolutionunit": "inch"}, None),
        ({"resolution": (96, 96), "resolutionunit": "inch"}, None),
        ({"resolution": (300, 300), "resolutionunit": "inch"}, None),
        ({"resolution": (1, 1), "resolutionunit": "none"}, None),
        ({"resolution": (40000, 20000), "resolutionunit": "centimeter"}, None),
        ({"resolution": (10**7, 10**7), "resolutionunit": "centimeter"}, None),
        ({"description": "Aperio Image Library v1\n9x9|AppMag = 20|MPP = 0.4990"}, 0.499),
        ({"description": "Aperio Image Library v1\n9x9|AppMag = 20|Filename = x"}, None),
        ({"imagej": True, "resolution": (4, 4), "metadata": {"unit": "um"}}, 0.25),
        ({"imagej": True, "resolution": (4, 4)}, None),
        ({"ome": True, "metadata": {"PhysicalSizeX": 0.25, "PhysicalSizeY": 0.25}}, 0.25),
        ({"ome": True, "metadata": {"PhysicalSizeX": 250, "PhysicalSizeXUnit": "nm"}}, 0.25),
        ({"ome": True, "metadata": {"PhysicalSizeX": 100, "PhysicalSizeXUnit": "pixel"}}, None),
        ({}, None),
    ],
)
def test_scale_is_read_and_never_guessed(tmp_path, options, mpp):
    tifffile.imwrite(tmp_path / "a.tif", _noise(), photometric="rgb", **options)
    with open_image(tmp_path / "a.tif") as reader:
        assert reader.mpp == (None if mpp is None else pytest.approx(mpp, rel=1e-6))


def test_pyramid_is_read_at_full_resolution(tmp_path):
    pixels = _noise(128, 192)
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        options = {"photometric": "rgb", "tile": (32, 32)}
        tiff.write(pixels, subifds=1, **options)
        tiff.write(pixels[::2, ::2], subfiletype=1, **options)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), pixels)


def test_real_slides(real_data):
    """Sizes and scales as the files' own descriptions state them; pixels as tifffile has them."""
    expected = {
        "cmu-1-small-region.svs": (2967, 2220, 0.499),
        "tcga-cr-7395-01a-01-ts1.svs": (3567, 4443, None),
        "instanseg_HE_example.tif": (1484, 1380, 0.50008),
        "stardist_histo.jpg": (300, 500, None),
    }
    for name, (height, width, mpp) in expected.items():
        with open_image(real_data / "slides" / name) as reader:
            assert (reader.height, reader.width) == (height, width)
            assert reader.mpp == (None if mpp is None else pytest.approx(mpp, abs=1e-5))
            region = reader.read(100, 150, 180, 300)
        if name.startswith("tcga"):  # JPEG 2000 in TIFF, which Pillow does not read
            other = tifffile.imread(real_data / "slides" / name)[100:280, 150:450]
        else:
            with Image.open(real_data / "slides" / name) as image:
                other = np.asarray(image.crop((150, 100, 450, 280)).convert("RGB"))
        # JPEG decoders differ by rounding and by how they upsample chroma.
        assert np.abs(region.astype(int) - other).mean() < 1, name
