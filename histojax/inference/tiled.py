"""Trained networks on images of any size, tile by tile."""

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from histojax.components.images import by_head
from histojax.data import stain_matching
from histojax.imaging import tiling
from histojax.runs.workdirs import Run
from histojax.stages.base import enhances, segments

# One window's pixels on the high-resolution side; memory follows it, a few KiB a pixel.
LARGEST_TILE = 1024
# Windows that an accelerator sees at once: their output px together, and their number.
_TOGETHER, _MOST = 4 * LARGEST_TILE**2, 8


@dataclasses.dataclass(frozen=True, eq=False)
class TiledNetwork:
    """A network made ready for images of any size.

    Attributes:
        windows: uint8 (B, h, w, 3) -> {name: (B, h s, w s, C)}, of jitted parts.
        halo, stride, largest: receptive-field radius, total stride and largest tile, input px.
        scale: output px per input px.
        matching: stain normalisation of every image before the network sees it.
        parts: of a network that enhances and segments at once, the enhancer and the segmenter.
        devices: over which `windows` spreads a batch.
    """

    windows: Callable[[np.ndarray], dict[str, Any]]
    halo: int
    stride: int
    scale: int
    largest: int
    matching: stain_matching.StainMatching | None = None
    parts: "tuple[TiledNetwork, TiledNetwork] | None" = None
    devices: int = 1

    def core(self, sizes: Iterable[tuple[int, int]]) -> int:
        """One tile size for all images of these (H, W), so that one window shape is compiled."""
        return tiling.core_size(sizes, halo=self.halo, stride=self.stride, largest=self.largest)

    def together(self, side: int) -> int:
        """Windows of `side` px that a device sees at once: 1 on CPU, where more are no faster.

        Elsewhere they have at most 2^22 output px together, or are one window, which is then all
        that bounds the memory.
        """
        if jax.default_backend() == "cpu":
            return 1
        return min(max(_TOGETHER // (side * self.scale) ** 2, 1), _MOST)

    def __call__(self, image: np.ndarray, *, core: int | None = None) -> dict[str, np.ndarray]:
        """Whole outputs {name: (H s, W s, C)} of an image in memory, by tiles of `core` px a side.

        The image is uint8 (H, W, 3); `core` is the best one where it is None. A device holds the
        activations of `together` windows, and the windows of an image have one compiled shape.
        """
        if self.matching is not None:
            image = self.matching.image(image, name="the image")
        core = core or self.core([image.shape[:2]])
        side = core + 2 * tiling.round_up(self.halo, self.stride)
        tiles = tiling.tiled(
            self.windows,
            image,
            core=core,
            halo=self.halo,
            scale=self.scale,
            stride=self.stride,
            batch=self.devices * self.together(side),
            devices=self.devices,
        )
        return tiling.assemble(tiles)


def symmetric_mean(network: Callable[[jax.Array], jax.Array]) -> Callable[[Any], jax.Array]:
    """The mean of a network over the eight symmetries of the square, at eight times the work.

    Tissue has no up and no left, so a network's answers to an image turned and mirrored, turned
    back, are eight opinions of one truth (the geometric self-ensemble of Lim et al. 2017, section
    3.3). Each is computed by itself: at one window shape, one program serves all. The network is
    (B, h, w, C) -> (B, h s, w s, D), uint8 or float; uint8 means are rounded.
    """

    def answer(image: Any, index: int) -> jax.Array:
        x = jnp.asarray(image)
        y = _mirrored(network(_mirrored(x.swapaxes(1, 2) if index & 4 else x, index)), index)
        return y.swapaxes(1, 2) if index & 4 else y

    def mean(image: Any) -> jax.Array:
        first = answer(image, 0)
        others = (answer(image, index).astype(jnp.float32) for index in range(1, 8))
        average = sum(others, first.astype(jnp.float32)) / 8
        if jnp.issubdtype(first.dtype, jnp.integer):
            average = jnp.floor(average + 0.5)
        return average.astype(first.dtype)

    return mean


def _mirrored(x: jax.Array, index: int) -> jax.Array:
    return x[:, :: -1 if index & 1 else 1, :: -1 if index & 2 else 1]


def _compiled(
    network: Callable[[Any, jax.Array], Any], run: Run, ensemble: bool
) -> Callable[[Any], Any]:
    compiled = jax.jit(lambda images: network(run.state, images))
    network_of_all = symmetric_mean(compiled) if ensemble else compiled
    return lambda images: network_of_all(_spread(images))


def _spread(images: Any) -> Any:
    """A batch (B, h, w, C) over as many of this process's devices as divide it."""
    devices = jax.local_devices()
    counts = range(min(len(images), len(devices)), 0, -1)
    count = next(count for count in counts if len(images) % count == 0)
    if count == 1:
        return images
    mesh = jax.sharding.Mesh(np.array(devices[:count]), ("tile",))
    return jax.device_put(images, NamedSharding(mesh, PartitionSpec("tile")))


def enhancer(run: Run, *, largest: int = LARGEST_TILE, ensemble: bool = False) -> TiledNetwork:
    """A run's generator: {"sr": uint8}; `largest` tile, output px, `ensemble` as above."""
    assert enhances(run.stage)
    generator, scale = run.stage.generator, run.config.data.scale
    enhance = _compiled(run.stage.enhance, run, ensemble)
    largest = max(largest // scale, generator.stride)
    geometry = generator.halo, generator.stride, scale, largest
    devices = jax.local_device_count()
    return TiledNetwork(lambda lr: {"sr": enhance(lr)}, *geometry, devices=devices)


def segmenter(run: Run, *, largest: int = LARGEST_TILE, ensemble: bool = False) -> TiledNetwork:
    """A run's segmenter: {head: its map (H, W, 1) in [0, 1]}; the rest as above."""
    assert segments(run.stage)
    network = run.stage.segmenter
    segment = _compiled(run.stage.segment, run, ensemble)
    geometry = network.halo, network.stride, 1, max(largest, network.stride)
    matching = stain_matching.build(run.config, run.meta)
    return TiledNetwork(
        lambda images: by_head(segment(images), network.heads),
        *geometry,
        matching,
        devices=jax.local_device_count(),
    )


def predictor(run: Run, *, largest: int = LARGEST_TILE, ensemble: bool = False) -> TiledNetwork:
    """All that a run makes of an image: {"sr"} and a map by head, as far as it has the networks.

    Where a segmenter reads the generator's output, its halo is added to the generator's, so that
    tiles agree with the whole here too. Tiles have at most `largest` output px a side, or one
    stride where that is more; `ensemble` is that of each network.
    """
    options: dict[str, Any] = {"largest": largest, "ensemble": ensemble}
    if not enhances(run.stage):
        return segmenter(run, **options)
    enhance = enhancer(run, **options)
    if not segments(run.stage):
        return enhance
    segment, scale = segmenter(run, **options), enhance.scale

    def by_parts(image: np.ndarray) -> dict[str, Any]:
        enhanced = enhance.windows(image)
        return enhanced | segment.windows(enhanced["sr"])

    windows = by_parts if ensemble else _compiled(run.stage.predict, run, False)
    # The segmenter's grid is aligned to its stride; `scale` px of its input are one px here.
    stride = segment.stride // math.gcd(segment.stride, scale)
    halo = enhance.halo + -(-segment.halo // scale)
    geometry = halo, stride, scale, max(largest // scale, stride)
    return TiledNetwork(windows, *geometry, parts=(enhance, segment), devices=enhance.devices)
