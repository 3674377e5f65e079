"""Post-processing of maps of a slide's size: strips in, labels out, against the whole at once."""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import scipy.ndimage
import skimage.segmentation

from histojax.nuclei.components import label_mask
from histojax.nuclei.watershed import InstanceLabeller, InstanceParameters, flooded_height
from launch import benchmark_timing as timing

_PATCH = 1_000
_NUCLEI = 640  # drawn in a patch; 508 nuclei are left of them
_ROWS = 512
FORMS = ("strips", "whole")


def patch_maps(seed: int = 0, side: int = _PATCH) -> dict[str, np.ndarray]:
    """Made-up maps of one square, float32 (side, side), that continue over its borders.

    Discs of 7 to 13 px radius at random places, some of them touching, with a marker of half the
    radius in each; edges and noise are smooth, as a network's are.
    """
    rng = np.random.default_rng(seed)
    mask, marker = np.zeros((2, side, side), np.float32)
    y, x = np.mgrid[-13:14, -13:14]
    for _ in range(round(_NUCLEI * (side / _PATCH) ** 2)):
        (row, column), radius = rng.integers(0, side, 2), rng.uniform(7, 13)
        where = np.ix_((row + y[:, 0]) % side, (column + x[0]) % side)
        far = y**2 + x**2
        taken = mask[where] > 0
        if taken[far <= (radius / 2 + 2) ** 2].any():
            continue
        mask[where] = np.maximum(mask[where], far <= radius**2)
        marker[where] = np.maximum(marker[where], far <= (radius / 2) ** 2)
    maps = {}
    for name, values in (("mask", mask), ("marker", marker)):
        noise = scipy.ndimage.gaussian_filter(rng.normal(size=mask.shape), 1.5, mode="wrap")
        smooth = scipy.ndimage.gaussian_filter(values, 1, mode="wrap") + 0.5 * noise
        maps[name] = smooth.clip(0, 1).astype(np.float32)
    return maps


def map_strips(size: int, rows: int = _ROWS) -> Iterator[dict[str, np.ndarray]]:
    """Rows of the maps of a made-up slide: one patch, repeated; {name: float32 (rows, size)}."""
    patch = patch_maps()
    columns = np.arange(size) % _PATCH
    for y in range(0, size, rows):
        lines = np.arange(y, min(y + rows, size)) % _PATCH
        yield {name: values[np.ix_(lines, columns)] for name, values in patch.items()}


def whole_image(maps: Mapping[str, np.ndarray], parameters: InstanceParameters) -> np.ndarray:
    """The labels by the naive form: every step on the whole image, every component flooded."""
    p = parameters
    mask = maps["mask"] >= p.mask_threshold
    components = label_mask(mask, min_area=p.min_area, max_hole=p.max_hole)
    seeds = label_mask(mask & (maps["marker"] >= p.marker_threshold), min_area=p.min_marker)
    peaks = scipy.ndimage.maximum(maps["marker"], seeds, np.arange(seeds.max() + 1))
    seeds[(peaks < p.marker_peak)[seeds] | (components == 0)] = 0
    basins = skimage.segmentation.watershed(
        flooded_height(maps, p), seeds, mask=components > 0, connectivity=2
    )
    unmarked = (basins == 0) & (components > 0)
    large = np.bincount(components[unmarked], minlength=components.max() + 1) >= p.min_unmarked
    basins = np.where(unmarked & large[components], components + seeds.max(), basins)
    values, first, areas = np.unique(basins, return_index=True, return_counts=True)
    kept = (values > 0) & (areas >= p.min_area)
    order = np.argsort(first[kept])
    table = np.zeros(basins.max() + 1, np.int32)
    table[values[kept][order]] = np.arange(1, kept.sum() + 1)
    return table[basins]


def measure(size: int, form: str) -> dict[str, Any]:
    """Labels made-up maps of size x size px.

    Args:
        size: side, px.
        form: of FORMS, "strips" (as used: maps and labels pass by strips) or "whole" (naive).

    Returns:
        form, size, seconds and cpu_seconds of labelling (not of making the maps), peak_bytes of
        this process since it began, nuclei, and labels: their checksum.
    """
    parameters = InstanceParameters()
    spent = [0.0, 0.0]
    checksum, nuclei = 0, 0

    def timed(function, *arguments):
        started, cpu = time.perf_counter(), time.process_time()
        result = function(*arguments)
        spent[0] += time.perf_counter() - started
        spent[1] += time.process_time() - cpu
        return result

    if form == "whole":
        strips = list(map_strips(size))
        maps = {
            name: np.concatenate([strip.pop(name) for strip in strips])
            for name in ("mask", "marker")
        }
        labels = timed(whole_image, maps, parameters)
        checksum, nuclei = zlib.crc32(labels.data), int(labels.max())
    else:
        with InstanceLabeller(size, parameters) as labeller:
            for strip in map_strips(size):
                timed(labeller.add, strip)
            with timed(labeller.finish) as labels:
                nuclei = labels.count
                for y in range(0, size, _ROWS):
                    rows = timed(labels.read, y, 0, _ROWS, size)
                    checksum = zlib.crc32(rows.data, checksum)
    return {
        "form": form,
        "size": size,
        "seconds": spent[0],
        "cpu_seconds": spent[1],
        "peak_bytes": timing.process_peak_bytes(),
        "nuclei": nuclei,
        "labels": checksum,
    }
