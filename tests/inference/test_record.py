import dataclasses
import hashlib
import json
import os
import shutil

import jax
import pytest

from histojax.inference import record
from histojax.inference.prediction import Prediction
from histojax.inference.scale import Estimate
from tests import tiny

MADE_OF = {"image": "i", "model": "m", "outputs": ["sr"], "mpp": None}
SURE = Estimate(20.0, 18, 22, 40, True, "")


@pytest.fixture
def written(tmp_path):
    """The record of one file of 3 bytes, and what it tells."""
    (tmp_path / "a.sr.tif").write_bytes(b"abc")
    files = {"sr": tmp_path / "a.sr.tif"}
    made = Prediction("a", (4, 5), 0.5, 4, files, None, "as it is", ("background", "x"))
    path = tmp_path / "a.predicted.json"
    record.write(path, made, MADE_OF, SURE)
    return path, made


def test_a_record_tells_the_prediction_again(written):
    path, made = written
    assert record.standing(path, MADE_OF) == (dataclasses.replace(made, before=True), SURE)
    assert record.standing(path, {**MADE_OF, "mpp": 0.5}) is None
    assert json.loads(path.read_text())["estimate"]["nuclei"] == 40


@pytest.mark.faults
@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"made_of": 3}', "\ufffd"])
def test_a_damaged_record_tells_nothing(written, text):
    path, _ = written
    path.write_text(text)
    assert record.standing(path, MADE_OF) is None


@pytest.mark.faults
@pytest.mark.parametrize(
    "change",
    [{"files": {"sr": ["gone.tif", 3]}}, {"files": 3}, {"size": 3}, {"estimate": {"low": 3}}],
)
def test_a_record_of_other_files_tells_nothing(written, change):
    path, _ = written
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert record.standing(path, MADE_OF) is None


def test_digests_follow_bytes_weights_and_meta(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert record.image_digest(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()
    assert record.image_digest(tmp_path / "none") == ""
    run = tiny.run("generator")
    ema = jax.tree.map(lambda x: x * (1 + 1e-6), run.state.ema)
    others = [
        dataclasses.replace(run, state=run.state.replace(ema=ema)),
        dataclasses.replace(run, meta={**run.meta, "mpp_in": 1.0}),
        dataclasses.replace(run, step=1),
    ]
    digests = {record.model_digest(one) for one in (run, *others)}
    assert len(digests) == 4
    assert record.model_digest(dataclasses.replace(run)) in digests


@pytest.mark.faults
@pytest.mark.parametrize(
    ("index", "other", "foreign"),
    [
        ("a.mrxs", "a/Data0001.dat", "b/Data0001.dat"),
        ("a.vms", "a(1,0).jpg", "b(1,0).jpg"),
        ("a.vmu", "a_map.ngr", "a.csv"),
    ],
)
def test_a_digest_follows_the_other_files_of_a_slide(tmp_path, index, other, foreign):
    (tmp_path / index).write_bytes(b"abc")
    alone = record.image_digest(tmp_path / index)
    digests = []
    for name, content in ((foreign, b""), (other, b""), (other, b"x")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
        digests.append(record.image_digest(tmp_path / index))
    assert digests[0] == alone
    assert len(set(digests)) == 3


def test_a_digest_follows_the_other_files_of_a_dicom_slide(real_data, tmp_path):
    folder = real_data / "slides" / "fixtures"
    for name in ("openslide-python/boxes_0.dcm", "openslide-python/boxes_1.dcm"):
        shutil.copy(folder / name, tmp_path)
    first = record.image_digest(tmp_path / "boxes_0.dcm")
    shutil.copy(folder / "highdicom" / "sm_image.dcm", tmp_path)
    assert record.image_digest(tmp_path / "boxes_0.dcm") == first
    os.utime(tmp_path / "boxes_1.dcm", (0, 0))
    assert record.image_digest(tmp_path / "boxes_0.dcm") != first
