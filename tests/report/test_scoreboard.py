import math

import pytest

from histojax.report import scoreboard


def _entry(mean, spread=0.5):
    return {"mean": mean, "low": mean - spread, "high": mean + spread, "n": 6}


@pytest.mark.parametrize(
    ("key", "metric", "method"),
    [
        ("psnr_rgb_bicubic", "psnr_rgb", "bicubic"),
        ("psnr_y_generator", "psnr_y", "generator"),
        ("dice_bicubic_to_s", "dice", "bicubic_to_s"),
        ("dice_pooled", "dice_pooled", ""),
        ("dice_pooled_joint", "dice_pooled", "joint"),
        ("miou_hr_to_s", "miou", "hr_to_s"),
        ("aji_plus_joint", "aji_plus", "joint"),
        ("aji_joint", "aji", "joint"),
        ("power_spectrum_error_srgan", "power_spectrum_error", "srgan"),
        ("feature_distance_squeezenet1_1_bicubic", "feature_distance_squeezenet1_1", "bicubic"),
        ("feature_distance_vgg19_a_run", "feature_distance_vgg19", "a_run"),
    ],
)
def test_keys_are_metric_and_method(key, metric, method):
    scores = scoreboard.parse({key: _entry(1.0)})
    assert scores.others == {}
    (found,) = [
        (m, list(column)) for table in (scores.images, scores.masks) for m, column in table.items()
    ]
    assert found == (metric, [method])


def test_networks_not_known_are_told_apart_by_the_methods_of_other_metrics():
    scores = scoreboard.parse(
        {"psnr_rgb_my_run": 1.0, "feature_distance_new_net_my_run": 0.2, "feature_distance_x": 0.1}
    )
    assert scores.images["feature_distance_new_net"] == {"my_run": {"mean": 0.2}}
    assert scores.others == {"feature_distance_x": {"mean": 0.1}}


def test_scores_of_classes_are_of_masks_and_named_after_the_class():
    keys = ("dice", "class_miou", "class_miou_pooled", "class_dice_otsu", "class_dice_pooled_b")
    scores = scoreboard.parse({f"{key}_hr_to_s": _entry(0.5) for key in keys})
    assert scores.images == scores.others == {}
    assert list(scores.masks) == list(keys)
    assert all(list(column) == ["hr_to_s"] for column in scores.masks.values())
    assert scoreboard.describe("class_dice_otsu").label == "Dice, otsu"
    assert scoreboard.describe("class_dice_pooled_b").label == "Dice, b, pooled"


def test_best_is_largest_or_smallest_as_the_metric_has_it_and_ties_share_it():
    column = {"a": _entry(1.0), "b": _entry(2.0), "c": {"mean": None}, "d": {"mean": math.nan}}
    assert scoreboard.best_methods(column, "psnr_rgb") == {"b"}
    assert scoreboard.best_methods(column, "power_spectrum_error") == {"a"}
    assert scoreboard.best_methods(column, "feature_distance_vgg19") == {"a"}
    # Equal in the decimals that are shown: neither is called better.
    close = {"a": _entry(27.011), "b": _entry(27.012), "c": _entry(26.0)}
    assert scoreboard.best_methods(close, "psnr_rgb") == {"a", "b"}
    assert scoreboard.best_methods({"a": _entry(1.0)}, "psnr_rgb") == set()


def test_rows_that_read_the_real_image_do_not_compete_unless_all_do():
    column = {"bicubic_to_s": _entry(0.7), "joint": _entry(0.8), "hr_to_s": _entry(0.9)}
    assert scoreboard.best_methods(column, "dice") == {"joint"}
    assert scoreboard.best_methods({"otsu": _entry(0.7), "hr_to_s": _entry(0.8)}, "dice") == {
        "hr_to_s"
    }


@pytest.mark.parametrize(
    ("value", "metric", "text"),
    [
        (27.016, "psnr_rgb", "27.02"),
        (0.8016, "ssim_rgb", "0.802"),
        (0.00004, "power_spectrum_error", "4.0e-05"),
        (-0.00004, "power_spectrum_error", "−4.0e-05"),
        (-0.25, "psnr_rgb", "−0.25"),
        (0.0, "dice", "0.000"),
        (None, "dice", "–"),
        (math.inf, "psnr_rgb", "–"),
        (True, "dice", "–"),
        ("0.5", "dice", "–"),
    ],
)
def test_scores_in_the_decimals_of_their_metric(value, metric, text):
    assert scoreboard.score_text(value, metric) == text


def test_differences_say_whether_their_interval_holds_zero():
    table = scoreboard.difference_table(
        {
            "dice_joint - dice_generator_to_s": {"mean": 0.03, "low": 0.01, "high": 0.05, "n": 6},
            "dice_joint - dice_hr_to_s": {"mean": -0.01, "low": -0.03, "high": 0.01, "n": 6},
            "psnr_rgb_a - psnr_rgb_b": {"mean": None, "low": None, "high": None, "n": 0},
        }
    )
    rows = table.split("<tr>")[2:]
    assert "Dice: joint − generator → S" in rows[0]
    assert "+0.030" in rows[0]
    assert ">clear of 0" in rows[0]
    assert "−0.010" in rows[1]
    assert "not clear of 0" in rows[1]
    assert "clear" not in rows[2]
    assert scoreboard.difference_table({}) == ""
