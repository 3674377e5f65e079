import json

import numpy as np
import pytest
from safetensors.numpy import save

from histojax.config import FORMAT
from histojax.errors import UserError
from histojax.zoo import model_file

THIRD = np.float32(1 / 3)


def model():
    kernel, mean = np.full((2, 3), THIRD), np.full(3, THIRD)
    return model_file.Model(
        config={"name": "use_net", "data": {"crop": 16}},
        meta={"mpp_out": 0.25, "data": {"train": []}},
        about={"licence": "CC0-1.0", "step": 7},
        variables={
            "segmenter": {
                "params": {"head": {"kernel": kernel}},
                "batch_stats": {"head": {"mean": mean}},
            }
        },
        landmarks={"abc": np.arange(36, dtype=np.uint8)},
        probe={"input": np.zeros((1, 4, 4, 3), np.uint8)},
    )


@pytest.mark.parametrize("half", [True, False])
def test_a_model_comes_back_as_it_was_written(tmp_path, half):
    model_file.write(tmp_path / "a.safetensors", model(), half=half)
    found, written = model_file.read(tmp_path / "a.safetensors"), model()
    for part in ("config", "meta", "about"):
        assert getattr(found, part) == getattr(written, part)
    variables = found.variables["segmenter"]
    kernel = variables["params"]["head"]["kernel"]
    assert kernel.dtype == np.float32
    # Ten bits of 2^-2 * 1.0101...: half of the last one is 2^-13.
    assert abs(kernel - THIRD).max() < 2.0**-13 if half else (kernel == THIRD).all()
    assert (kernel != THIRD).all() == half
    assert (variables["batch_stats"]["head"]["mean"] == THIRD).all()
    np.testing.assert_array_equal(found.landmarks["abc"], np.arange(36))
    assert found.probe["input"].shape == (1, 4, 4, 3)
    assert (tmp_path / "a.safetensors").stat().st_mode & 0o044


@pytest.mark.faults
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda b: b[:-10], "is damaged or no model file"),
        (lambda b: b + bytes(16), "is damaged or no model file"),
        (lambda b: b"version https://git-lfs.github.com/spec/v1\n" + b"x" * 90, "is damaged or no"),
        (lambda b: b"", "is damaged or no model file"),
        (lambda b: save({"a": THIRD[None]}), "holds arrays, and no model of histojax"),
        (lambda b: save({}, {"histojax": "["}), "is damaged or no model file"),
        (lambda b: save({}, {"histojax": "{}"}), "holds arrays, and no model of histojax"),
        (lambda b: save({}, {"histojax": json.dumps({"format": FORMAT + 1})}), "update histojax"),
    ],
)
def test_a_damaged_or_foreign_file_is_refused_in_a_sentence(tmp_path, change, said):
    path = tmp_path / "a.safetensors"
    model_file.write(path, model(), half=True)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UserError, match=said):
        model_file.read(path)


@pytest.mark.faults
def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        model_file.read(tmp_path / "none.safetensors")
