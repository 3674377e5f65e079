"""A slide-sized image streamed in and out: how much memory it takes, and how long.

The networks are untrained and small (the smoke size): memory is bounded by the tile, the strip and
the number of nuclei, and not by what the weights say.
"""

from __future__ import annotations

import dataclasses
import pathlib
import tempfile
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from configs import generator, joint
from histojax.config import from_values
from histojax.imaging import writers
from histojax.inference import prediction, tiled
from histojax.tissue.rendering import tissue
from launch import benchmark_timing as timing
from launch.benchmark_stages import untrained_run

NETWORKS = {"joint": joint, "generator": generator}
_PATCH = 512
# What the untrained segmenter is made to find: this share of the image.
_FOREGROUND = 0.25
_SMOOTHED = 3


def slide_strips(size: int, seed: int = 0) -> Iterator[np.ndarray]:
    """Rows of a made-up slide, uint8 (rows, size, 3): one patch of synthetic tissue, repeated."""
    patch = tissue(seed, 0, _PATCH)["image"]
    across = -(-size // _PATCH)
    strip = np.tile(patch, (1, across, 1))[:, :size]
    for y in range(0, size, _PATCH):
        yield strip[: size - y]


def smoothed(network: tiled.TiledNetwork) -> tiled.TiledNetwork:
    """The network with its mask averaged over squares of 3 x 3 px.

    An untrained segmenter's mask is speckle, of fifty times as many parts as tissue has nuclei.
    Smoothed, it has about 570 a megapixel; MoNuSeg (Kumar et al. 2017) has as many nuclei.
    """

    @jax.jit
    def windows(image: jax.Array) -> dict[str, jax.Array]:
        outputs = network.windows(image)
        rows = nn.avg_pool(outputs["mask"], (_SMOOTHED, 1), padding="SAME")
        return {**outputs, "mask": nn.avg_pool(rows, (1, _SMOOTHED), padding="SAME")}

    reach = -(-(_SMOOTHED // 2) // network.scale)
    return dataclasses.replace(network, windows=windows, halo=network.halo + reach)


def measure(values: Mapping[str, Any], size: int, tile: int) -> dict[str, Any]:
    """Predicts a made-up tiled TIFF, file to files, in a temporary folder.

    Args:
        values: config of the run, whose networks are untrained.
        size: side of the input, px.
        tile: largest tile, output px.

    Returns:
        networks, input_size, output_size (px, sides), tile, seconds and cpu_seconds (from file to
        files, without compilation), megapixels_per_second of output, peak_bytes of this process
        since it began, nuclei (counted in a mask of a quarter of the image), file_bytes.
    """
    run = untrained_run(from_values(dict(values)))
    with tempfile.TemporaryDirectory(prefix="histojax-benchmark-") as folder:
        source = pathlib.Path(folder) / "slide.tif"
        writers.stream_tiff(source, slide_strips(size), height=size, width=size, mpp=1.0)
        network = tiled.predictor(run, largest=tile)
        if values["name"] == "joint":
            network = smoothed(network)
        outputs = network(next(slide_strips(size))[:, :_PATCH], core=network.core([(size, size)]))
        if "mask" in outputs:
            run.meta["thresholds"]["mask"] = float(np.quantile(outputs["mask"], 1 - _FOREGROUND))
        started, cpu = time.perf_counter(), time.process_time()
        made = prediction.predict_file(run, network, source, pathlib.Path(folder))
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        files = {"input": source, **made.files}
        sizes = {name: path.stat().st_size for name, path in files.items()}
    return {
        "networks": values["name"],
        "input_size": size,
        "output_size": made.size[0],
        "tile": tile,
        "seconds": seconds,
        "cpu_seconds": cpu,
        "megapixels_per_second": made.size[0] * made.size[1] / 1e6 / seconds,
        "peak_bytes": timing.process_peak_bytes(),
        "nuclei": made.nuclei,
        "file_bytes": sizes,
    }
