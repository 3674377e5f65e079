"""Structure and arithmetic of the rows; how long anything takes is never tested."""

import pytest

from configs import generator, joint, srgan
from histojax.config import to_values
from histojax.errors import UserError
from launch.benchmark import steps

TINY = dict(blocks=1, features=8, width=16, cardinality=4, head_kernel=3, tail_kernel=3)


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(steps, "SECONDS", 0.05)


def smoke(module):
    return to_values(module.get_config("smoke"))


def tiny_paper():
    config = generator.get_config("paper")
    config.data.crop = 32
    config.generator.update(TINY)
    return to_values(config)


def test_step_of_a_stage():
    values = smoke(generator)
    (row,) = steps.measure_step(values, name="generator", steps=2, matmul_size=16)
    assert row["batch_size"] == values["data"]["batch_size"]
    assert row["images_per_second"] == pytest.approx(row["batch_size"] / row["seconds"])
    assert row["repeats"] == 2
    assert row["flop"] > 0
    assert row["share_of_peak"] == pytest.approx(row["flop"] / row["seconds"] / row["peak_flops"])
    # Four groups of eight channels are computed as one dense kernel.
    assert 0 < row["model_flop"] < row["flop"]
    share = row["model_flop"] / row["seconds"] / row["peak_flops"]
    assert row["model_share_of_peak"] == pytest.approx(share)
    assert row["dtype"] == "float32"
    assert row["peak_bytes"] > row["planned_bytes"] > 0
    assert row["together_images_per_second"] > 0
    slower = 0 < row["input_pairs_per_second"] < row["images_per_second"]
    assert row["bottleneck"] == ("input" if slower else "step")


@pytest.mark.faults
def test_step_refuses_a_batch_that_devices_cannot_share():
    values = smoke(generator)
    values["data"]["batch_size"] = 9
    with pytest.raises(UserError, match=r"data\.batch_size=9 has to be a multiple of the [28]"):
        steps.measure_step(values, name="generator", steps=1)


def test_feature_loss_gets_an_untrained_encoder():
    stage = steps.untrained_stage(srgan.get_config("smoke"))
    assert stage.content.network.name == "segmenter"


@pytest.mark.parametrize("placement", ["host", "device"])
def test_input_of_a_stage(placement):
    values = smoke(joint)
    values["data"]["placement"] = placement
    values["data"]["degradation"]["name"] = "bicubic"  # JPEG is the host's alone
    (row,) = steps.measure_input(values, name="joint")
    assert (row["placement"], row["workers"]) == (placement, 0)
    assert row["pairs_per_second"] > 0


def test_forms_train_the_same_network():
    values = tiny_paper()
    (used,) = steps.measure_grouped(values, form="auto", batch_size=2, repeats=2)
    assert (used["name"], used["batch_size"], used["repeats"]) == ("batched, in use", 2, 2)
    assert min(used["seconds"], used["cpu_seconds"], used["peak_bytes"]) > 0
    (xla,) = steps.measure_grouped(values, form="grouped", batch_size=2, repeats=1)
    assert xla["name"] == "grouped"
    (dense,) = steps.measure_grouped(values, form="block_diagonal", batch_size=2, repeats=1)
    # Four groups run as one dense kernel cost more than four kernels.
    assert dense["flop"] > used["flop"] > 0
    assert dense["parameters"] == xla["parameters"] == used["parameters"]
