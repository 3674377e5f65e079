import math

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from histojax.components import pretrained
from histojax.errors import UserError
from histojax.evaluation import perceptual
from histojax.imaging import resampling
from histojax.zoo.registry import SAMPLES


def sample(name):
    return np.asarray(Image.open(SAMPLES / f"{name}.tif"))


def pairs():
    small, field, tissue = map(sample, ("breast_10x", "breast_40x", "synthetic_40x"))
    yield small, resampling.upsample(resampling.downsample(small, 4), 4)
    yield field[100:231, 50:147], field[101:232, 51:148]
    yield field[:160, :224], tissue[:160, :224]


# By stlpips-pytorch 0.0.2 under PyTorch 2.13, for `a, b` of pairs() in turn:
#   t = lambda x: torch.tensor(x / 127.5 - 1, dtype=torch.float32).permute(2, 0, 1)[None]
#   stlpips.LPIPS(net="alex", variant="shift_tolerant")(t(a), t(b)).item()
PUBLISHED = [0.5826706886291504, 0.006178595591336489, 0.41461849212646484]


def test_values_are_those_of_the_package():
    for (a, b), published in zip(pairs(), PUBLISHED, strict=True):
        found = perceptual.st_lpips({"b": b, "a": a}, a)
        assert found["b"] == pytest.approx(published, abs=1e-5)
        assert found["a"] == 0


def test_large_images_are_compared_in_parts_of_one_weight_a_pixel(monkeypatch):
    a, b = (image[:100, :61] for image in map(sample, ("breast_40x", "synthetic_40x")))
    whole = perceptual.st_lpips({"b": b}, a)["b"]
    halves = [
        perceptual.st_lpips({"b": b[part]}, a[part])["b"] for part in (np.s_[:50], np.s_[50:])
    ]
    monkeypatch.setattr(perceptual, "_LARGEST", 61)
    parts = perceptual.st_lpips({"b": b}, a)["b"]
    assert parts == pytest.approx(np.mean(halves), abs=1e-6)
    assert parts == pytest.approx(whole, rel=0.1)


def test_an_image_that_is_too_small_has_no_value():
    assert math.isnan(
        perceptual.st_lpips({"b": np.zeros((64, 20, 3), np.uint8)}, sample("breast_10x")[:64, :20])[
            "b"
        ]
    )
    assert perceptual.st_lpips({}, sample("breast_10x")) == {}


@pytest.mark.faults
def test_lost_weights_are_named(monkeypatch):
    monkeypatch.setattr(perceptual.pretrained, "bundled", lambda name: None)
    with pytest.raises(UserError, match="ST-LPIPS are missing in third_party: install histojax"):
        perceptual._weights.__wrapped__()


@pytest.mark.faults
@pytest.mark.parametrize(
    ("digests", "said"),
    [({}, "has SHA-256"), ({"st_lpips": ""}, "are not those of the network, .*- heads/conv1")],
)
def test_other_weights_are_refused(monkeypatch, tmp_path, digests, said):
    save_file({"heads/conv1": np.zeros(3, np.float32)}, tmp_path / "a.safetensors")
    monkeypatch.setattr(pretrained, "bundled", lambda name: tmp_path / "a.safetensors")
    monkeypatch.setattr(pretrained, "BUNDLED", {**pretrained.BUNDLED, **digests})
    with pytest.raises(UserError, match=said):
        perceptual._weights.__wrapped__()
