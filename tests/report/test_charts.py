import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from histojax.report import charts
from histojax.report.charts import Label, Series


def _marks(chart, tag):
    return [e for e in ElementTree.fromstring(chart.svg).iter() if e.tag.endswith(f"}}{tag}")]


def _points(chart):
    """(x, y) of each point that answers to the pointer -> its note."""
    points = [e for e in _marks(chart, "use") if len(e)]
    return {(float(e.get("x")), float(e.get("y"))): e[0].text for e in points}


def test_the_curve_lies_where_the_values_are():
    chart = charts.line_chart([Series("a", [0, 50, 100], [0.0, 1.0, 0.5])], title="A")
    (xs, ys), notes = zip(*_points(chart), strict=True), [*_points(chart).values()]
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.1)
    # Up the page is down in px; 0.5 lies halfway.
    assert ys[1] < ys[2] < ys[0]
    assert ys[2] == pytest.approx((ys[0] + ys[1]) / 2, abs=0.1)
    assert notes == ["a 0 at step 0", "a 1 at step 50", "a 0.5 at step 100"]
    assert chart.legend == [Label("c0", "a", "0.5", 0)]


def test_wide_positive_ranges_are_logarithmic_and_others_linear():
    wide, signed = [1.0, 0.1, 0.01], [1.0, -0.1, 0.01]
    chart = charts.line_chart([Series("a", [0, 1, 2], wide)], title="A")
    assert chart.log
    ys = [y for _, y in _points(chart)]
    # Equal ratios are equal distances.
    assert ys[1] - ys[0] == pytest.approx(ys[2] - ys[1], abs=0.15)
    assert not charts.line_chart([Series("a", [0, 1, 2], signed)], title="A").log
    assert not charts.line_chart([Series("a", [0, 1], [1, 2])], title="A").log


def test_values_that_are_not_finite_are_gaps_and_counted():
    chart = charts.line_chart(
        [Series("a", range(5), [1, 2, None, 3, float("nan")]), Series("b", [0], [None])], title="A"
    )
    assert len(_points(chart)) == 3
    assert [(label.last, label.missing) for label in chart.legend] == [("3", 2), ("", 1)]
    assert charts.line_chart([Series("a", [0, 1], [None, None])], title="A") is None
    assert charts.line_chart([], title="A") is None


@pytest.mark.parametrize("values", [[0.0], [3.0, 3.0], [1e-45, 3e38], [-5, -5, -5], [1e12, 0]])
def test_degenerate_ranges_are_drawn(values):
    chart = charts.line_chart([Series("a", [7] * len(values), values)], title="A")
    assert not re.search(r"nan|inf", chart.svg)
    (_, _, width, height) = map(float, ElementTree.fromstring(chart.svg).get("viewBox").split())
    for x, y in _points(chart):
        assert 0 <= x <= width
        assert 0 <= y <= height


def test_long_curves_are_averaged_with_their_range_shaded():
    # 240 bins of 400 points: as many of the one value as of the other in each.
    steps = np.arange(96_000)
    noise = np.where(steps % 2, 1.0, 3.0)
    noise[70_000:72_000] = np.nan
    x, *bounds = charts.binned(steps.astype(float), noise)
    assert x[0] == 199.5
    assert [sorted(set(values[np.isfinite(values)])) for values in bounds] == [[2], [1], [3]]
    assert np.isnan(bounds[0]).sum() == 5
    chart = charts.line_chart([Series("a", steps, noise)], title="A")
    assert len(chart.svg) < 40_000


def test_names_are_escaped_and_pages_alike():
    one, other = (
        charts.line_chart([Series('<b>&"$x$\ud800', [0, 1], [1, 2])], title="<i>").svg for _ in "ab"
    )
    assert one == other
    assert "<b>" not in one
    assert "<i>" not in one
    assert not re.search(r"url\(|<style|date", one)
    ElementTree.fromstring(one)


def test_marks_within_reach_are_drawn():
    plain, marked = (
        charts.line_chart([Series("a", [0, 10], [1, 2])], title="A", marks=marks)
        for marks in ([11], [5, 11])
    )
    assert len(_marks(marked, "path")) == len(_marks(plain, "path")) + 1


def test_dots_are_at_their_values_and_a_line_at_their_mean():
    chart = charts.dot_chart([("a <b>$", [0.0, 1.0]), ("c", [0.5, float("nan")])], title="dice")
    xs = [x for x, _ in _points(chart)]
    assert list(_points(chart).values()) == ["a <b>$ 0", "a <b>$ 1", "c 0.5"]
    # Half of the way, by the value of the second row.
    assert xs[2] == pytest.approx((xs[0] + xs[1]) / 2, abs=0.1)
    lines = [re.findall(r"[\d.]+", e.get("d")) for e in _marks(chart, "path")]
    upright = [line for line in lines if len(line) == 4 and line[0] == line[2]]
    means = [float(line[0]) for line in upright if 8 < abs(float(line[1]) - float(line[3])) < 20]
    assert means == pytest.approx([xs[2], xs[2]], abs=0.1)
    assert "a &lt;b&gt;$" in chart.svg
    assert charts.dot_chart([("a", [float("inf")])], title="dice") is None
