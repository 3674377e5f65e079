import json

import numpy as np
import PIL.Image
import pytest

from histojax.errors import UserError
from histojax.imaging import reader
from histojax.inference import inspection, scale
from histojax.tissue import rendering
from tests import stained, tiny


@pytest.fixture(scope="module")
def field():
    return rendering.tissue(5, 0, 256)["image"]


def facts(path):
    with reader.open_image(path) as image:
        return inspection.facts_of(image, None)


def lines(facts):
    return dict(line.split(maxsplit=1) for line in inspection.lines_of(facts)[1:])


def test_a_file_is_told_by_its_lines(field, tmp_path, capsys):
    tiny.write_tiff(tmp_path / "a.tif", field, mpp=0.25)
    inspection.inspect([tmp_path / "a.tif"])
    first, *rest = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{tmp_path / 'a.tif'}: ")
    assert first.endswith(", 256 x 256 px")
    assert [line.split()[0] for line in rest] == ["scale", "nuclei", "detail", "stains", "shares"]
    assert "0.25 um/px" in rest[0]
    assert "--workdir=RUN" in rest[1]


def test_json_holds_the_same_facts(field, tmp_path, capsys):
    for name in ("b", "a"):
        PIL.Image.fromarray(field).save(tmp_path / f"{name}.png")
    inspection.inspect([tmp_path], as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert [one["path"] for one in found] == [str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    assert found[0] == json.loads(json.dumps(facts(tmp_path / "a.png")))
    assert found[0]["mpp"] is None
    assert found[0]["nuclei"] is None


def test_a_blown_up_image_is_to_be_shrunk(field, tmp_path):
    PIL.Image.fromarray(field).resize((1024, 1024)).save(tmp_path / "large.png")
    found = facts(tmp_path / "large.png")
    side = round(1024 / found["shrinkable"])
    assert found["shrinkable"] > 2.5
    assert f"shrink it to {side} x {side} px first" in lines(found)["detail"]
    PIL.Image.fromarray(field).save(tmp_path / "as_is.png")
    assert "shrink" not in lines(facts(tmp_path / "as_is.png"))["detail"]


def test_stains_are_compared_with_the_standard_ones(tmp_path):
    PIL.Image.fromarray(stained.image(side=128)).save(tmp_path / "a.png")
    found = facts(tmp_path / "a.png")["stains"]
    np.testing.assert_allclose(found["haematoxylin"]["vector"], stained.HAEMATOXYLIN, atol=0.05)
    # Between those of the image, (0.60, 0.70, 0.38) and (0.65, 0.70, 0.29), lie 5.9 degrees.
    assert found["haematoxylin"]["degrees"] == pytest.approx(5.9, abs=3)
    PIL.Image.new("RGB", (128, 128), "white").save(tmp_path / "b.png")
    found = facts(tmp_path / "b.png")
    assert found["stains"].startswith("not found: of its 16384 px, 16384 are white")
    assert lines(found)["detail"] == "cannot be determined"
    assert (found["tissue"], found["pen"]) == (0, 0)


@pytest.mark.parametrize(
    "ink", [(20, 60, 180), (30, 40, 160), (10, 120, 60), (15, 15, 20), (200, 150, 30)]
)
def test_ink_is_no_tissue_of_two_stains(field, tmp_path, ink):
    PIL.Image.fromarray(field).save(tmp_path / "clean.png")
    assert facts(tmp_path / "clean.png")["pen"] < 0.01
    drawn = field.copy()
    drawn[:64] = ink  # a quarter
    PIL.Image.fromarray(drawn).save(tmp_path / "drawn.png")
    assert facts(tmp_path / "drawn.png")["pen"] == pytest.approx(0.25, abs=0.01)


def test_parts_out_of_focus_are_counted():
    image = rendering.tissue(5, 1, 512)["image"]
    small = PIL.Image.fromarray(image[:256, :256]).resize((64, 64))
    image[:256, :256] = np.asarray(small.resize((256, 256)))
    assert inspection.blurred_share(image) == 0.25
    assert inspection.blurred_share(image[:100]) is None


def test_what_cannot_be_read_comes_last(field, tmp_path, capsys):
    PIL.Image.fromarray(field).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"1 of 2 images cannot be read: .*bad\.png"):
        inspection.inspect([tmp_path])
    assert "good.png" in capsys.readouterr().out
    with pytest.raises(UserError, match="does not exist"):
        inspection.inspect([tmp_path / "absent.png"])


def test_a_data_folder_is_summed_up(field, tmp_path, capsys, monkeypatch):
    tiny.folder(tmp_path, count=2)
    monkeypatch.setattr(inspection, "summary_of", lambda folder: f"sum of {folder}")
    inspection.inspect([tmp_path])
    out = capsys.readouterr().out.splitlines()
    assert [line for line in out if "p0.png" in line or "p1.png" in line]
    assert out[-1] == f"sum of {tmp_path}"


def test_nuclei_are_estimated_by_a_run(field, tmp_path, monkeypatch, capsys):
    PIL.Image.fromarray(field).save(tmp_path / "a.png")
    run = tiny.run("use_net")
    monkeypatch.setattr(inspection.workdirs, "load", lambda workdir: run)
    sure = scale.Estimate(22.04, 19.0, 25.0, 40, True, "40 nuclei are the same")
    unsure = scale.Estimate(None, 0.0, 0.0, 0, False, "it shows no tissue")
    for estimate, words in (
        (sure, "22.0 px (19.0 to 25.0), because 40 nuclei are the same"),
        (unsure, "not estimated, because it shows no tissue"),
    ):
        monkeypatch.setattr(scale, "estimator", lambda run, e=estimate: lambda image: e)
        inspection.inspect([tmp_path / "a.png"], workdir=tmp_path)
        assert f"nuclei   {words}" in capsys.readouterr().out
    run = tiny.run("generator")
    with pytest.raises(UserError, match="finds no nuclei; name a run with a segmenter"):
        inspection.inspect([tmp_path / "a.png"], workdir=tmp_path)
