import pathlib

from histojax.evaluation import words


def entry(mean, low=None, high=None, *, n=6, left_out=0):
    return {"mean": mean, "low": low, "high": high, "n": n, "left_out": left_out}


def chain():
    """The rows of a chain in the order in which it is scored."""
    metrics = {}
    baselines = {"bicubic": 27.02, "linear": 27.9}
    for row, psnr in {**baselines, "generator": 28.4, "joint": 28.314}.items():
        metrics[f"psnr_rgb_{row}"] = entry(psnr)
        metrics[f"psnr_y_{row}"] = entry(psnr + 1)
    rows = ["classical", "bicubic_to_s", "generator_to_s", "hr_to_s", "joint", "hr_to_joint"]
    for number, row in enumerate(rows):
        metrics[f"dice_{row}"] = entry(0.7 + number / 100)
        metrics[f"aji_{row}"] = entry(0.5 + number / 100)
        metrics[f"aji_plus_{row}"] = entry(0.4)
    differences = {
        "psnr_rgb_joint - psnr_rgb_linear": entry(0.414, 0.3, 0.52),
        "dice_joint - dice_bicubic_to_s": entry(0.03, -0.0104, 0.0704),
    }
    return {"metrics": metrics, "differences": differences}


def test_a_chain_is_told_by_its_last_stage_and_the_linear_filter():
    assert words.results(chain()) == [
        "image: PSNR RGB 28.31 dB in the joint image, 27.90 dB in the linear image "
        "(+0.41 dB, 95 % interval +0.30 to +0.52)",
        "nuclei: Dice 0.740 in the joint image, 0.710 in the bicubic image "
        "(+0.030, 95 % interval -0.010 to +0.070)",
        "nuclei: AJI 0.540 in the joint image, 0.510 in the bicubic image",
    ]


def test_a_segmenter_is_told_by_the_real_image_and_the_classical_method():
    metrics = {"psnr_rgb_bicubic": entry(27.0)}
    metrics |= {f"dice_{row}": entry(0.8) for row in ("classical", "bicubic_to_s", "hr_to_s")}
    assert words.results({"metrics": metrics, "differences": {}}) == [
        "nuclei: Dice 0.800 in the real image, 0.800 by the classical method"
    ]


def test_a_run_without_a_baseline_is_told_alone():
    metrics = {f"class_miou_pooled_{row}": entry(0.5) for row in ("bicubic_to_p", "hr_to_p")}
    assert words.results({"metrics": metrics, "differences": {}}) == [
        "classes: mean IoU of classes, pooled 0.500 in the real image"
    ]
    assert words.results({"metrics": {"psnr_rgb_bicubic": entry(27.0)}, "differences": {}}) == [
        "image: PSNR RGB 27.00 dB in the bicubic image"
    ]
    metrics = {f"psnr_rgb_{row}": entry(27.0) for row in ("bicubic", "linear")}
    assert words.results({"metrics": metrics, "differences": {}}) == [
        "image: PSNR RGB 27.00 dB in the linear image"
    ]


def test_glands_are_called_glands():
    metrics = {f"{name}_hr_to_s": entry(0.5) for name in ("dice", "object_f1")}
    metrics["object_hausdorff_hr_to_s"] = entry(12.34, n=4, left_out=2)
    assert words.results({"metrics": metrics, "differences": {}}) == [
        "glands: Dice 0.500 in the real image",
        "glands: object F1 0.500 in the real image",
        "glands: object Hausdorff distance 12.3 px in the real image (2 of 6 images left out)",
    ]


def test_a_score_of_no_image_is_undefined():
    # As summary.json holds it.
    metrics = {"psnr_rgb_bicubic": entry(None, n=0, left_out=3), "psnr_rgb_x": entry(20.0)}
    table = {
        "metrics": metrics,
        "differences": {"psnr_rgb_x - psnr_rgb_bicubic": entry(None, n=0, left_out=3)},
    }
    assert words.results(table) == [
        "image: PSNR RGB 20.00 dB in the x image, undefined in the bicubic image "
        "(3 of 3 images left out)"
    ]
    metrics["psnr_rgb_bicubic"] = entry(float("nan"), n=0, left_out=3)
    assert "undefined in" in words.results(table)[0]


def test_the_last_lines_say_where_and_what_next():
    run = pathlib.Path("runs/a b")
    *results, report, scores, following = words.after_training(chain(), run).splitlines()
    assert results == words.results(chain())
    assert report == "report: runs/a b/report.html"
    assert scores == "all scores: runs/a b/summary.json"
    assert following == (
        "next: python -m histojax.predict '--workdir=runs/a b' --input=PATH --output=FOLDER"
    )
    table = {**chain(), "seen": {}}
    lines = words.after_evaluation(table, run, run / "evaluation-test", "test").splitlines()
    assert lines[-3:] == [
        "all scores: runs/a b/evaluation-test/metrics.json",
        "pictures: runs/a b/evaluation-test/figures",
        "next: python -m histojax.compare 'runs/a b' OTHER_WORKDIR --split=test --output=FOLDER",
    ]
    table |= {"seen": {"p1": "", "p2": ""}, "data": {"images": 6}}
    said = words.after_evaluation(table, run, run / "evaluation-test", "test")
    assert said.startswith("2 of the 6 images were seen in training (p1, p2), so these scores are")


def test_a_pyramid_is_followed_by_synthesis():
    said = words.after_training(chain(), pathlib.Path("run"), synthesizes=True)
    following = "next: python -m histojax.synthesize --workdir=run --masks=PATH --output=FOLDER"
    assert said.splitlines()[-1] == following
