"""Charts as SVG inside a page: curves over training, dots of several seeds, and histograms.

Matplotlib draws axes, lines and points; the page's template adds title and legend. The colours of
chart.mplstyle become variables of the page's style, which has a light and a dark theme.
"""

import contextlib
import io
import itertools
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast
from xml.etree import ElementTree

import numpy as np

from histojax.report.document import printable
from histojax.report.table import finite, number_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDTH, _HEIGHT, _RIGHT, _TOP, _BOTTOM = 460, 250, 12, 10, 34  # px
_STYLE = Path(__file__).with_name("templates") / "chart.mplstyle"
_COLORS = 8
_SOFT = "#5a646e"
_LONGEST_NAME = 32
_BINS = 240
_DOTS, _HOVER = 25, 60  # the most points that are always seen; those that answer to the pointer
# A linear axis hides small values beyond this ratio of the largest to the smallest.
_LOG_RATIO = 20.0
_SVG = "{http://www.w3.org/2000/svg}"
ElementTree.register_namespace("", _SVG[1:-1])
ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")


class Series(NamedTuple):
    """A named curve; a y that is None or not finite is a gap."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """(x, y) in float64, with NaN in gaps."""
        y = np.array([np.nan if value is None else value for value in self.y], np.float64)
        return np.asarray(self.x, np.float64), np.where(np.isfinite(y), y, np.nan)


class Label(NamedTuple):
    """A line of a legend: the style's class of its colour, the last value, values left out."""

    style: str
    name: str
    last: str
    missing: int


class Chart(NamedTuple):
    """A chart; `svg` is markup."""

    title: str
    svg: str
    legend: Sequence[Label] = ()
    log: bool = False


def line_chart(
    series: Sequence[Series], *, title: str, axis: str = "step", marks: Sequence[float] = ()
) -> Chart | None:
    """Curves over the training step or another axis; points answer to the pointer.

    A curve of more than 240 points is averaged in bins, and the range in each bin is shaded. The y
    axis is logarithmic where all values are positive and span a factor of more than 20. A series
    without a finite value is in the legend alone; None where all are. The axis says what x counts
    (a "step" is a whole number); marks are places on x of vertical lines, where curves reach them.
    """
    curves = [one.arrays() for one in series]
    xs = np.concatenate([np.empty(0), *(x[np.isfinite(y)] for x, y in curves)])
    ys = np.concatenate([np.empty(0), *(y[np.isfinite(y)] for _, y in curves)])
    if not ys.size:
        return None
    log = bool(ys.min() > 0 and ys.max() / ys.min() > _LOG_RATIO)
    names = ", ".join(one.name for one in series)
    label = printable(f"{title}: {names} over the {axis}{', logarithmic' if log else ''}")
    legend, notes = [], {}
    with _axes(label, _HEIGHT, left=52) as axes:
        for number, (one, (x, y)) in enumerate(zip(series, curves, strict=True)):
            color, dashed = number % _COLORS, number >= _COLORS
            last = number_text(y[np.isfinite(y)][-1].item()) if np.isfinite(y).any() else ""
            style = f"c{color} dashed" if dashed else f"c{color}"
            legend.append(Label(style, one.name, last, int(np.isnan(y).sum())))
            if len(y) > _BINS:
                x, y, low, high = binned(x, y)
                axes.fill_between(x, low, high, color=f"C{color}", alpha=0.16, linewidth=0)
            axes.plot(x, y, f"C{color}", linestyle="--" if dashed else "-")
            x, y = x[np.isfinite(y)], y[np.isfinite(y)]
            key = f"{'dots' if len(x) <= _DOTS else 'hover'} {number}"
            x, y = (values[:: max(1, len(x) // _HOVER)].tolist() for values in (x, y))
            axes.plot(x, y, f"oC{color}", gid=key)
            place = "step {:,.0f}" if axis == "step" else f"{{:.4g}} {axis}"
            notes[key] = [
                f"{one.name} {number_text(value)} at {place.format(at)}"
                for at, value in zip(x, y, strict=True)
            ]
        for mark in marks:
            if xs.min() <= mark <= xs.max():
                axes.axvline(mark, color=_SOFT, linestyle=":", linewidth=1)
        _scale(axes, ys.min(), ys.max(), log, axis)
        return Chart(title, _svg(axes, label, notes), legend, log)


def dot_chart(rows: Sequence[tuple[str, Sequence[float]]], *, title: str) -> Chart | None:
    """One row of dots for each (name, values), with a line at their mean.

    Values that are not finite are left out; None where no row has others.
    """
    kept = [(name, [v for v in values if finite(v) is not None]) for name, values in rows]
    if not any(values for _, values in kept):
        return None
    label, notes = printable(f"{title}: {', '.join(name for name, _ in kept)}"), {}
    with _axes(label, _TOP + 24 * len(kept) + _BOTTOM, left=190) as axes:
        for number, (name, values) in enumerate(kept):
            notes[f"dots {number}"] = [f"{name} {number_text(value)}" for value in values]
            if values:
                mean, ends = float(np.mean(values)), (number - 0.33, number + 0.33)
                axes.vlines(mean, *ends, color=_SOFT, linewidth=1)
            at, color = [number] * len(values), f"oC{number % _COLORS}"
            axes.plot(values, at, color, gid=f"dots {number}")
        names = [name if len(name) <= _LONGEST_NAME else f"{name[:31]}…" for name, _ in kept]
        axes.set_yticks(range(len(kept)), list(map(printable, names)), parse_math=False)
        axes.set_ylim(len(kept) - 0.5, -0.5)
        axes.grid(axis="x", clip_on=False)
        axes.locator_params(axis="x", nbins=4)
        return Chart(title, _svg(axes, label, notes))


def histogram(values: np.ndarray, *, title: str) -> Chart | None:
    """How often values occur, in 40 bins from the first to the 99th percentile, with the median.

    Values that are not finite are left out; None where no other is.
    """
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    low, high = np.percentile(values, [1, 99])
    counts, edges = np.histogram(values, 40, (low, high) if high > low else None)
    middle = float(np.median(values))
    label = printable(f"{title}: median {number_text(middle)}")
    with _axes(label, _HEIGHT - 60, left=52) as axes:
        axes.stairs(counts, edges, fill=True, color="C0")
        axes.axvline(middle, color=_SOFT, linewidth=1)
        _scale(axes, 0, max(1, counts.max()), False, "")
        legend = [Label("c0", "nuclei", f"median {number_text(middle)}", 0)]
        return Chart(title, _svg(axes, label, {}), legend)


def binned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, ...]:
    """Mean x, and mean, least and largest y, of bins of equally many points; NaN where all are."""
    edges = np.linspace(0, len(y), _BINS + 1).round().astype(int)
    rows = []
    for a, b in itertools.pairwise(edges):
        part = y[a:b][np.isfinite(y[a:b])]
        ends = (part.mean(), part.min(), part.max()) if len(part) else (np.nan,) * 3
        rows.append((x[a:b].mean(), *ends))
    return tuple(np.array(rows).T)


@contextlib.contextmanager
def _axes(salt: str, height: int, *, left: int) -> Iterator["Axes"]:
    """Axes in the style of all charts; ids come from `salt`, which differs between charts."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(fname=_STYLE), warnings.catch_warnings():
        matplotlib.rcParams["svg.hashsalt"] = salt
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure = Figure((_WIDTH / 72, height / 72), frameon=False)
        wide, high = _WIDTH - left - _RIGHT, height - _TOP - _BOTTOM
        yield figure.add_axes((left / _WIDTH, _BOTTOM / height, wide / _WIDTH, high / height))


def _scale(axes: "Axes", low: float, high: float, log: bool, axis: str) -> None:
    """Limits, ticks and grid of curves with values from `low` to `high`."""
    from matplotlib import ticker

    axes.margins(x=0)
    axes.set_xlabel(axis, loc="right", labelpad=0)
    if axis == "step":
        places = ticker.MaxNLocator(5, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1)
        axes.xaxis.set_major_locator(places)
        axes.xaxis.set_major_formatter(ticker.EngFormatter(sep=""))
    if log:
        axes.set_yscale("log")
        within = (1, 2, 5) if high / low < 500 else (1,)
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=within, numticks=8))
        axes.yaxis.set_minor_locator(ticker.NullLocator())
        axes.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:.6g}"))
    elif low >= 0 > axes.get_ylim()[0]:
        axes.set_ylim(bottom=0)  # counts, errors and scores are not negative
    axes.grid(axis="y", clip_on=False)


def _svg(axes: "Axes", label: str, notes: Mapping[str, Sequence[str]]) -> str:
    """The markup of a drawing, with a note at each point; `notes` has their groups' ids."""
    from matplotlib import rcParams
    from matplotlib.figure import Figure

    for artist in axes.get_children():
        artist.set_clip_on(False)  # a clip path would need a reference by url()
    stream = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    cast(Figure, axes.figure).savefig(stream, format="svg", metadata=nothing)
    root = ElementTree.fromstring(stream.getvalue().encode())
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": label}
    root.remove(root[0])  # a style that would hold for the whole page
    for group in root.iter(f"{_SVG}g"):
        key = group.attrib.pop("id", "")
        if key in notes:
            group.set("class", key.split()[0])
            for point, note in zip(group.iter(f"{_SVG}use"), notes[key], strict=True):
                ElementTree.SubElement(point, f"{_SVG}title").text = printable(note)
    markup = ElementTree.tostring(root, encoding="unicode")
    variables = {_SOFT: "var(--soft)", rcParams["grid.color"]: "var(--line)"}
    for number, color in enumerate(rcParams["axes.prop_cycle"].by_key()["color"]):
        variables[color] = f"var(--c{number})"
    return re.sub("#[0-9a-f]{6}", lambda color: variables.get(color[0], color[0]), markup)
