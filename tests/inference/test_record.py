import dataclasses
import hashlib
import json

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
