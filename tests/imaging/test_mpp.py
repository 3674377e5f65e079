"""The scale that files state: every type, unit and spelling, and what is no scale."""

import math
import struct

import numpy as np
import pytest
import tifffile
from PIL import Image

from histojax.imaging.labels import read_label_mpp
from histojax.imaging.mpp import first_plausible
from histojax.imaging.reader import open_image

PIXELS = np.zeros((8, 8, 3), np.uint8)
PER_CM = 40_000  # 0.25 um
RATIONAL, SRATIONAL, SHORT, LONG, FLOAT, DOUBLE = 5, 10, 3, 4, 11, 12


def _tagged(path, values, unit=3):
    """A TIFF with resolution tags of (type, count, format, numbers) for each of X and Y."""
    tifffile.imwrite(path, PIXELS, photometric="rgb", metadata=None)
    data = bytearray(path.read_bytes())
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    for entry in range(start + 2, start + 2 + 12 * count, 12):
        (tag,) = struct.unpack_from("<H", data, entry)
        if tag == 296:
            struct.pack_into("<H", data, entry + 8, unit)
        if tag not in (282, 283):
            continue
        if (value := values[tag - 282]) is None:
            struct.pack_into("<H", data, entry, 65_000 + tag)  # another tag, that nobody reads
            continue
        kind, number, form, numbers = value
        packed = struct.pack(f"<{form}", *numbers)
        struct.pack_into("<HI", data, entry + 2, kind, number)
        if len(packed) > 4:
            struct.pack_into("<I", data, entry + 8, len(data))
            data += packed
        else:
            data[entry + 8 : entry + 12] = packed.ljust(4, b"\0")
    path.write_bytes(data)
    return path


def _read(path):
    with open_image(path) as reader:
        return reader.mpp, reader.mpp_from


@pytest.mark.faults
@pytest.mark.parametrize(
    ("x", "y", "unit", "mpp"),
    [
        ((RATIONAL, 1, "II", (PER_CM, 1)),) * 2 + (3, 0.25),
        ((RATIONAL, 1, "II", (10 * PER_CM, 10)),) * 2 + (3, 0.25),
        ((SRATIONAL, 1, "ii", (PER_CM, 1)),) * 2 + (3, 0.25),
        ((SHORT, 1, "H", (PER_CM,)),) * 2 + (3, 0.25),
        ((LONG, 1, "I", (101_600,)),) * 2 + (2, 0.25),
        ((SHORT, 2, "HH", (PER_CM, 7)),) * 2 + (3, 0.25),  # no fraction
        ((FLOAT, 1, "f", (PER_CM,)),) * 2 + (3, 0.25),
        ((DOUBLE, 1, "d", (PER_CM,)),) * 2 + (3, 0.25),
        ((RATIONAL, 1, "II", (PER_CM, 1)), None, 3, 0.25),
        (None, (RATIONAL, 1, "II", (PER_CM, 1)), 3, 0.25),
        ((RATIONAL, 1, "II", (4000, 1)),) * 2 + (3, 2.5),
        ((RATIONAL, 1, "II", (PER_CM, 1)),) * 2 + (1, None),  # no unit
        ((RATIONAL, 1, "II", (1, 0)),) * 2 + (3, None),
        ((FLOAT, 1, "f", (math.nan,)),) * 2 + (3, None),
        ((RATIONAL, 1, "II", (10, 1)),) * 2 + (3, None),  # 1 px a mm
        ((SHORT, 1, "H", (300,)),) * 2 + (2, None),
        ((SHORT, 1, "H", (2400,)),) * 2 + (2, None),
    ],
)
def test_resolution_tags_of_any_type_are_read(tmp_path, x, y, unit, mpp):
    stated, source = _read(_tagged(tmp_path / "a.tif", (x, y), unit))
    if mpp is None:
        assert stated is None
        assert source.startswith("none")
    else:
        assert stated == pytest.approx(mpp, rel=1e-6)
        assert source == "resolution tags"


@pytest.mark.parametrize(
    ("unit", "um"),
    [
        *(dict.fromkeys(("um", "µm", "μm", "micron", "Microns", "micrometer"), 1.0).items()),
        *(dict.fromkeys(("micrometres", "\\u00B5m", " um "), 1.0).items()),
        *(dict.fromkeys(("nm", "nanometer"), 1e-3).items()),
        *(dict.fromkeys(("mm", "millimetre"), 1e3).items()),
        *(dict.fromkeys(("cm", "centimeter", "centimeters"), 1e4).items()),
        *(dict.fromkeys(("inch", "inches", "in"), 25400.0).items()),
        *(dict.fromkeys(("", "pixel", "reference frame", "furlong"), None).items()),
    ],
)
def test_units_are_known_in_every_spelling(tmp_path, unit, um):
    size = 0.25 / (um or 1)
    mpp, source = first_plausible(tmp_path, [("ImageJ", size, size, unit)])
    if um is None:
        assert (mpp, source) == (None, f"none (ImageJ in the unit {unit or 'none'!r})")
    else:
        assert (mpp, source) == (pytest.approx(0.25), "ImageJ")


@pytest.mark.faults
def test_the_first_plausible_scale_is_taken_and_what_is_not_is_said(tmp_path):
    default, real = ("OME", 1000.0, 1000.0, "um"), ("Aperio", 0.2427, 0.0, "um")
    assert first_plausible(tmp_path, [default, real]) == (0.2427, "Aperio")
    mpp, source = first_plausible(tmp_path, [default])
    assert mpp is None
    assert source == "none (OME of 1000 um, a default or no microscope's)"
    assert first_plausible(tmp_path, [("OME", 0.0, 0.0, "um")]) == (None, "none")


@pytest.mark.faults
def test_pixels_that_are_not_square_have_no_scale_and_that_is_said(tmp_path, caplog):
    mpp, source = first_plausible(tmp_path / "a", [("OME", 0.25, 0.27, "um")])
    assert (mpp, source) == (None, "none (OME of 0.25 x 0.27 um, not square)")
    assert "has pixels of 0.25 x 0.27 um: scale taken as unknown" in caplog.text
    assert first_plausible(tmp_path / "b", [("OME", 0.25, 0.2502, "um")]) == (0.25, "OME")


@pytest.mark.faults
@pytest.mark.parametrize(
    ("text", "mpp"),
    [
        (b"AppMag = 20|MPP = 0.2427", 0.2427),  # no 0.5, whatever the objective
        (b"AppMag = 20|MPP = 0,500000", 0.5),
        (b"AppMag = 20|Title = H\xe4matoxylin|MPP = 0.5000", 0.5),
        (b"AppMag = 20", None),
    ],
)
def test_aperio_states_the_scale_as_mpp_alone(tmp_path, text, mpp):
    description = b"Aperio Image Library v11.2.1\r\n8x8|" + text
    options = {"photometric": "rgb", "metadata": None, "resolution": (72, 72)}
    tifffile.imwrite(tmp_path / "a.svs", PIXELS, description=description, **options)
    with open_image(tmp_path / "a.svs") as reader:
        assert (reader.mpp, reader.power) == (mpp, 20)
    assert read_label_mpp(tmp_path / "a.svs") == mpp


@pytest.mark.faults
@pytest.mark.parametrize(
    ("stated", "mpp"),
    [
        ({"X": 0.25, "XUnit": "µm"}, 0.25),
        ({"Y": 250, "YUnit": "nm"}, 0.25),
        ({"X": 0.25, "XUnit": "μm", "Y": 2.5e-4, "YUnit": "mm"}, 0.25),
        ({"X": "0,25", "XUnit": "micrometer"}, 0.25),
        ({"X": 1, "XUnit": "pixel"}, None),
    ],
)
def test_ome_states_each_axis_in_its_own_unit(tmp_path, stated, mpp):
    metadata = {f"PhysicalSize{name}": value for name, value in stated.items()}
    tifffile.imwrite(tmp_path / "a.tif", PIXELS, photometric="rgb", ome=True, metadata=metadata)
    assert _read(tmp_path / "a.tif")[0] == (None if mpp is None else pytest.approx(mpp))


@pytest.mark.faults
def test_imagej_states_its_unit_and_one_pixel_a_unit_is_its_default(tmp_path):
    options = {"imagej": True, "metadata": {"unit": "micron"}}
    tifffile.imwrite(tmp_path / "a.tif", PIXELS, resolution=(4, 4), **options)
    assert _read(tmp_path / "a.tif") == (0.25, "ImageJ")
    tifffile.imwrite(tmp_path / "b.tif", PIXELS, resolution=(1, 1), **options)
    assert _read(tmp_path / "b.tif")[0] is None


@pytest.mark.faults
@pytest.mark.parametrize("ending", ["png", "jpg", "bmp"])
def test_the_density_of_other_formats_is_a_scale_where_it_can_be_one(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    Image.fromarray(PIXELS).save(path, dpi=(25_400, 25_400))
    assert _read(path) == (pytest.approx(1.0, rel=1e-3), "resolution tags")
    Image.fromarray(PIXELS).save(path, dpi=(72, 72))
    assert _read(path)[0] is None
