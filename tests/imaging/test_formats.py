"""Where a JPEG ends, and what else a file holds beside its image."""

import io

import numpy as np
import pytest
from PIL import Image

from histojax.errors import UserError
from histojax.imaging.formats import jpeg_ends
from histojax.imaging.reader import open_image, read_image

y, x = np.mgrid[:48, :64]
SMOOTH = np.stack([120 + y, 200 - x, 90 + (x + y) // 2], -1).astype(np.uint8)


def _jpeg(pixels=SMOOTH, **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95, **options)
    return buffer.getvalue()


def _with_thumbnail():
    """A JPEG with another one in its header, as cameras write it."""
    segment = b"Exif\0\0" + _jpeg(SMOOTH[::4, ::4])
    data = _jpeg()
    return data[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2) + segment + data[2:]


@pytest.mark.faults
@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"restart_marker_blocks": 2}], ids=str
)
def test_a_jpeg_is_whole_whatever_follows_it_and_cut_anywhere_it_is_not(tmp_path, options):
    data = _jpeg(**options)
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    whole = read_image(path)
    for more in (bytes(200_000), b"MotionPhoto_Data" + b"\x00\x01\x02" * 50_000, b"\xff\xd8\xff"):
        path.write_bytes(data + more)
        np.testing.assert_array_equal(read_image(path), whole)
    for length in range(4, len(data) - 1, 97):
        assert not jpeg_ends(data[:length])
        path.write_bytes(data[:length] + bytes(100))
        with pytest.raises(UserError, match="truncated"):
            read_image(path)


@pytest.mark.faults
def test_the_end_of_a_thumbnail_is_not_that_of_the_image(tmp_path):
    data = _with_thumbnail()
    assert data.count(b"\xff\xd9") == 2
    assert jpeg_ends(data)
    assert not jpeg_ends(data[:-2])
    path = tmp_path / "a.jpg"
    path.write_bytes(data[: len(data) - 300])
    with pytest.raises(UserError, match="truncated"):
        open_image(path)


def test_of_several_pictures_of_a_camera_the_first_is_read(tmp_path):
    path = tmp_path / "a.jpg"
    options = {"save_all": True, "append_images": [Image.fromarray(255 - SMOOTH)]}
    Image.fromarray(SMOOTH).save(path, "MPO", quality=95, **options)
    assert np.abs(read_image(path).astype(int) - SMOOTH).max() <= 8


@pytest.mark.faults
def test_an_animation_is_refused(tmp_path):
    path = tmp_path / "a.png"
    other = Image.fromarray(255 - SMOOTH)
    Image.fromarray(SMOOTH).save(path, save_all=True, append_images=[other])
    with pytest.raises(UserError, match="animation of 2 frames, and one image is read"):
        open_image(path)


@pytest.mark.faults
@pytest.mark.parametrize("channels", [1, 3])
def test_an_alpha_of_zero_everywhere_is_opaque(tmp_path, channels, caplog):
    clear = np.zeros((48, 64, 1), np.uint8)
    pixels = np.concatenate([SMOOTH[..., :channels], clear], -1)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png")[..., :channels], pixels[..., :-1])
    assert "alpha of 0 everywhere: read as opaque" in caplog.text
