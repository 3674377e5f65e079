import math

import pytest

from histojax.metrics import registry
from histojax.report import table


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
    scores = table.parse({key: _entry(1.0)})
    assert scores.others == {}
    (found,) = [
        (m, list(column)) for table in (scores.images, scores.masks) for m, column in table.items()
    ]
    assert found == (metric, [method])


def test_rows_of_other_metrics_part_an_unknown_network():
    scores = table.parse(
        {"psnr_rgb_my_run": 1.0, "feature_distance_new_net_my_run": 0.2, "feature_distance_x": 0.1}
    )
    assert scores.images["feature_distance_new_net"] == {"my_run": {"mean": 0.2}}
    assert scores.others == {"feature_distance_x": {"mean": 0.1}}


def test_scores_of_classes_have_the_name_of_the_class():
    keys = (
        "dice",
        "class_miou",
        "class_miou_pooled",
        "class_dice_classical",
        "class_dice_pooled_b",
    )
    scores = table.parse({f"{key}_hr_to_s": _entry(0.5) for key in keys})
    assert scores.images == scores.others == {}
    assert list(scores.masks) == list(keys)
    assert all(list(column) == ["hr_to_s"] for column in scores.masks.values())
    assert table.describe("class_dice_classical").title == "Dice, classical"
    assert table.describe("class_dice_pooled_b").title == "Dice, b, pooled"


def test_the_direction_of_a_metric_decides_the_best():
    column = {"a": _entry(1.0), "b": _entry(2.0), "c": {"mean": None}, "d": {"mean": math.nan}}
    assert table.best_rows(column, table.describe("psnr_rgb")) == {"b"}
    assert table.best_rows(column, table.describe("power_spectrum_error")) == {"a"}
    assert table.best_rows(column, table.describe("feature_distance_vgg19")) == {"a"}
    # Equal in the decimals that are shown: neither is called better.
    close = {"a": _entry(27.011), "b": _entry(27.012), "c": _entry(26.0)}
    assert table.best_rows(close, table.describe("psnr_rgb")) == {"a", "b"}
    assert table.best_rows({"a": _entry(1.0)}, table.describe("psnr_rgb")) == set()


def test_references_compete_only_among_themselves():
    column = {"bicubic_to_s": _entry(0.7), "joint": _entry(0.8), "hr_to_s": _entry(0.9)}
    assert table.best_rows(column, table.describe("dice")) == {"joint"}
    assert table.best_rows(
        {"classical": _entry(0.7), "hr_to_s": _entry(0.8)}, table.describe("dice")
    ) == {"hr_to_s"}


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
    assert table.score_text(value, registry.METRICS[metric]) == text


def test_differences_say_whether_their_interval_holds_zero():
    found = table.difference_table(
        {
            "dice_joint - dice_generator_to_s": {"mean": 0.03, "low": 0.01, "high": 0.05, "n": 6},
            "dice_joint - dice_hr_to_s": {"mean": -0.01, "low": -0.03, "high": 0.01, "n": 6},
            "psnr_rgb_a - psnr_rgb_b": {"mean": None, "low": None, "high": None, "n": 0},
        }
    )
    cells = [[cell.value for cell in row.cells] for row in found.rows]
    assert [row.name for row in found.rows] == [
        "Dice: joint − generator → S",
        "Dice: joint − HR → S",
        "PSNR RGB: a − b",
    ]
    assert cells[0] == ["+0.030 ", "+0.010 to +0.050", "6", "clear of 0"]
    assert cells[1] == ["−0.010 ", "−0.030 to +0.010", "6", "not clear of 0"]
    assert cells[2] == ["– dB", "– to –", "0", "–"]
    assert table.difference_table({}).rows == []


@pytest.mark.parametrize(
    ("n", "verdict"),
    [(1, "too few images"), (4, "too few images"), (5, "clear of 0"), (None, "too few images")],
)
def test_few_images_show_no_sign(n, verdict):
    # Two or more of 4 or fewer images on one side of 0 may be chance: 2 / 2^4 = 1 in 8 for four.
    entry = {"mean": 0.03, "low": 0.01, "high": 0.05, "n": n}
    found = table.difference_table({"dice_joint - dice_hr_to_s": entry})
    assert found.rows[0].cells[-1].value == verdict
    assert ("4 agree on one by chance once in 8" in found.caption) == (verdict != "clear of 0")


def test_a_table_for_a_terminal_is_aligned():
    columns = [table.Column("Dice"), table.Column("PSNR RGB", "dB")]
    rows = [
        table.Row("a", [table.Cell("0.8", ["0.7 – 0.9"]), table.Cell()]),
        table.Row("bicubic", [table.Cell("0.75"), table.Cell("28.00")]),
    ]
    assert table.Table("run", columns, rows).text().splitlines() == [
        "run      Dice  PSNR RGB",
        "a         0.8         –",
        "bicubic  0.75     28.00",
    ]


def test_rows_of_values_stand_under_their_keys():
    rows = [
        {"stage": "joint", "ms": 1000.4, "seen": True},
        {"stage": "segmentation", "ms": 2.5, "batch": 70_225, "rate": math.nan},
    ]
    assert table.text_table(rows).splitlines() == [
        "stage            ms  seen   batch  rate",
        "joint         1,000  True       –     –",
        "segmentation    2.5     –  70,225     –",
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (27.3149, "27.31"), (1234.5, "1,234"), (0.012349, "0.01235"), (1.2e-6, "1.2e-06")],
)
def test_numbers_have_four_digits(value, text):
    assert table.number_text(value) == text
