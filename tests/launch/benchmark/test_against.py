"""Structure and arithmetic of the rows; how long anything takes is never tested."""

import sys

import pytest

from configs import generator, joint, pyramid, segmentation, use_net
from histojax.config import to_values
from histojax.errors import UserError
from launch.benchmark import against, timing

TORCH_MISSING = "PyTorch is wanted only to compare with"


@pytest.fixture(autouse=True)
def _here(monkeypatch):
    monkeypatch.setattr(timing, "apart", lambda function, **options: function(**options))


def smoke(module):
    return to_values(module.get_config("smoke"))


def test_networks_of_a_stage_are_described_without_jax():
    found = {network["network"]: network for network in against.described(smoke(joint))}
    assert [*found] == ["generator", "segmenter", "discriminator"]
    assert found["generator"]["kind"] == "ResNeXt"
    batch, crop = joint.get_config("smoke").data.batch_size, joint.get_config("smoke").data.crop
    assert found["generator"]["shape"] == (batch, crop // 4, crop // 4, 3)
    assert found["segmenter"]["shape"] == (batch, crop, crop, 3)


def block(features=64, width=256, groups=32):
    """Parameters of a ResNeXt block with biases and PReLU."""
    kernels = 2 * features * width + 9 * width * width // groups
    return kernels + 4 * width + features


def inception(c_in, features):
    """Parameters of two Inception blocks with batch normalisation."""
    quarter = features // 4
    common = (9 + 25) * quarter**2 + 2 * 6 * quarter
    return c_in * features + features**2 + 2 * common


WIDTHS = [64, 128, 256, 512]
KNOWN = [
    (use_net, "paper", 35_037_186),  # Rahmon et al. 2021
    # 9x9 to and from RGB, the trunk's 3x3, and two 3x3 to a pixel shuffle.
    (
        generator,
        "gpu",
        16 * block() + (243 + 2) * 64 + 9 * 64**2 + 64 + 2 * (9 * 64 * 256 + 320) + 5_184 * 3 + 3,
    ),
    (
        segmentation,
        "gpu",
        sum(inception(c_in, width) for c_in, width in zip([3, *WIDTHS], [*WIDTHS, 1024], strict=1))
        + sum(inception(2 * width, width) + 8 * width**2 + 4 * width for width in WIDTHS)
        + (64 + 1),
    ),
]


@pytest.mark.parametrize(("module", "size", "parameters"), KNOWN)
def test_full_size_networks_have_the_known_numbers_of_parameters(module, size, parameters):
    (network,) = against.described(to_values(module.get_config(size)))
    assert network["parameters"] == parameters


def test_networks_are_measured_in_both(monkeypatch):
    torch = pytest.importorskip("torch", reason=TORCH_MISSING)

    def no_compiler(module):
        raise RuntimeError("no compiler\nhere")

    monkeypatch.setattr(torch, "compile", lambda module: no_compiler)
    ours, *rows, onnx = against.compare(smoke(generator), name="generator", repeats=1)
    assert ours["name"] == "generator: generator, JAX"
    assert ours["images_per_second"] == pytest.approx(ours["batch_size"] / ours["seconds"])
    assert min(ours["flop"], ours["compile_seconds"], ours["forward_seconds"]) > 0
    forms = [row["name"].removeprefix("generator: generator, PyTorch ") for row in rows]
    assert forms == list(against.FORMS)
    for row in rows[:2]:
        assert row["parameters"] == ours["parameters"]
        for key in ("seconds", "forward_seconds"):
            assert row[f"jax_over_torch_{key}"] == pytest.approx(ours[key] / row[key])
    assert rows[2]["failed"] == "RuntimeError: no compiler"
    # What an earlier call has measured is not measured again.
    monkeypatch.setattr(against, "measure_jax", None)
    kept = {row["name"]: row for row in (ours, *rows, onnx)}
    again = against.compare(smoke(generator), name="generator", repeats=1, kept=kept)
    assert list(again) == [ours, *rows, onnx]
    assert onnx["name"] == "generator: generator, ONNX Runtime"
    assert "failed" in onnx or onnx["forward_seconds"] > 0


def test_networks_run_in_onnx_runtime():
    pytest.importorskip("onnxruntime", reason="ONNX Runtime comes with jax2onnx, an extra")
    row = against.measure_onnx(smoke(use_net), network="segmenter", repeats=1)
    assert (row["batch_size"], row["side"]) == (8, 64)
    assert row["forward_seconds"] > 0


@pytest.mark.faults
def test_missing_onnx_runtime_is_a_row(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    row = against.measure_onnx(smoke(use_net), network="segmenter", repeats=1)
    assert "pip install 'jax2onnx==0.13.0'" in row["failed"]


def test_network_that_pytorch_does_not_have_is_a_row(monkeypatch):
    pytest.importorskip("torch", reason=TORCH_MISSING)
    said = [row["failed"] for row in against.compare(smoke(pyramid), name="pyramid", repeats=1)]
    place = "launch/benchmark/torch_networks.py has no "
    assert f"{place}PyramidGenerator, so it is not compared" in said
    assert all(sentence.startswith(place) for sentence in said)


@pytest.mark.faults
def test_other_networks_and_devices_are_refused():
    pytest.importorskip("torch", reason=TORCH_MISSING)
    (network,) = against.described(smoke(segmentation))
    with pytest.raises(UserError, match=r"InceptionUNet has 5 parameters in JAX and [\d,]+ in PyT"):
        against.check({**network, "parameters": 5})
    with pytest.raises(UserError, match="JAX computes on tpu, which this PyTorch does not see"):
        against.check({**network, "platform": "tpu"})


@pytest.mark.faults
def test_missing_pytorch_is_refused(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="which is not installed: pip install torch"):
        against.version()
