"""Tissue for a large mask: how much memory it takes, how long, and whether tiles show."""

from __future__ import annotations

import pathlib
import tempfile
import time
from typing import Any

import numpy as np
import tifffile

from configs import pyramid
from histojax.data.sources.synthetic import SyntheticSource
from histojax.experiments import chain
from histojax.imaging import tiling, writers
from histojax.runs import workdirs
from histojax.synthesis import files, mask_bank, tissue
from launch import benchmark_timing as timing
from launch.benchmark_stages import untrained_run

# Side of the images that the mask is laid out of, px: their own borders, side by side, must not
# fall on those of tiles.
_IMAGE = 400


def border_ratio(image: np.ndarray, core: int, stride: int = 1) -> float:
    """Mean difference of neighbours across the borders of tiles, over that inside of them.

    Args:
        image: uint8 (H, W, 3).
        core: side of the tiles, px, smaller than the image.
        stride: px that divide it. Inside, too, only lines that it divides are looked at: a network
            that enlarges may leave a pattern of that period, on whose lines the borders lie.
    """
    across, inside = [], []
    for axis in (0, 1):
        off = np.abs(np.diff(image.astype(np.int16), axis=axis)).mean((1 - axis, 2))
        line = np.arange(len(off)) + 1
        across.append(off[line % core == 0])
        inside.append(off[(line % stride == 0) & (line % core != 0)])
    return float(np.concatenate(across).mean() / np.concatenate(inside).mean())


def measure(size: int, tile: int, workdir: str = "") -> dict[str, Any]:
    """Makes tissue for a mask of synthetic nuclei, file to files, in a temporary folder.

    Args:
        size: side of the mask, px.
        tile: largest tile, px.
        workdir: of a pyramid; empty: the laptop's, untrained.

    Returns:
        pyramid, size, tile (px, the core of the tiles), nuclei, seconds and cpu_seconds (from file
        to files, without compilation), megapixels_per_second, peak_bytes of this process since it
        began, border_ratio.
    """
    run = workdirs.load(pathlib.Path(workdir)) if workdir else _untrained()
    bank = mask_bank.collect(SyntheticSource(train=4, size=_IMAGE))
    mask = mask_bank.replaced(bank, size, size, np.random.default_rng(0))
    network = run.stage.synthesizer
    core = tiling.core_size([(size, size)], halo=network.halo, stride=network.stride, largest=tile)
    with tempfile.TemporaryDirectory(prefix="histojax-benchmark-") as folder:
        root = pathlib.Path(folder)
        writers.stream_tiff(root / "mask.tif", [mask.astype(np.uint32)], height=size, width=size)
        nuclei = int(mask.max())
        del mask
        synthesizer = tissue.Synthesizer(run, tile=tile)
        synthesizer.image(np.zeros((core, core), np.int32), seed=(0,))
        started, cpu = time.perf_counter(), time.process_time()
        (made,) = files.write_pairs(synthesizer, [root / "mask.tif"], root / "pairs")
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        peak = timing.process_peak_bytes()
        ratio = border_ratio(tifffile.imread(made), core, network.stride)
    return {
        "pyramid": workdir or "configs/pyramid.py, untrained",
        "size": size,
        "tile": core,
        "nuclei": nuclei,
        "seconds": seconds,
        "cpu_seconds": cpu,
        "megapixels_per_second": size * size / 1e6 / seconds,
        "peak_bytes": peak,
        "border_ratio": ratio,
    }


def _untrained() -> workdirs.Run:
    return untrained_run(chain.stages_of(pyramid.get_config("laptop"))[-1])
