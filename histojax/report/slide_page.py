"""The page about one image: where its nuclei lie, what they measure, how they were found."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from histojax.report import charts, document
from histojax.report.document import Picture

# Columns of the nuclei with a histogram, without their units.
_DRAWN = ("area", "circularity", "eccentricity", "haematoxylin_mean", "nearest_neighbour")
_NOT_FOR_DIAGNOSIS = "Made by histojax, for research; not for diagnosis."


def write(
    path: Path,
    *,
    name: str,
    overview: tuple[str, np.ndarray],
    density: tuple[str, np.ndarray] | None = None,
    places: Sequence[tuple[str, np.ndarray]] = (),
    pair: tuple[str, np.ndarray, np.ndarray] | None = None,
    summary: Mapping[str, Any] | None = None,
    table: Mapping[str, np.ndarray] | None = None,
    **content: Any,
) -> None:
    """Writes the page.

    Args:
        path: final name.
        name: of the image.
        overview: (caption, the image or its tissue outlined, uint8 (h, w, 3)).
        density: (caption, the same image with the density of its nuclei).
        places: (caption, uint8 (h, w, 3) with outlines of nuclei) of a few places.
        pair: (caption, original enlarged, enhanced), alike in size.
        summary, table: of the nuclei, by `histojax.nuclei.measurements`.
        content: `lead`, a sentence about the image; `of`, what its area is of, "tissue" or "area"
            where all of it counts; `facts` and `settings`, name -> value in words; `files`, the
            names of those beside the page.
    """
    pictures = {
        "overview": [Picture(*overview)],
        "density": [Picture(*density)] if density else [],
        "pair": [Picture(pair[0], image) for image in pair[1:]] if pair else [],
        "places": [Picture(caption, image) for caption, image in places],
    }
    histograms = []
    if table is not None:
        inside = ~table["touches_edge"].astype(bool)
        names = [name for name in table if name.startswith(_DRAWN)]
        drawn = [charts.histogram(table[name][inside], title=name) for name in names]
        histograms = [chart for chart in drawn if chart is not None]
    document.write(
        path,
        "slide",
        title=name,
        footer=_NOT_FOR_DIAGNOSIS,
        pictures=[picture for part in pictures.values() for picture in part],
        shown=pictures,
        summary=summary,
        histograms=histograms,
        **content,
    )


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
