"""The page about an image: where its nuclei lie, what they measure, what was enhanced."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from histojax.imaging import reader, resampling, writers
from histojax.inference.regions import region_nuclei
from histojax.inference.regions.cut import MARGIN
from histojax.inference.regions.enhancement import Enhanced
from histojax.inference.regions.image_nuclei import Found
from histojax.inference.regions.view import View
from histojax.nuclei import measurements, outlines
from histojax.report import slide_page
from histojax.runs import workdirs

# Places that the page shows: by their number of nuclei among all regions, as a share, and their
# side, px of the grid on which nuclei are found.
_PLACES, _SIDE = (1.0, 0.75, 0.5, 0.25), 448
# Standard deviation of the Gaussian of the density map, um; least side of a field with a map, um.
_SMOOTH, _LEAST = 60.0, 600.0


def write(
    run: workdirs.Run,
    view: View,
    nuclei: tuple[Found, measurements.Table] | None,
    enhanced: Enhanced | None,
    files: Mapping[str, pathlib.Path],
    *,
    note: str,
    times: Mapping[str, float],
) -> None:
    """Writes NAME.html about the nuclei of a view, with their table in px of level 0, if any."""
    (height, width), area = view.size, view.area_mm2
    tissue = "tissue" if view.slide else "area"
    facts: dict[str, Any] = {"size": f"{width:,} x {height:,} px"}
    facts["scale"] = "unknown" if view.mpp is None else f"{view.mpp:.4g} µm/px"
    facts[tissue] = "–" if area is None else f"{area:.3g} mm²"
    facts["note"] = note
    more: dict[str, Any] = {}
    lead = f"Predicted by {workdirs.name_of(run.workdir)}."
    overview, mask = view.mask.overview, view.mask.mask
    if nuclei is not None:
        found, table = nuclei
        summary = measurements.summary(table, area)
        lead = f"{summary['count']:,} nuclei found by {workdirs.name_of(run.workdir)}."
        more = {"summary": summary, "table": table, "places": _places(found)}
        if view.slide or (view.mpp and view.mpp * min(height, width) >= _LEAST):
            more["density"] = _density(view, table)
    if "sr" in files and enhanced is not None:
        more["pair"] = _pair(enhanced)
    shown = ("The image.", overview)
    if view.slide:
        words = "The slide; what is outlined was looked at, and the rest was not."
        shown = (words, writers.overlay(overview, mask.astype(np.uint8)))
    model = {"model": workdirs.name_of(run.workdir), "step": run.step}
    slide_page.write(
        files["page"],
        name=view.path.name,
        lead=lead,
        facts=facts,
        overview=shown,
        of=tissue,
        settings=model | {k: f"{seconds:,.1f} s" for k, seconds in times.items()},
        files=[file.name for kind, file in files.items() if kind != "page"],
        **more,
    )


def _density(view: View, table: measurements.Table) -> tuple[str, np.ndarray]:
    """A caption, and the density of nuclei over the overview."""
    down, across = view.mask.factor
    y, x = table["y_px"] * down, table["x_px"] * across
    um = view.mpp / down if view.mpp else 8.0
    overview, mask = view.mask.overview, view.mask.mask
    density, most = slide_page.density_map(overview, y, x, mask, _SMOOTH / um)
    caption = "Density of nuclei: dark few, bright many"
    if view.mpp:
        caption += f", {float(f'{most / (um / 1e3) ** 2:.2g}'):,.0f} per mm² and more"
    return f"{caption}.", density


def _places(found: Found) -> list[tuple[str, np.ndarray]]:
    """A few places with many and with few nuclei, outlined."""
    view, nuclei = found.view, found.nuclei
    place = np.stack([nuclei.table["y_px"], nuclei.table["x_px"]], axis=1)
    if not len(place) or found.scale > 1:
        return []
    cells, counts = np.unique((place // _SIDE).astype(int), axis=0, return_counts=True)
    # A place that the slide's edge cuts shows little.
    whole = ((cells + 1) * _SIDE <= (view.image.height, view.image.width)).all(1)
    if whole.any():
        cells, counts = cells[whole], counts[whole]
    order = np.argsort(counts, kind="stable")
    chosen = dict.fromkeys(order[round(share * (len(order) - 1))] for share in _PLACES)
    shown = []
    for cell in chosen:
        top, left = (int(k) * _SIDE for k in cells[cell])
        height, width = min(_SIDE, view.image.height - top), min(_SIDE, view.image.width - left)
        image = view.image.read(top, left, height, width)
        # Nuclei reach beyond the place, and none as far as a region's margin.
        frame = np.array([top, left]) - MARGIN
        near = ((frame < place) & (place < frame + MARGIN * 2 + _SIDE)).all(1)
        inside = np.flatnonzero(np.isin(nuclei.outlines.labels, nuclei.table["label"][near]))
        part = region_nuclei.selected(nuclei.outlines, inside)
        # A fibre may reach further: what lies outside is drawn as the edge.
        points = np.clip(part.points - frame[::-1] + MARGIN, 0, _SIDE + 4 * MARGIN)
        part = dataclasses.replace(part, points=points)
        drawn = outlines.rasterize(part, (_SIDE + 4 * MARGIN,) * 2)
        own = drawn[2 * MARGIN : 2 * MARGIN + height, 2 * MARGIN : 2 * MARGIN + width]
        x, y, across, down = (f"{v / view.factor:,.0f}" for v in (left, top, width, height))
        count = f"{counts[cell]:,} nuclei, {across} x {down} px at x {x}, y {y} px of the image."
        shown.append((count, writers.overlay(image, own)))
    return shown


def _pair(enhanced: Enhanced) -> tuple[str, np.ndarray, np.ndarray]:
    """The middle of the enhanced image, and the same of the original."""
    scale, view = enhanced.scale, enhanced.view
    with reader.open_image(enhanced.path) as image:
        side_y, side_x = (min(512, n) // scale * scale for n in (image.height, image.width))
        top, left = (
            (n - side) // 2 // scale * scale
            for n, side in ((image.height, side_y), (image.width, side_x))
        )
        shown = image.read(top, left, side_y, side_x)
    y, x = view.seen_box[0] + top // scale, view.seen_box[1] + left // scale
    own = view.image.read(y, x, side_y // scale, side_x // scale)
    enlarged = np.asarray(resampling.upsample(own, scale, "bicubic"))
    return "The middle of the enhanced part.", enlarged, shown
