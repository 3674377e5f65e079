"""Which page of a TIFF is the image, and what its bands mean."""

import concurrent.futures
import logging
import re
import shutil

import numpy as np
import pytest
import tifffile
from PIL import Image

from histojax.errors import UserError
from histojax.imaging import tiff
from histojax.imaging.labels import read_label_region, read_labels
from histojax.imaging.reader import image_size, open_image, read_image

RNG = np.random.default_rng(3)
PIXELS = RNG.integers(0, 256, (48, 64, 3), dtype=np.uint8)
HALF = PIXELS[::2, ::2]
LABEL = np.full((50, 30, 3), 200, np.uint8)  # of another shape
MACRO = np.full((40, 200, 3), 90, np.uint8)  # of more pixels, too
TILES = {"tile": (16, 16)}
REDUCED = {"subfiletype": 1}
MASK = {"photometric": "minisblack", "extratags": [(254, 4, 1, 4, True)]}


def _write(path, *pages):
    with tifffile.TiffWriter(path) as tiff:
        for pixels, options in pages:
            tiff.write(pixels, metadata=None, **{"photometric": "rgb", **options})
    return path


def _refusal(call, *words):
    with pytest.raises(UserError) as refusal:
        call()
    assert "\n" not in str(refusal.value)
    for word in words:
        assert word in str(refusal.value)


@pytest.mark.faults
@pytest.mark.parametrize(
    ("pages", "page"),
    [
        ([(HALF, REDUCED), (PIXELS, {})], "page 2 of 2"),
        ([(HALF[::2, ::2], TILES), (HALF, TILES), (PIXELS, TILES)], "page 3 of 3"),
        ([(HALF, {}), (PIXELS, REDUCED)], "page 2 of 2"),  # the flag is wrong
        ([(LABEL, {"description": "Label_Image"}), (PIXELS, {})], "page 2 of 2"),
        ([(MACRO, {"description": "Aperio\nmacro 200x40"}), (PIXELS, {})], "page 2 of 2"),
        ([(MACRO, {"subfiletype": 9}), (PIXELS, {})], "page 2 of 2"),
        ([(MACRO, {}), (PIXELS, TILES), (HALF, TILES)], "page 2 of 3"),
        ([(PIXELS, TILES), (PIXELS, {})], "page 1 of 2"),  # a thumbnail of full size
        ([(PIXELS, TILES), (PIXELS[..., 0], MASK), (HALF, TILES | REDUCED)], "page 1 of 3"),
    ],
)
def test_the_image_is_the_largest_page_of_tissue(tmp_path, pages, page, caplog):
    path = _write(tmp_path / "a.tif", *pages)
    np.testing.assert_array_equal(read_image(path), PIXELS)
    assert image_size(path) == (48, 64)
    with open_image(path) as reader:
        assert reader.page == page
    assert not caplog.messages


def test_an_image_may_hang_on_its_thumbnail(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(HALF, subifds=1, photometric="rgb")
        tiff.write(PIXELS, photometric="rgb")
    with open_image(tmp_path / "a.tif") as reader:
        assert reader.page == "page 1.1 of 1"
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), PIXELS)


@pytest.mark.faults
def test_a_second_picture_is_said_and_one_of_the_same_size_refused(tmp_path, caplog):
    path = _write(tmp_path / "a.tif", (PIXELS, {}), (LABEL, {}))
    np.testing.assert_array_equal(read_image(path), PIXELS)
    assert "of 64 x 48 px, which is read, and of 30 x 50 px" in caplog.text
    path = _write(tmp_path / "b.tif", (PIXELS, {}), (255 - PIXELS, {}))
    _refusal(lambda: read_image(path), "image of 2 planes", "export a single plane")


@pytest.mark.faults
def test_a_label_map_is_the_largest_page_too(tmp_path):
    labels = np.arange(48 * 64, dtype=np.uint32).reshape(48, 64)
    gray = {"photometric": "minisblack"}
    path = _write(tmp_path / "a.tif", (labels[::2, ::2], gray | REDUCED), (labels, gray))
    np.testing.assert_array_equal(read_labels(path), labels)
    np.testing.assert_array_equal(read_label_region(path, 5, 7, 9, 11), labels[5:14, 7:18])


@pytest.mark.faults
def test_a_pyramid_from_small_to_large_that_is_cut_is_refused(tmp_path):
    path = _write(tmp_path / "a.tif", (HALF, REDUCED), (PIXELS, TILES))
    with tifffile.TiffFile(path) as tiff:
        small, large = (page.offset for page in tiff.pages)
    data = path.read_bytes()
    for length in range(0, len(data), len(data) // 40):
        path.write_bytes(data[:length])
        with pytest.raises(UserError):
            read_image(path)
    for length in range(small + 400, large, 300):  # room was made on the disk, and not used
        path.write_bytes(data[:length] + bytes(len(data) - length))
        _refusal(lambda: read_image(path), "truncated", "copy it again")


@pytest.mark.faults
@pytest.mark.parametrize("imagej", [True, False])
def test_a_stack_is_refused(tmp_path, imagej):
    stack = np.stack([PIXELS[..., 0]] * 4)
    tifffile.imwrite(tmp_path / "a.tif", stack, imagej=imagej, photometric="minisblack")
    _refusal(lambda: open_image(tmp_path / "a.tif"), "image of 4 planes", "export a single plane")


def test_what_is_no_more_than_the_name_of_a_ventana_slide_is_refused(tmp_path):
    xmp = b"<iScan/>"
    options = {"software": "Ventana", "extratags": [(700, 1, len(xmp), xmp, True)]}
    path = _write(tmp_path / "a.tif", (PIXELS, options))
    _refusal(lambda: open_image(path), "cannot be opened (No pyramid levels", "convert it, or copy")


def _ome(path, pixels, changes=(), **options):
    """Writes an OME-TIFF with each (pattern, replacement) in its XML."""
    tifffile.imwrite(path, pixels, ome=True, **options)
    with tifffile.TiffFile(path) as tiff:
        xml = tiff.ome_metadata
    for pattern, replacement in changes:
        xml, count = re.subn(pattern, replacement, xml, flags=re.DOTALL)
        assert count
    options.pop("metadata", None)
    tifffile.imwrite(path, pixels, description=xml.encode(), metadata=None, **options)
    return path


@pytest.mark.faults
def test_an_ome_tiff_is_read_from_its_own_bytes(tmp_path):
    """Whatever file its metadata names: a neighbour, one that is gone, its own former name."""
    _ome(tmp_path / "first.ome.tif", 255 - PIXELS, photometric="rgb")
    other = '<TiffData IFD="0"><UUID FileName="first.ome.tif">urn:uuid:9</UUID></TiffData>'
    changes = [("<TiffData.*?/>", other)]
    path = _ome(tmp_path / "second.ome.tif", PIXELS, changes, photometric="rgb")
    np.testing.assert_array_equal(read_image(path), PIXELS)
    shutil.copy(path, tmp_path / "copy.ome.tif")
    (tmp_path / "first.ome.tif").unlink()
    np.testing.assert_array_equal(read_image(tmp_path / "copy.ome.tif"), PIXELS)


@pytest.mark.faults
def test_three_planes_that_ome_calls_one_image_are_its_colors(tmp_path):
    planes = np.moveaxis(PIXELS, 2, 0)
    for names in (None, ["Red", "Green", "Blue"]):
        metadata = {"axes": "CYX", **({"Channel": {"Name": names}} if names else {})}
        path = tmp_path / "a.ome.tif"
        tifffile.imwrite(path, planes, ome=True, metadata=metadata, compression="zlib", **TILES)
        with open_image(path) as reader:
            assert reader.page == "pages 1, 2, 3 of 3"
            np.testing.assert_array_equal(reader.read(9, 11, 30, 20), PIXELS[9:39, 11:31])
    for axes, channel in (("CYX", {"Name": ["DAPI", "FITC", "Cy3"]}), ("ZYX", {}), ("TYX", {})):
        metadata = {"axes": axes, **({"Channel": channel} if channel else {})}
        tifffile.imwrite(path, planes, ome=True, metadata=metadata)
        _refusal(lambda: open_image(path), "image of 3 planes", "or all as one RGB image")


@pytest.mark.faults
def test_a_file_of_an_ome_set_is_not_taken_for_the_whole(tmp_path):
    path = _ome(tmp_path / "a.ome.tif", PIXELS, [('SizeZ="1"', 'SizeZ="5"')], photometric="rgb")
    _refusal(lambda: open_image(path), "image of 5 planes")


@pytest.mark.faults
@pytest.mark.parametrize("tile", [None, (16, 16)])
def test_an_alpha_of_zero_everywhere_is_opaque(tmp_path, tile, caplog):
    clear = np.zeros((48, 64, 1), np.uint8)
    path = tmp_path / "a.tif"
    options = {"photometric": "rgb", "extrasamples": ["unassalpha"], "tile": tile}
    tifffile.imwrite(path, np.concatenate([PIXELS, clear], -1), **options)
    np.testing.assert_array_equal(read_image(path), PIXELS)
    assert "alpha of 0 everywhere: read as opaque" in caplog.text
    clear[40:, 40:] = 255  # elsewhere than what is read: this one is transparent
    tifffile.imwrite(tmp_path / "b.tif", np.concatenate([PIXELS, clear], -1), **options)
    with open_image(tmp_path / "b.tif") as reader:
        assert (reader.read(0, 0, 16, 16) == 255).all()


@pytest.mark.faults
@pytest.mark.parametrize("planarconfig", ["contig", "separate"])
def test_few_tiles_tell_that_an_alpha_is_not_zero_everywhere(tmp_path, planarconfig):
    # Tissue in the lower half of 32 x 32 tiles: none of ten random ones lies there once in 1,000.
    pixels = np.zeros((512, 512, 4), np.uint8)
    pixels[256:] = 255, 0, 0, 255
    if planarconfig == "separate":
        pixels = np.moveaxis(pixels, 2, 0)
    options = {"photometric": "rgb", "extrasamples": ["unassalpha"], "planarconfig": planarconfig}
    tifffile.imwrite(tmp_path / "a.tif", pixels, compression="zlib", **options, **TILES)
    with open_image(tmp_path / "a.tif") as reader:
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            parts = pool.map(lambda x: reader.read(0, x, 16, 16), range(0, 64, 16))
            assert all((part == 255).all() for part in parts)
        planes = {"contig": 1, "separate": 4}[planarconfig]
        assert 4 * planes < reader.segments.decoded <= 4 * planes + 10
        assert (reader.read(300, 0, 9, 9) == (255, 0, 0)).all()


@pytest.mark.faults
def test_an_alpha_of_zero_is_looked_for_in_so_many_tiles(tmp_path, monkeypatch):
    monkeypatch.setattr(tiff, "_MOST_TRIED", 5)
    pixels = np.concatenate([PIXELS, np.zeros((48, 64, 1), np.uint8)], -1)
    options = {"photometric": "rgb", "extrasamples": ["unassalpha"], "compression": "zlib"}
    tifffile.imwrite(tmp_path / "a.tif", pixels, **options, **TILES)
    with open_image(tmp_path / "a.tif", cache_bytes=0) as reader:
        for _ in range(2):
            np.testing.assert_array_equal(reader.read(0, 0, 16, 16), PIXELS[:16, :16])
        assert reader.segments.decoded == 2 + 5


@pytest.mark.faults
def test_a_fourth_band_without_meaning_is_left_out_and_said(tmp_path, caplog):
    path = tmp_path / "a.tif"
    four = np.concatenate([PIXELS, PIXELS[..., :1]], -1)
    tifffile.imwrite(path, four, photometric="rgb", extrasamples=["unspecified"])
    np.testing.assert_array_equal(read_image(path), PIXELS)
    assert "fourth band of unspecified meaning" in caplog.text


@pytest.mark.parametrize("factor", [1, 256, 257])
def test_a_color_map_of_any_range_is_read(tmp_path, factor):
    colors = np.array([[10, 20, 30], [250, 128, 0], [255, 255, 255]], np.uint16)
    colormap = np.zeros((3, 256), np.uint16)
    colormap[:, :3] = colors.T * factor
    indices = PIXELS[..., 0] % 3
    tifffile.imwrite(tmp_path / "a.tif", indices, photometric="palette", colormap=colormap)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), colors[indices])


@pytest.mark.parametrize("alpha", [0, 255])
def test_a_palette_with_alpha_is_composited(tmp_path, alpha):
    colors = np.array([[10, 20, 30], [250, 128, 0], [1, 2, 3]], np.uint16)
    colormap = np.zeros((3, 256), np.uint16)
    colormap[:, :3] = colors.T * 257
    stored = np.stack([PIXELS[..., 0] % 3, np.full((48, 64), 255, np.uint8)], -1)
    stored[:9, :, 1] = alpha
    expected = colors[stored[..., 0]]
    expected[:9] = expected[:9] if alpha else 255
    extratags = [(320, 3, 768, colormap.ravel().tolist(), True)]
    options = {"photometric": "minisblack", "planarconfig": "contig", "extratags": extratags}
    tifffile.imwrite(tmp_path / "a.tif", stored, extrasamples=["unassalpha"], **options)
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as file:
        file.pages[0].tags[262].overwrite(3)  # a palette, to which tifffile adds no alpha
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), expected)


def test_white_is_zero_leaves_alpha_alone(tmp_path):
    gray = PIXELS[..., :1]
    stored = np.concatenate([255 - gray, np.full_like(gray, 255)], -1)
    options = {"photometric": "miniswhite", "planarconfig": "contig"}
    tifffile.imwrite(tmp_path / "a.tif", stored, extrasamples=["unassalpha"], **options)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), np.repeat(gray, 3, -1))


def test_planes_of_big_endian_sixteen_bits_are_read(tmp_path):
    stored = np.moveaxis(PIXELS.astype(np.uint16) * 257, 2, 0)
    options = {"photometric": "rgb", "planarconfig": "separate", "byteorder": ">", **TILES}
    tifffile.imwrite(tmp_path / "a.tif", stored, bigtiff=True, compression="zlib", **options)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), PIXELS)


def test_what_is_read_is_said_at_verbosity(tmp_path, caplog):
    options = {"resolution": (40000, 40000), "resolutionunit": "centimeter"}
    path = _write(tmp_path / "a.tif", (HALF, REDUCED), (PIXELS, options))
    with caplog.at_level(logging.INFO):
        open_image(path).close()
    said = f"{path} is read: page 2 of 2, 64 x 48 px, scale 0.25 um/px from resolution tags"
    assert caplog.messages == [said]


def test_tiles_with_bytes_after_their_jpeg_are_read(tmp_path):
    path = tmp_path / "a.tif"
    smooth = np.asarray(Image.fromarray(PIXELS[::16, ::16]).resize((64, 64)))
    tifffile.imwrite(path, smooth, photometric="rgb", tile=(64, 64), compression="jpeg")
    whole = read_image(path)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        page = tiff.pages[0]
        offset, count = page.dataoffsets[0], page.databytecounts[0]
        tiff.filehandle.seek(offset)
        data = tiff.filehandle.read(count)
        end = tiff.filehandle.seek(0, 2)
        tiff.filehandle.write(data + bytes(500))
        page.tags["TileOffsets"].overwrite(end)
        page.tags["TileByteCounts"].overwrite(count + 500)
    np.testing.assert_array_equal(read_image(path), whole)
