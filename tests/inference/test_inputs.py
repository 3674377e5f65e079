import os
import shutil
import unicodedata

import pytest
from PIL import Image

from histojax.errors import UserError
from histojax.inference import inputs


@pytest.mark.faults
def test_names_differ_by_how_accents_are_stored(tmp_path):
    names = [unicodedata.normalize(kind, "é") for kind in ("NFC", "NFD")]
    for shade, name in zip((0, 255), names, strict=True):
        Image.new("RGB", (8, 8), (shade,) * 3).save(tmp_path / f"{name}.png")
    if len(os.listdir(tmp_path)) == 1:
        pytest.skip("this file system takes both forms for one name")
    made, _ = inputs.image_files([tmp_path])
    assert {path.stem for path in made} == set(names)


@pytest.mark.faults
def test_inputs_that_are_not_there_are_named(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        inputs.image_files([tmp_path / "none.png"])
    with pytest.raises(UserError, match=r"is a folder without images; images end in \.png"):
        inputs.image_files([tmp_path])


@pytest.mark.faults
def test_what_is_not_taken_of_a_folder_is_named(tmp_path):
    for name in ("a.tif", "B.PNG", "notes.txt", "c.svs2", ".DS_Store", "._a.png", "index.html"):
        (tmp_path / name).write_bytes(b"")
    # Of a the record is there, of the file a.b it is not.
    for name in ("a.sr.tif", "a.sr.labels.tif", "a.predicted.json", "a.b.sr.tif"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "sub.png").mkdir()
    files, left = inputs.image_files([tmp_path])
    assert [path.name for path in files] == ["B.PNG", "a.b.sr.tif", "a.tif"]
    ending = "its ending is not that of an image"
    assert left == {
        f"{tmp_path}/c.svs2": ending,
        f"{tmp_path}/notes.txt": ending,
        f"{tmp_path}/sub.png/": "a folder inside a folder, to be named itself",
        f"2 files of {tmp_path}": "made by earlier predictions",
    }
    # A file that is named itself is an image, and counts once.
    files, _ = inputs.image_files([tmp_path / "a.sr.tif", tmp_path / "a.tif", tmp_path])
    assert [path.name for path in files] == ["a.sr.tif", "a.tif", "B.PNG", "a.b.sr.tif"]
    for name in ("a.tif", "B.PNG", "a.b.sr.tif"):
        (tmp_path / name).unlink()
    with pytest.raises(UserError, match="holds only results of earlier predictions; name a folder"):
        inputs.image_files([tmp_path])


@pytest.mark.faults
@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["a.1.tif", "a.2.tif", "a.tif"], None),
        (["x.png", "x.tif"], r"x\.png and .*x\.tif would both be .*out/x\.sr\.tif; rename one"),
        (["a/x.png", "b/x.png"], r"a/x\.png and .*b/x\.png would both be .*out/x\.sr\.tif"),
        (["a.png", "a.sr.png"], r"would both be .*out/a\.sr\.labels\.tif"),
        (["d1/a.tif", "d2/a.svs"], r"d1/a\.tif and .*d2/a\.svs would both be .*out/a\.sr\.tif"),
        (["out/a.tif", "out/a.sr.tif"], r"a\.sr\.tif and .*a\.tif would both be .*a\.sr\.tif"),
        (["a.svs", "a.scan.svs"], r"would both be .*out/a\.scan\.geojson\.gz"),
        (["index.svs"], r"index\.html and .*index\.svs would both be .*index\.html"),
        (["summary.tif"], r"summary\.csv and .*summary\.tif would both be .*summary\.csv"),
    ],
)
def test_no_result_replaces_another_or_an_input(tmp_path, names, said):
    files = [tmp_path / name for name in names]
    suffixes = [".sr.tif", ".labels.tif", ".sr.labels.tif", ".csv"]
    suffixes += [".geojson.gz", ".scan.geojson.gz", ".html"]
    if said is None:
        inputs.check_names(files, tmp_path / "out", suffixes)
        return
    with pytest.raises(UserError, match=said):
        inputs.check_names(files, tmp_path / "out", suffixes)


@pytest.mark.faults
def test_slides_of_no_known_kind_and_those_in_folders_are_named(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("a.svs", "a.vsi", "sub/b.svs"):
        (tmp_path / name).write_bytes(b"")
    files, left = inputs.image_files([tmp_path])
    assert [path.name for path in files] == ["a.svs"]
    assert left == {
        f"{tmp_path}/a.vsi": "its ending is not that of an image",
        f"{tmp_path}/sub/": "a folder inside a folder, to be named itself",
    }


def test_a_dicom_slide_of_two_files_counts_once(real_data, tmp_path):
    for name in ("boxes_0.dcm", "boxes_1.dcm"):
        shutil.copy(real_data / "slides" / "fixtures" / "openslide-python" / name, tmp_path)
    files, left = inputs.image_files([tmp_path])
    assert [path.name for path in files] == ["boxes_0.dcm"]
    assert left == {f"{tmp_path}/boxes_1.dcm": "part of the slide boxes_0.dcm"}
