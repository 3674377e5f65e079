import csv

import numpy as np
import pytest
import tifffile
from PIL import Image

from histojax.errors import UserError
from histojax.imaging import reader
from histojax.mosaic import files
from tests import commands
from tests.mosaic.fields import cut, grid, tissue


def write(folder, fields, ending="png"):
    """Fields as t1, t2, ..., in a folder that is made."""
    folder.mkdir()
    for number, field in enumerate(fields, 1):
        Image.fromarray(field).save(folder / f"t{number}.{ending}")
    return folder


def table(folder):
    with (folder / "placement.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_command_writes_mosaic_table_and_page(tmp_path):
    fields, corners = grid(tissue(), 2, 2, 180, 120, jitter=10)
    folder, out = write(tmp_path / "in", fields), tmp_path / "out"
    status, _, said = commands.run("stitch", f"--input={folder}", f"--output={out}", "--mpp=0.5")
    assert status == 0, said
    assert {path.name for path in out.iterdir()} == {"mosaic.tif", "placement.csv", "index.html"}
    rows = table(out)
    assert [row["field"] for row in rows] == ["t1.png", "t2.png", "t3.png", "t4.png"]
    assert {row["state"] for row in rows} == {"placed"}
    places = np.array([float(row["y"]) + 1j * float(row["x"]) for row in rows])
    off = places - corners
    assert np.abs(off - off.mean()).max() < 0.5
    with reader.open_image(out / "mosaic.tif") as mosaic:
        assert mosaic.mpp == pytest.approx(0.5, rel=1e-3)
        assert mosaic.read(0, 0, mosaic.height, mosaic.width).shape[2] == 3
    page = (out / "index.html").read_text()
    assert "t1.png – t2.png" in page
    assert page.count("data:image/jpeg") == 2


@pytest.mark.faults
def test_left_out_and_broken_files_are_named_with_status_2(tmp_path):
    fields, _ = grid(tissue(), 2, 2, 180, 120)
    folder = write(tmp_path / "in", [*fields, cut(tissue(1), 40, 40, 180, 180)])
    (folder / "t6.png").write_bytes((folder / "t1.png").read_bytes()[:2000])
    out = tmp_path / "out"
    status, _, said = commands.run("stitch", f"--input={folder}", f"--output={out}")
    assert status == 2
    assert "2 of 6 fields are left out" in said
    rows = {row["field"]: row for row in table(out)}
    assert rows["t5.png"]["state"] == rows["t6.png"]["state"] == "left out"
    assert "cannot be read" in rows["t6.png"]["reason"]
    assert (out / "mosaic.tif").is_file()
    page = (out / "index.html").read_text()
    assert "Fields that are left out" in page
    assert "t5.png" in page


@pytest.mark.faults
def test_a_very_small_field_is_left_out_by_name(tmp_path):
    fields = [cut(tissue(), 0, x, 180, 180) for x in (0, 60, 120)]
    folder = write(tmp_path / "in", [*fields, fields[0][:5, :7]])
    joined = files.stitch_files([folder], tmp_path / "out")
    assert joined.left == {"t4.png": "of 7 x 5 px is too small beside the others"}
    assert joined.files == (tmp_path / "out" / "mosaic.tif",)


@pytest.mark.faults
def test_nothing_joined_is_said_on_the_page_too(tmp_path):
    folder = write(tmp_path / "in", [cut(tissue(k), 0, 0, 180, 180) for k in (0, 1)])
    out = tmp_path / "out"
    status, _, said = commands.run("stitch", f"--input={folder}", f"--output={out}")
    assert status == 2
    assert "2 of 2 fields are left out" in said
    assert "No two fields match" in (out / "index.html").read_text()
    assert not (out / "mosaic.tif").exists()


def test_fields_are_listed_by_the_numbers_in_their_names(tmp_path):
    fields, _ = grid(tissue(), 3, 4, 180, 110)
    order = np.random.default_rng(0).permutation(12)
    folder = write(tmp_path / "in", [fields[k] for k in order])
    joined = files.stitch_files([folder], tmp_path / "out")
    assert [one.name for one in joined.placements] == [f"t{n}.png" for n in range(1, 13)]
    assert {one.group for one in joined.placements} == {1}


def test_color_jpegs_make_a_color_mosaic(tmp_path):
    fields = [cut(tissue(), 0, x, 180, 180) for x in (0, 100)]
    joined = files.stitch_files([write(tmp_path / "in", fields, "jpg")], tmp_path / "out")
    made = reader.read_image(joined.files[0]).astype(int)
    assert np.abs(made[..., 0] - made[..., 1]).mean() > 10


@pytest.mark.faults
def test_after_a_stop_the_same_call_goes_through(tmp_path, monkeypatch):
    fields = [cut(tissue(), 0, x, 180, 180) for x in (0, 100)]
    folder, out = write(tmp_path / "in", fields), tmp_path / "out"

    def stopped(*_, **__):
        raise KeyboardInterrupt

    for name in ("write_csv", "stream_tiff"):
        with monkeypatch.context() as patch:
            patch.setattr(files.writers, name, stopped)
            with pytest.raises(KeyboardInterrupt):
                files.stitch_files([folder], out, again=True)
        (out / ".0123abcd.89abcdef.1.part").write_bytes(b"as a kill leaves it")
    assert files.stitch_files([folder], out, again=True).files == (out / "mosaic.tif",)


@pytest.mark.faults
def test_big_endian_16_bit_fields_are_read_as_they_are(tmp_path):
    (tmp_path / "in").mkdir()
    for number, x in enumerate((0, 100)):
        deep = cut(tissue(), 0, x, 180, 180).astype(np.uint16) * 257
        path = tmp_path / "in" / f"{number}.tif"
        tifffile.imwrite(path, deep, byteorder=">", photometric="rgb")
    joined = files.stitch_files([tmp_path / "in"], tmp_path / "out")
    assert not any(one.reason for one in joined.placements)
    made = reader.read_image(joined.files[0])
    assert np.abs(made[:180, :280].astype(int) - tissue()[:180, :280]).mean() < 3


@pytest.mark.faults
def test_files_that_cannot_be_joined_are_refused(tmp_path):
    fields = [cut(tissue(), 0, x, 60, 60) for x in (0, 20)]
    one = write(tmp_path / "one", fields[:1])
    with pytest.raises(UserError, match="1 image"):
        files.stitch_files([one, one / "t1.png"], tmp_path / "out")
    two = write(tmp_path / "two", fields)
    with pytest.raises(UserError, match="is not empty"):
        files.stitch_files([two], two)
    with pytest.raises(UserError, match="mpp=0"):
        files.stitch_files([two], tmp_path / "out", mpp=0.0)
    (tmp_path / "scales").mkdir()
    for number, mpp in enumerate((0.25, 0.5)):
        resolution = (1e4 / mpp, 1e4 / mpp)
        path = tmp_path / "scales" / f"{number}.tif"
        tifffile.imwrite(path, fields[number], resolution=resolution, resolutionunit="CENTIMETER")
    with pytest.raises(UserError, match=r"0\.25 um/px and .*0\.5"):
        files.stitch_files([tmp_path / "scales"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
