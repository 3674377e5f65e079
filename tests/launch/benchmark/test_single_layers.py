import pytest

from configs import segmentation, use_net
from histojax.config import to_values
from launch.benchmark import single_layers


def smoke(module):
    return to_values(module.get_config("smoke"))


def test_each_kind_of_convolution_is_timed_and_counted():
    rows = single_layers.measure(smoke(segmentation), name="segmentation", repeats=1, torch=False)
    *layers, total = rows
    by_name = {row["name"]: row for row in layers}
    # The first block reads RGB by one 1x1 convolution, and has two 3x3 and two 5x5 behind it.
    assert by_name["segmentation: 3 to 6, 1x1, 32 px"]["uses"] == 1
    assert total["name"] == "segmentation: all"
    assert total["uses"] == sum(row["uses"] for row in layers) > 10
    for each in ("forward", "input", "weights"):
        spent = sum(row["uses"] * row[f"{each}_ms"] for row in layers)
        assert total[f"{each}_ms"] == pytest.approx(spent)
        assert all(row[f"{each}_ms"] > 0 for row in layers)


def test_strides_and_groups_are_named():
    rows = single_layers.measure(smoke(use_net), name="use_net", repeats=1, torch=False)
    assert any("stride 2, " in row["name"] for row in rows)
    layer = single_layers.Layer((1, 8, 8, 4), (3, 3, 2, 6), (1, 8, 8, 6), 1, 2)
    assert layer.name == "4 to 6, 3x3, 2 groups, 8 px"
