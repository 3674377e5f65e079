"""The page about one image: where its nuclei lie, what they measure, how they were found."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

from histojax.report import charts, document
from histojax.report.document import Picture
from histojax.report.table import Cell, Column, Row, Table, number_text

# Columns of the nuclei with a histogram, without their units.
_DRAWN = ("area", "circularity", "eccentricity", "haematoxylin_mean", "nearest_neighbour")
_STATISTICS = ("mean", "sd", "p5", "p25", "p50", "p75", "p95")
_NOT_FOR_DIAGNOSIS = "Made by histojax, for research; not for diagnosis."


class _Measured(NamedTuple):
    lead: str
    charts: Sequence[charts.Chart]
    table: Table


def write(
    path: Path,
    *,
    name: str,
    lead: str,
    facts: Mapping[str, Any],
    overview: tuple[str, np.ndarray],
    of: str,
    settings: Mapping[str, Any],
    files: Sequence[str],
    density: tuple[str, np.ndarray] | None = None,
    places: Sequence[tuple[str, np.ndarray]] = (),
    pair: tuple[str, np.ndarray, np.ndarray] | None = None,
    summary: Mapping[str, Any] | None = None,
    table: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Writes the page.

    Args:
        path: final name.
        name, lead: of the image, and a sentence about it.
        facts, settings: name -> value, in words.
        overview: (caption, the image or its tissue outlined, uint8 (h, w, 3)).
        of: what its area is of: tissue, or area where all of it counts.
        files: names of the files beside the page.
        density: (caption, the same image with the density of its nuclei).
        places: (caption, uint8 (h, w, 3) with outlines of nuclei) of a few places.
        pair: (caption, original enlarged, enhanced), alike in size.
        summary, table: of the nuclei, by `histojax.nuclei.measurements`.
    """
    content: dict[str, Any] = {
        "overview": Picture(*overview),
        "density": None,
        "places": [Picture(caption, image) for caption, image in places],
        "pair": None,
        "measured": None,
    }
    if density is not None:
        content["density"] = Picture(*density)
    if pair is not None:
        content["pair"] = [Picture(pair[0], image) for image in pair[1:]]
    if summary is not None and table is not None:
        content["measured"] = _measured(summary, table, of)
    pictures = [content["overview"], content["density"], *(content["pair"] or ())]
    document.write(
        path,
        "slide",
        title=name,
        lead=lead,
        footer=_NOT_FOR_DIAGNOSIS,
        pictures=[*filter(None, pictures), *content["places"]],
        facts=facts,
        settings=settings,
        files=files,
        **content,
    )


def _measured(summary: Mapping[str, Any], table: Mapping[str, np.ndarray], of: str) -> _Measured:
    lead = f"{summary['count']:,} nuclei"
    if summary["density_per_mm2"] is not None:
        lead += f", {summary['density_per_mm2']:,.0f} per mm²{' of tissue' * (of == 'tissue')}"
    if summary["at_edge"]:
        lead += f"; {summary['at_edge']:,} at the edge of the image are left out below"
    drawn = [name for name in table if name.startswith(_DRAWN)]
    inside = ~table["touches_edge"].astype(bool)
    found = [charts.histogram(table[name][inside], title=name, axis="") for name in drawn]
    rows = [
        Row(name, [Cell(number_text(entry[key]) if entry["n"] else "–") for key in _STATISTICS])
        for name, entry in summary["columns"].items()
    ]
    columns = [Column(key) for key in _STATISTICS]
    return _Measured(f"{lead}.", [c for c in found if c], Table("column", columns, rows))


def density_map(
    overview: np.ndarray, y: np.ndarray, x: np.ndarray, mask: np.ndarray, sigma: float
) -> tuple[np.ndarray, float]:
    """The density of points over an overview uint8 (h, w, 3), smoothed by `sigma` px, in colour.

    Also what is brightest, points a px. `y` and `x` are the points, px of the overview; `mask`
    (h, w) is where there is tissue.
    """
    import matplotlib

    height, width = mask.shape
    ranges = ((0, height), (0, width))
    counts = np.histogram2d(y, x, bins=(height, width), range=ranges)[0]
    smooth = ndimage.gaussian_filter(counts, sigma)
    highest = np.percentile(smooth[mask], 99.5) if mask.any() else 0
    shown = matplotlib.colormaps["inferno"](smooth / max(highest, 1e-9), bytes=True)[..., :3]
    return np.where(mask[..., None], shown, overview), float(highest)
