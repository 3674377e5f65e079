"""Trained networks on images of any size, tile by tile."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

from histojax.imaging import tiling
from histojax.runs import Run

# One window's pixels on the high-resolution side; memory follows it, a few KiB a pixel.
LARGEST_TILE = 1024


@dataclasses.dataclass(frozen=True, eq=False)
class TiledNetwork:
    """A network made ready for images of any size.

    Attributes:
        windows: uint8 (B, h, w, 3) -> {name: (B, h s, w s, C)}, jitted.
        halo: receptive-field radius, input px.
        stride: total stride, input px.
        scale: output px per input px.
        largest: no tile is larger, input px.
        batch_size: windows per call.
    """

    windows: Callable[[np.ndarray], dict[str, Any]]
    halo: int
    stride: int
    scale: int
    largest: int
    batch_size: int = 1

    def core(self, sizes: Iterable[tuple[int, int]]) -> int:
        """One tile size for all images of these (H, W), so that one window shape is compiled."""
        return tiling.core_size(sizes, halo=self.halo, stride=self.stride, largest=self.largest)

    def tiles(
        self, image: tiling.RegionReader | np.ndarray, *, core: int | None = None
    ) -> Iterator[tiling.Tile]:
        """Tiles of the outputs in raster order; only those in flight are in memory."""
        size = image.shape[:2] if isinstance(image, np.ndarray) else (image.height, image.width)
        return tiling.tiled(
            self.windows,
            image,
            core=core or self.core([size]),
            halo=self.halo,
            scale=self.scale,
            batch_size=self.batch_size,
            stride=self.stride,
        )

    def __call__(self, image: np.ndarray, *, core: int | None = None) -> dict[str, np.ndarray]:
        """Whole outputs {name: (H s, W s, C)} of a uint8 image (H, W, 3) that fits in memory."""
        height, width = image.shape[:2]
        return tiling.assemble(
            self.tiles(image, core=core), height * self.scale, width * self.scale
        )


def enhancer(run: Run, *, largest: int = LARGEST_TILE, batch_size: int = 1) -> TiledNetwork:
    """A run's generator: {"sr": uint8}."""
    generator, scale = run.stage.generator, run.config.data.scale

    @jax.jit
    def windows(lr: jax.Array) -> dict[str, jax.Array]:
        return {"sr": run.stage.enhance(run.state, lr)}

    return TiledNetwork(
        windows, generator.halo, generator.stride, scale, largest // scale, batch_size
    )


def segmenter(run: Run, *, largest: int = LARGEST_TILE, batch_size: int = 1) -> TiledNetwork:
    """A run's segmenter: {"mask": foreground probability (H, W, 1)}."""
    network = run.stage.segmenter

    @jax.jit
    def windows(image: jax.Array) -> dict[str, jax.Array]:
        return {"mask": run.stage.segment(run.state, image)}

    return TiledNetwork(windows, network.halo, network.stride, 1, largest, batch_size)


def predictor(run: Run, *, largest: int = LARGEST_TILE, batch_size: int = 1) -> TiledNetwork:
    """All a run makes of an image: {"sr"} and {"mask"} as far as it has the networks.

    Where a segmenter reads the generator's output, its halo is added to the generator's, so that
    tiles agree with the whole here too.
    """
    has_generator, has_segmenter = hasattr(run.stage, "enhance"), hasattr(run.stage, "segment")
    scale = run.config.data.scale if has_generator else 1
    halo, stride = 0, 1
    if has_segmenter:
        network = run.stage.segmenter
        # The segmenter's grid is aligned to its stride; `scale` px of its input are one px here.
        stride = network.stride // math.gcd(network.stride, scale)
        halo = -(-network.halo // scale)
    if has_generator:
        halo += run.stage.generator.halo

    @jax.jit
    def windows(image: jax.Array) -> dict[str, jax.Array]:
        return run.stage.predict(run.state, image)

    return TiledNetwork(windows, halo, stride, scale, max(largest // scale, stride), batch_size)
