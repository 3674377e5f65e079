"""The files and the page about a slide: labels, table, outlines, in px of its full resolution."""

import dataclasses
import pathlib
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from histojax.imaging import ome_tiff, reader, resampling, writers
from histojax.inference.measured import FILES, in_px, write_outlines, write_tables
from histojax.inference.slides import region_nuclei
from histojax.inference.slides.regions import MARGIN
from histojax.inference.slides.view import View
from histojax.nuclei import measurements, outlines
from histojax.report import slide_page
from histojax.runs import workdirs

# Names of files of nuclei -> the end of their names.
OF_NUCLEI = {"labels": ".labels.tif", **FILES, "geojson": ".geojson.gz"}
# Places that the page shows: by their number of nuclei among all regions, as a share, and their
# side, px of the grid on which nuclei are found.
_PLACES, _SIDE = (1.0, 0.75, 0.5, 0.25), 448
# Standard deviation of the Gaussian of the density map, um.
_SMOOTH = 60.0


def write(
    found: region_nuclei.Nuclei,
    view: View,
    scale: int,
    output: pathlib.Path,
    names: Collection[str],
) -> tuple[dict[str, pathlib.Path], measurements.Table]:
    """Writes what is named in `names` of nuclei; the files by name, and the table in level 0 px.

    `scale` is the px of the grid of the nuclei per px of the image that the network reads.
    """
    per_px, name = view.factor * scale, view.path.name
    table = in_px(found.table, per_px, view.mpp)
    paths = {kind: output / f"{view.path.stem}{end}" for kind, end in OF_NUCLEI.items()}
    made = {kind: path for kind, path in paths.items() if kind in names}
    write_tables(made, table)
    if "geojson" in names:
        write_outlines(paths["geojson"], name, found.outlines, table, 1 / per_px)
        if "sr" in names:
            fine = output / f"{view.path.stem}.sr.geojson.gz"
            y, x = (-scale * value for value in view.seen_box[:2])
            write_outlines(fine, name, found.outlines, table, 1.0, (x, y), "enhanced image")
        if view.scanned[:2] != (0, 0):
            # Some viewers count from the part that was scanned.
            y, x = view.scanned[:2]
            place = output / f"{view.path.stem}.scan.geojson.gz"
            write_outlines(place, name, found.outlines, table, 1 / per_px, (-x, -y))
    if "labels" in names:
        seen = view.image.height * scale, view.image.width * scale
        strips = region_nuclei.label_strips(found.outlines, *seen)
        if seen != view.size:
            grid = resampling.NearestRows(seen, view.size)
            strips = (piece for strip in strips for piece in grid.pieces(strip))
        height, width = view.size
        ome_tiff.write(paths["labels"], strips, height=height, width=width, mpp=view.mpp)
    return made, table


def page(
    found: region_nuclei.Nuclei | None,
    table: measurements.Table | None,
    view: View,
    scale: int,
    output: pathlib.Path,
    made: Mapping[str, pathlib.Path],
    note: str,
    times: Mapping[str, float],
    run: workdirs.Run,
) -> None:
    """Writes NAME.html."""
    (height, width), area = view.size, view.tissue_mm2
    facts: dict[str, Any] = {"size": f"{width:,} x {height:,} px"}
    facts["scale"] = "unknown" if view.mpp is None else f"{view.mpp:.4g} µm/px"
    facts["tissue"] = "–" if area is None else f"{area:.3g} mm²"
    facts["note"] = note
    more: dict[str, Any] = {}
    lead = f"Predicted by {workdirs.name_of(run.workdir)}."
    if found is not None and table is not None:
        summary = measurements.summary(table, area)
        lead = f"{summary['count']:,} nuclei found by {workdirs.name_of(run.workdir)}."
        down, across = view.mask.factor
        y, x = table["y_px"] * down, table["x_px"] * across
        um = view.mpp / down if view.mpp else 8.0
        overview, mask = view.mask.overview, view.mask.mask
        density, most = slide_page.density_map(overview, y, x, mask, _SMOOTH / um)
        caption = "Density of nuclei: dark few, bright many"
        if view.mpp:
            caption += f", {float(f'{most / (um / 1e3) ** 2:.2g}'):,.0f} per mm² and more"
        more = {"summary": summary, "table": table, "density": (f"{caption}.", density)}
        more["places"] = _places(found, view, scale)
    if "sr" in made:
        more["pair"] = _pair(made["sr"], view, scale)
    model = {"model": workdirs.name_of(run.workdir), "step": run.step}
    slide_page.write(
        output / f"{view.path.stem}.html",
        name=view.path.name,
        lead=lead,
        facts=facts,
        overview=writers.overlay(view.mask.overview, view.mask.mask.astype(np.uint8)),
        settings=model | {k: f"{seconds:,.1f} s" for k, seconds in times.items()},
        files=[path.name for path in made.values()],
        **more,
    )


def _places(found: region_nuclei.Nuclei, view: View, scale: int) -> list[tuple[str, np.ndarray]]:
    """A few places with many and with few nuclei, outlined."""
    place = np.stack([found.table["y_px"], found.table["x_px"]], axis=1)
    if not len(place) or scale > 1:
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
        inside = np.flatnonzero(np.isin(found.outlines.labels, found.table["label"][near]))
        part = region_nuclei.selected(found.outlines, inside)
        # A fibre may reach further: what lies outside is drawn as the edge.
        points = np.clip(part.points - frame[::-1] + MARGIN, 0, _SIDE + 4 * MARGIN)
        part = dataclasses.replace(part, points=points)
        drawn = outlines.rasterize(part, (_SIDE + 4 * MARGIN,) * 2)
        own = drawn[2 * MARGIN : 2 * MARGIN + height, 2 * MARGIN : 2 * MARGIN + width]
        x, y, across, down = (f"{v / view.factor:,.0f}" for v in (left, top, width, height))
        count = f"{counts[cell]:,} nuclei, {across} x {down} px at x {x}, y {y} px of the slide."
        shown.append((count, writers.overlay(image, own)))
    return shown


def _pair(sr: pathlib.Path, view: View, scale: int) -> tuple[str, np.ndarray, np.ndarray] | None:
    """The middle of the enhanced image, and the same of the original."""
    with reader.open_image(sr) as image:
        side_y, side_x = (min(512, n) // scale * scale for n in (image.height, image.width))
        top, left = (
            (n - side) // 2 // scale * scale
            for n, side in ((image.height, side_y), (image.width, side_x))
        )
        enhanced = image.read(top, left, side_y, side_x)
    y, x = view.seen_box[0] + top // scale, view.seen_box[1] + left // scale
    own = view.image.read(y, x, side_y // scale, side_x // scale)
    enlarged = np.asarray(resampling.upsample(own, scale, "bicubic"))
    return "The middle of the enhanced part.", enlarged, enhanced
