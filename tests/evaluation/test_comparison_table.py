import math

import numpy as np
import pytest

from histojax.errors import UserError
from histojax.evaluation import comparison_table


def test_rows_are_named_by_what_they_are_of():
    rows = [
        {
            "name": "a",
            "group": "a",
            "psnr_rgb_bicubic": 1.0,
            "psnr_rgb_generator": 2.0,
            "psnr_rgb_late": 3.0,
            "feature_distance_segmenter_late": 4.0,
            "feature_distance_vgg19_late": 5.0,
            "dice_classical": 6.0,
            "dice_generator_to_s": 7.0,
            "dice_hr_to_s": 8.0,
            "dice_late": 9.0,
            "dice_hr_to_late": 10.0,
        }
    ]
    found, left_out = comparison_table.arranged(rows, "late", "joint")
    assert {key: values[0] for key, values in found.items()} == {
        ("bicubic", "psnr_rgb"): 1,
        ("generator", "psnr_rgb"): 2,
        ("sr", "psnr_rgb"): 3,
        ("sr", "feature_distance_vgg19"): 5,
        ("classical", "dice"): 6,
        ("generator_to_segmentation", "dice"): 7,
        ("hr_to_segmentation", "dice"): 8,
        ("sr_to_s", "dice"): 9,
        ("hr_to_s", "dice"): 10,
    }
    assert left_out == {"feature_distance_segmenter"}


def test_the_segmenter_of_a_chain_without_joint_is_its_own():
    row = {
        "psnr_rgb_late": 1.0,
        "dice_late_to_s": 2.0,
        "dice_bicubic_to_s": 3.0,
        "dice_hr_to_s": 4.0,
    }
    found, _ = comparison_table.arranged([row], "late", "srgan")
    assert [row for row, _ in found] == ["sr", "sr_to_s", "bicubic_to_s", "hr_to_s"]


def test_classes_are_compared_by_name():
    row = {"dice_hr_to_p": 1.0, "class_miou_hr_to_p": 2.0, "class_dice_a_b_hr_to_p": 3.0}
    found, _ = comparison_table.arranged([row], "p", "pyramid")
    assert [metric for _, metric in found] == ["dice", "class_miou", "class_dice_a_b"]


def scores(**runs):
    """Run -> PSNR of its enhanced image, for each image."""
    return {label: {("sr", "psnr_rgb"): np.array(values)} for label, values in runs.items()}


def test_differences_are_paired_and_from_the_first():
    base = [28.0, 30.0, 27.0, 29.0, 31.0, 26.0]
    better = [28.5, 30.1, 27.2, 29.3, 31.6, 26.1]
    mixed = [29.0, 29.0, 28.0, 28.0, 32.0, 25.0]
    found = scores(base=base, better=better, mixed=mixed)
    shared = comparison_table.shared_rows(found)
    assert shared == {"sr": ["psnr_rgb"]}
    by_run = comparison_table.differences(found, shared)["sr"]["psnr_rgb"]
    assert list(by_run) == ["better", "mixed"]
    # (0.5 + 0.1 + 0.2 + 0.3 + 0.6 + 0.1) / 6; all one sign: 2 of 64.
    assert by_run["better"]["mean"] == pytest.approx(0.3)
    assert by_run["better"]["p"] == 2 / 64
    assert by_run["better"]["low"] > 0.1
    # Three up by 1 and three down by 1: any other choice of signs lies as far off.
    assert by_run["mixed"]["mean"] == 0
    assert by_run["mixed"]["p"] == 1
    assert by_run["mixed"]["n"] == 6


def test_an_image_without_finite_score_leaves_its_pair():
    found = scores(a=[math.inf, 28.0, 29.0], b=[math.inf, 29.0, 31.0])
    shared = comparison_table.shared_rows(found)
    entry = comparison_table.differences(found, shared)["sr"]["psnr_rgb"]["b"]
    assert (entry["mean"], entry["n"], entry["left_out"], entry["p"]) == (1.5, 2, 1, 0.5)
    assert comparison_table.means(found, shared)["sr"]["psnr_rgb"]["a"]["mean"] == 28.5


def test_rows_of_one_run_alone_are_not_shared_but_said():
    found = {
        "a": {("sr", "psnr_rgb"): np.ones(2), ("bicubic", "psnr_rgb"): np.ones(2)},
        "b": {("sr", "psnr_rgb"): np.ones(2), ("hr_to_s", "dice"): np.ones(2)},
        "c": {("hr_to_s", "dice"): np.ones(2), ("sr_to_s", "dice"): np.ones(2)},
    }
    assert comparison_table.shared_rows(found) == {"sr": ["psnr_rgb"], "hr_to_s": ["dice"]}
    # The first run lacks it: there is nothing to take a difference from.
    assert list(comparison_table.differences(found, comparison_table.shared_rows(found))) == ["sr"]
    assert comparison_table.omissions(found, set()) == ["Only c has: Nuclei in the enhanced image."]
    assert comparison_table.omissions({"a": found["a"]}, {"feature_distance_segmenter"})[
        -1
    ].startswith("The feature distance in a run's own segmenter is left out")


def test_baselines_that_differ_are_of_other_images():
    def found(**runs):
        return {name: {("bicubic", "psnr_rgb"): np.array(v)} for name, v in runs.items()}

    comparison_table.check_baselines({**found(a=[28.0, 30.0], b=[28.001, 30.0]), "c": {}})
    with pytest.raises(UserError, match="bicubic enlargement scores otherwise in b than in a"):
        comparison_table.check_baselines(found(a=[28.0, 30.0], b=[30.0, 28.0]))


def test_the_smallest_p_is_said_where_it_matters():
    assert "With 6 images no p can be below 0.031." in comparison_table.about_the_test(6)
    assert "no p can be below 1." in comparison_table.about_the_test(1)
    assert "below" not in comparison_table.about_the_test(200)


def test_few_images_show_no_sign():
    assert "show no sign" in comparison_table.about_the_test(4)
    assert "show no sign" not in comparison_table.about_the_test(5)


def test_runs_that_train_and_score_alike_are_one():
    config = {"seed": 0, "segmenter": {"encoder": "resnet18"}}
    configs = {
        "a": {**config, "name": "exp4"},
        "b": {**config, "name": "exp5", "log": {"every": 9}},  # which changes no result
        "c": {**config, "name": "exp4", "seed": 1},
        "d": {**config, "name": "exp4"},
    }
    equal = [0.5, math.nan]
    scores = {"a": equal, "b": list(equal), "c": list(equal), "d": [0.5, 0.25]}
    assert comparison_table.same_runs(configs, scores) == [
        "a and b are the same run: they train alike, and their scores are equal."
    ]


def result():
    found = scores(first=[28.0, 30.0, math.nan], second=[28.5, 30.5, 29.0])
    shared = comparison_table.shared_rows(found)
    return {
        "runs": [{"label": "first"}, {"label": "second"}],
        "against": "first",
        "data": {"images": 3, "split": "val"},
        "test": "p is p.",
        "notes": ["A note."],
        "scores": comparison_table.means(found, shared),
        "baselines": {"sr": {"psnr_rgb": {"bicubic": {"mean": 27.0, "low": 26.0, "high": 28.0}}}},
        "differences": comparison_table.differences(found, shared),
    }


def test_the_table_for_a_terminal_is_aligned():
    lines = comparison_table.table_text(result()).splitlines()
    assert lines[0].startswith("3 images of the val split")
    assert "Enhanced image: PSNR RGB, dB (higher is better)" in lines
    rows = [line for line in lines if line.startswith("  ")]
    assert [row.split()[0] for row in rows] == ["bicubic", "first", "second"]
    assert len({row.index("[") for row in rows}) == 1
    assert rows[1].split()[1] == "29.00"
    assert rows[2].endswith("+0.50 [  +0.50,   +0.50]  p 0.500  (2 images)")
    assert lines[-2:] == ["p is p.", "A note."]


def test_a_line_of_the_file_holds_score_and_difference():
    first, second = comparison_table.flat(result())
    assert (first["row"], first["metric"], first["run"]) == ("sr", "psnr_rgb", "first")
    assert (first["mean"], first["left_out"], first["difference_mean"]) == (29.0, 1, None)
    assert (second["difference_mean"], second["difference_n"], second["p"]) == (0.5, 2, 0.5)
