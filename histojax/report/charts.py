"""Line charts as inline SVG, styled by the page that holds them (see `report`)."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np

from histojax.report.page import text

WIDTH, HEIGHT = 460, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 10, 34
_POINTS = 240
_HOVER = 60
_LONGEST_NAME = 32  # letters that stand beside a row of dots
# Beyond this ratio of largest to smallest, a linear axis hides the small values.
_LOG_RATIO = 20.0


@dataclasses.dataclass(frozen=True)
class Series:
    """A named curve; a y that is None or not finite is a gap."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]


def line_chart(
    series: Sequence[Series], *, title: str, log: bool | None = None, axis: str = "step"
) -> str:
    """A figure of curves over the training step or another axis, with ticks and a legend.

    Long curves are averaged into bins, the range within each shaded. Points answer to the pointer
    with their value.

    Args:
        series: one curve each; those without a finite value are named in the legend alone.
        title: above the chart.
        log: a logarithmic y axis; by default where all values are positive and span a factor of 20.
        axis: what x counts; a "step" is a whole number, another axis (minutes) need not be.

    Returns:
        HTML; "" where no series has a finite value.
    """
    points = [_finite(one) for one in series]
    values = [y for _, y in points if len(y)]
    if not values:
        return ""
    lowest, highest = (float(f(np.concatenate(values))) for f in (np.min, np.max))
    if log is None:
        log = bool(lowest > 0 and highest / lowest > _LOG_RATIO)
    log = log and lowest > 0
    steps = np.concatenate([x for x, _ in points])
    plot = _Plot.fitting(steps, lowest, highest, log, axis)

    marks, legend = [], []
    for number, (one, (_, y)) in enumerate(zip(series, points, strict=True)):
        color = f"c{number % 8}" + (" dashed" if number >= 8 else "")
        name = text(one.name)
        missing = len(one.y) - len(y)
        note = f" ({missing} not finite)" if missing else ""
        last = f" <b>{number_text(float(y[-1]))}</b>" if len(y) else ""
        legend.append(f'<li class="{color}"><i></i>{name}{last}{note}</li>')
        marks.append(f'<g class="{color}">{_curve(plot, one, name)}</g>')
    scale = ", logarithmic" if log else ""
    label = text(f"{title}: {', '.join(one.name for one in series)} over the {axis}{scale}")
    return (
        f'<figure class="chart"><figcaption>{text(title)}'
        f"{'<small>log scale</small>' if log else ''}</figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">'
        f"{plot.axes()}{''.join(marks)}</svg>"
        f'<ul class="legend">{"".join(legend)}</ul></figure>'
    )


def dot_chart(rows: Sequence[tuple[str, Sequence[float]]], *, title: str) -> str:
    """A figure of one row of dots for each name, with a line at their mean.

    Args:
        rows: (name, values); values that are not finite are left out.
        title: above the chart.

    Returns:
        HTML; "" where no row has a finite value.
    """
    kept = [(name, [v for v in values if math.isfinite(v)]) for name, values in rows]
    flat = [value for _, values in kept for value in values]
    if not flat:
        return ""
    low, high = min(flat), max(flat)
    margin = (high - low) * 0.05 or max(abs(high) * 0.05, 0.5)
    low, high = low - margin, high + margin
    names, row_height = 190, 24
    height = _TOP + row_height * len(kept) + _BOTTOM
    base = height - _BOTTOM

    def x(value: float) -> float:
        return names + (value - low) / (high - low) * (WIDTH - names - _RIGHT)

    marks = []
    for tick in linear_ticks(low, high, 4):
        marks.append(
            f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{_TOP}" y2="{base}"/>'
            f'<text class="tick mid" x="{x(tick):.1f}" y="{base + 16}">{_tick_text(tick)}</text>'
        )
    for number, (name, values) in enumerate(kept):
        y = _TOP + row_height * (number + 0.5)
        shown = name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
        marks.append(
            f'<text class="tick end" x="{names - 8}" y="{y + 3.5:.1f}">{text(shown)}</text>'
        )
        dots = "".join(
            f'<circle class="dot" cx="{x(value):.1f}" cy="{y:.1f}" r="3">'
            f"<title>{text(name)} {number_text(value)}</title></circle>"
            for value in values
        )
        if values:
            mean = x(sum(values) / len(values))
            dots = (
                f'<line class="axis" x1="{mean:.1f}" x2="{mean:.1f}" y1="{y - 8:.1f}" '
                f'y2="{y + 8:.1f}"/>{dots}'
            )
        marks.append(f'<g class="c{number % 8}">{dots}</g>')
    label = text(f"{title}: {', '.join(name for name, _ in kept)}")
    return (
        f'<figure class="chart"><figcaption>{text(title)}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{label}">'
        f"{''.join(marks)}</svg></figure>"
    )


def number_text(value: float) -> str:
    """A number in about four significant digits: 0.01235, 27.31, 1,235, 1.2e-06."""
    size = abs(value)
    if value == 0:
        return "0"
    if size >= 1e7 or size < 1e-4:
        return f"{value:.3g}"
    if size >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def linear_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten within [low, high], about `count` of them."""
    raw = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if raw <= power * m * (1 + 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten within [low, high], thinned to seven; with 2 and 5 times where few."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    multiples = (1, 2, 5) if last - first <= 3 else (1,)
    stride = max(1, -(-(last - first) // 7))
    ticks = [m * 10.0**power for power in range(first, last + 1, stride) for m in multiples]
    return [tick for tick in ticks if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]


@dataclasses.dataclass(frozen=True)
class _Plot:
    """The map from data to the chart's px."""

    left: float
    right: float
    low: float
    high: float
    log: bool
    axis: str

    @classmethod
    def fitting(cls, steps: np.ndarray, low: float, high: float, log: bool, axis: str) -> _Plot:
        left, right = float(steps.min()), float(steps.max())
        if left == right:
            left, right = left - 1, right + 1
        if log:
            margin = max(math.exp(0.05 * (math.log(high) - math.log(low))), 1.05)
            return cls(left, right, low / margin, high * margin, True, axis)
        margin = (high - low) * 0.05 or max(abs(high) * 0.05, 0.5)
        # Counts, errors and scores start at a zero that they never go below.
        bottom = 0.0 if low >= 0 and low - margin < 0 else low - margin
        return cls(left, right, bottom, high + margin, False, axis)

    def x(self, value: float) -> float:
        share = (value - self.left) / (self.right - self.left)
        return _LEFT + share * (WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        if self.log:
            bottom = math.log(self.low)
            share = (math.log(value) - bottom) / (math.log(self.high) - bottom)
        else:
            share = (value - self.low) / (self.high - self.low)
        return HEIGHT - _BOTTOM - share * (HEIGHT - _TOP - _BOTTOM)

    def axes(self) -> str:
        parts = []
        ticks = log_ticks(self.low, self.high) if self.log else linear_ticks(self.low, self.high)
        for tick in ticks:
            y, label = self.y(tick), _tick_text(tick)
            parts.append(
                f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
                f'<text class="tick end" x="{_LEFT - 6}" y="{y + 3.5:.1f}">{label}</text>'
            )
        base = HEIGHT - _BOTTOM
        for tick in linear_ticks(self.left, self.right):
            if self.axis == "step" and tick != round(tick):
                continue
            x = self.x(tick)
            parts.append(
                f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{base}" y2="{base + 4}"/>'
                f'<text class="tick mid" x="{x:.1f}" y="{base + 16}">{_tick_text(tick)}</text>'
            )
        parts.append(
            f'<line class="axis" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{base}" y2="{base}"/>'
            f'<text class="tick end" x="{WIDTH - _RIGHT}" y="{HEIGHT - 4}">{text(self.axis)}</text>'
        )
        return "".join(parts)


def _tick_text(value: float) -> str:
    if value == 0:
        return "0"
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if size <= abs(value) < 1e9:
            return f"{value / size:.6g}{unit}"
    return f"{value:.6g}"


def _finite(series: Series) -> tuple[np.ndarray, np.ndarray]:
    """(x, y) of a series without its gaps."""
    y = np.array([np.nan if value is None else value for value in series.y], np.float64)
    kept = np.isfinite(y)
    return np.asarray(series.x, np.float64)[kept], y[kept]


def _curve(plot: _Plot, series: Series, name: str) -> str:
    """The band, line and points of a series; `name` is escaped."""
    x = np.asarray(series.x, np.float64)
    y = np.array([np.nan if value is None else value for value in series.y], np.float64)
    y[~np.isfinite(y)] = np.nan
    parts = []
    if len(y) > _POINTS:
        x, y, low, high = _binned(x, y)
        parts += [
            f'<polygon class="band" points="{_coordinates(plot, ends, bounds)}"/>'
            for ends, bounds in _band(x, low, high)
        ]
    runs = _runs(x, y)
    for xs, ys in runs:
        if len(xs) > 1:
            parts.append(f'<polyline points="{_coordinates(plot, xs, ys)}"/>')
    seen = "dot" if sum(len(xs) for xs, _ in runs) <= 25 else "hover"
    every = max(1, len(x) // _HOVER)
    for xs, ys in runs:
        for x_at, value in zip(xs[::every], ys[::every], strict=True):
            at = f"step {x_at:,.0f}" if plot.axis == "step" else f"{x_at:.4g} {text(plot.axis)}"
            parts.append(
                f'<circle class="{seen}" cx="{plot.x(x_at):.1f}" cy="{plot.y(value):.1f}" r="3">'
                f"<title>{name} {number_text(value)} at {at}</title></circle>"
            )
    return "".join(parts)


def _coordinates(plot: _Plot, xs: Sequence[float], ys: Sequence[float]) -> str:
    return " ".join(f"{plot.x(x):.1f},{plot.y(y):.1f}" for x, y in zip(xs, ys, strict=True))


def _runs(x: np.ndarray, y: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """The stretches without a gap."""
    gaps = np.flatnonzero(np.isnan(y))
    starts, ends = np.append(0, gaps + 1), np.append(gaps, len(y))
    return [(x[a:b], y[a:b]) for a, b in zip(starts, ends, strict=True) if b > a]


def _band(x: np.ndarray, low: np.ndarray, high: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Outlines of the area between two bounds, one for each stretch without a gap."""
    lower, upper = _runs(x, low), _runs(x, high)
    return [
        (np.concatenate([xs, xs[::-1]]), np.concatenate([ys, above[::-1]]))
        for (xs, ys), (_, above) in zip(lower, upper, strict=True)
        if len(xs) > 1
    ]


def _binned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Means, minima and maxima of about _POINTS bins of equally many points; NaN if all are."""
    edges = np.linspace(0, len(y), _POINTS + 1).round().astype(int)
    rows = []
    for a, b in itertools.pairwise(edges):
        part = y[a:b][~np.isnan(y[a:b])]
        stats = (part.mean(), part.min(), part.max()) if len(part) else (np.nan,) * 3
        rows.append((x[a:b].mean(), *stats))
    return tuple(np.array(rows).T)
