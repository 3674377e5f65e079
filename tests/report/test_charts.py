import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from histojax.report import charts
from histojax.report.charts import Series


def _marks(chart, tag):
    return [e for e in ElementTree.fromstring(chart).iter() if e.tag == tag]


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 10, [0, 2, 4, 6, 8, 10]),
        # .13 / 5 asks for .026, which the next of 1, 2, 5 makes .05.
        (0.71, 0.84, [0.75, 0.8]),
        (-3, 3, [-2, 0, 2]),
        (500, 3000, [500, 1000, 1500, 2000, 2500, 3000]),
    ],
)
def test_linear_ticks_are_round_numbers(low, high, ticks):
    found = charts.linear_ticks(low, high)
    assert found == pytest.approx(ticks)


def test_log_ticks_cover_decades_and_fill_few():
    assert charts.log_ticks(0.9, 1100) == pytest.approx([1, 10, 100, 1000])
    assert charts.log_ticks(0.9, 11) == pytest.approx([1, 2, 5, 10])
    assert len(charts.log_ticks(1e-12, 1e12)) <= 8


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (27.3149, "27.31"), (1234.5, "1,234"), (0.012349, "0.01235"), (1.2e-6, "1.2e-06")],
)
def test_numbers_have_four_digits(value, text):
    assert charts.number_text(value) == text


def test_the_curve_lies_where_the_values_are():
    chart = charts.line_chart([Series("a", [0, 50, 100], [0.0, 1.0, 0.5])], title="A")
    (line,) = _marks(chart, "polyline")
    points = [tuple(map(float, p.split(","))) for p in line.get("points").split()]
    xs, ys = zip(*points, strict=True)
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.1)
    # Up the page is down in px; .5 lies halfway.
    assert ys[1] < ys[2] < ys[0]
    assert ys[2] == pytest.approx((ys[0] + ys[1]) / 2, abs=0.1)
    titles = [mark.text for mark in _marks(chart, "title")]
    assert titles == ["a 0 at step 0", "a 1 at step 50", "a 0.5 at step 100"]


def test_wide_positive_ranges_are_logarithmic_and_others_linear():
    wide, signed = [1.0, 0.1, 0.01], [1.0, -0.1, 0.01]
    chart = charts.line_chart([Series("a", [0, 1, 2], wide)], title="A")
    assert "log scale" in chart
    (line,) = _marks(chart, "polyline")
    ys = [float(p.split(",")[1]) for p in line.get("points").split()]
    # Equal ratios are equal distances.
    assert ys[1] - ys[0] == pytest.approx(ys[2] - ys[1], abs=0.15)
    assert "log scale" not in charts.line_chart([Series("a", [0, 1, 2], signed)], title="A")
    assert "log scale" not in charts.line_chart([Series("a", [0, 1], [1, 2])], title="A", log=None)


def test_values_that_are_not_finite_break_the_line_and_are_counted():
    chart = charts.line_chart(
        [Series("a", range(5), [1, 2, None, 3, float("nan")]), Series("b", [0], [None])], title="A"
    )
    assert len(_marks(chart, "polyline")) == 1
    assert len(_marks(chart, "circle")) == 3
    assert "(2 not finite)" in chart
    assert "(1 not finite)" in chart
    assert charts.line_chart([Series("a", [0, 1], [None, None])], title="A") == ""
    assert charts.line_chart([], title="A") == ""


@pytest.mark.parametrize("values", [[0.0], [3.0, 3.0], [1e-45, 3e38], [-5, -5, -5], [1e12, 0]])
def test_degenerate_ranges_are_drawn(values):
    chart = charts.line_chart([Series("a", [7] * len(values), values)], title="A")
    assert not re.search(r"nan|inf", chart)
    for circle in _marks(chart, "circle"):
        assert 0 <= float(circle.get("cx")) <= charts.WIDTH
        assert 0 <= float(circle.get("cy")) <= charts.HEIGHT


def test_long_curves_are_averaged_with_their_range_shaded():
    # 240 bins of 400 points: as many of the one value as of the other in each.
    steps = np.arange(96_000)
    noise = np.where(steps % 2, 1.0, 3.0).tolist()
    noise[70_000:72_000] = [None] * 2_000
    chart = charts.line_chart([Series("a", steps, noise)], title="A")
    assert len(chart) < 40_000
    lines, bands = _marks(chart, "polyline"), _marks(chart, "polygon")
    assert len(lines) == len(bands) == 2
    (middle,) = {p.split(",")[1] for line in lines for p in line.get("points").split()}
    edges = {float(p.split(",")[1]) for band in bands for p in band.get("points").split()}
    assert len(edges) == 2
    assert float(middle) == pytest.approx(sum(edges) / 2, abs=0.1)


def test_names_are_escaped():
    chart = charts.line_chart([Series('<b>&"', [0, 1], [1, 2])], title="<i>")
    assert '<b>&"' not in chart
    assert "<i>" not in chart.replace("<i></i>", "")
    ElementTree.fromstring(chart)


def test_dots_stand_where_their_values_are_and_a_line_at_their_mean():
    chart = charts.dot_chart([("a <b>", [0.0, 1.0]), ("c", [0.5, float("nan")])], title="dice")
    xs = [float(x) for x in re.findall(r'<circle class="dot" cx="([\d.]+)"', chart)]
    means = [float(x) for x in re.findall(r'<line class="axis" x1="([\d.]+)"', chart)]
    assert len(xs) == 3
    # Half of the way, by the value of the second row and by the mean of the first.
    assert xs[2] == pytest.approx((xs[0] + xs[1]) / 2, abs=0.1)
    assert means == pytest.approx([xs[2], xs[2]], abs=0.1)
    assert "a &lt;b&gt;" in chart
    assert charts.dot_chart([("a", [float("inf")])], title="dice") == ""
