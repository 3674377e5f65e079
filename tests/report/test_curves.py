import json

import pytest

from histojax.report import curves
from histojax.report.curves import Curve


def write(folder, rows):
    folder.mkdir(exist_ok=True)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "metrics.jsonl").write_text(lines)
    return curves.read_curves(folder)[0]


def test_a_curve_is_what_the_lines_say(tmp_path):
    found = write(
        tmp_path,
        [
            {"step": 1, "split": "train", "loss": 0.5, "seconds": 2.0, "skipped_in_a_row": 0},
            {"step": None, "split": "train", "loss": 9.0},
            {"step": 2, "split": "val", "psnr": 27.0, "seconds": 3.0},
            {"step": 2, "split": "train", "loss": None},
        ],
    )
    assert found == {
        ("train", "loss"): Curve([1, 2], [2.0, None], [0.5, None]),
        ("val", "psnr"): Curve([2], [3.0], [27.0]),
    }
    with pytest.raises(OSError, match="metrics"):
        curves.read_curves(tmp_path / "none")


def run(offset, **more):
    """Curves of a run that logs each minute."""
    minutes = [60.0, 120.0]
    return {
        ("val", "psnr_rgb"): Curve([10, 20], minutes, [27.0 + offset, 28.0 + offset]),
        ("train", "loss"): Curve([10, 20], minutes, [0.2, 0.1]),
        ("train", "gradient_norm_generator"): Curve([10], minutes[:1], [1.0]),
        **more,
    }


def test_only_what_two_runs_have_is_overlaid():
    alone = {("val", "ssim_rgb"): Curve([10], [60.0], [0.8])}
    charts = curves.overlaid({"a": run(0), "b": run(1), "c": alone}, loss=True)
    assert [chart.title for chart in charts] == ["loss (training)", "psnr_rgb (val)"]
    # A run without the metric keeps its place in the legend, and so the others their colours.
    assert [(label.style, label.name, label.last) for label in charts[1].legend] == [
        ("c0", "a", "28"),
        ("c1", "b", "29"),
        ("c2", "c", ""),
    ]
    assert len(curves.overlaid({"a": run(0), "b": run(1)}, loss=False)) == 1
    assert curves.overlaid({"a": run(0), "c": alone}, loss=True) == []


def test_curves_over_time_are_in_minutes():
    untimed = {("val", "psnr_rgb"): Curve([10, 20], [None, None], [27.0, 28.0])}
    (chart,) = curves.overlaid({"a": run(0), "b": run(1)}, loss=False, by_time=True)
    assert "a 27 at 1 minutes" in chart.svg
    assert "b 29 at 2 minutes" in chart.svg
    assert ">minutes</text>" in chart.svg
    assert curves.overlaid({"a": run(0), "b": untimed}, loss=False, by_time=True) == []
