import numpy as np
import pytest

from histojax.metrics import overlap, registry


def test_the_longest_name_that_fits_a_key_is_its_metric():
    assert registry.split_key("aji_plus_sr_to_s") == ("aji_plus", "sr_to_s")
    assert registry.split_key("aji_sr_to_s") == ("aji", "sr_to_s")
    assert registry.split_key("dice_pooled_sr_to_s") == ("dice_pooled", "sr_to_s")
    assert registry.split_key("psnr_rgb") == ("psnr_rgb", "")
    assert registry.split_key("loss") is None


@pytest.mark.parametrize(
    ("name", "title", "higher"),
    [
        ("psnr_y", "PSNR Y", True),
        ("feature_distance_vgg19", "feature distance, vgg19", False),
        ("class_dice_pooled_stroma", "Dice, stroma, pooled", True),
        ("class_dice_stroma", "Dice, stroma", True),
    ],
)
def test_a_metric_says_its_title_and_direction(name, title, higher):
    found = registry.metric(name)
    assert (found.name, found.title, found.higher_is_better) == (name, title, higher)


def test_a_name_that_is_not_known_has_no_metric():
    assert registry.metric("loss") is None


def test_a_group_is_scored_by_its_functions():
    # 1 px shared, 1 of each alone, 1 of neither.
    matrix = overlap.confusion(np.array([1, 1, 0, 0]), np.array([1, 0, 1, 0]))
    assert registry.scores("mask", matrix) == {"dice": 1 / 2, "iou": 1 / 3, "miou": 1 / 3}


@pytest.mark.parametrize(
    ("group", "elsewhere"),
    [
        (
            "image",
            {
                "st_lpips",
                *(
                    f"feature_distance_{n}"
                    for n in ("squeezenet1_1", "segmenter", "vgg16", "vgg19")
                ),
            },
        ),
        ("mask", {"dice_pooled", "iou_pooled"}),
        ("classes", {"class_miou_pooled"}),
        ("instances", set()),
        ("glands", set()),
    ],
)
def test_only_pooled_metrics_and_distances_have_no_function(group, elsewhere):
    found = [metric for metric in registry.METRICS.values() if metric.group == group]
    assert found
    assert {metric.name for metric in found if metric.function is None} == elsewhere


def test_a_family_is_parted_by_the_rows_of_other_metrics():
    keys = ["psnr_rgb_a_run", "feature_distance_new_net_a_run", "feature_distance_x", "loss_a_run"]
    assert list(registry.split_keys(keys).values()) == [
        ("psnr_rgb", "a_run"),
        ("feature_distance_new_net", "a_run"),
        None,
        None,
    ]
