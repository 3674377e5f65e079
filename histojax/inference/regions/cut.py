"""An image cut into regions, and a network over those that are wanted.

A region owns the nuclei whose centroids it holds. It is seen with a margin on every side, so that a
nucleus at its border is seen whole, by both sides alike. Regions lie on a grid from the upper left
corner, whatever the tile and the memory, so neither can change the nuclei.

Axes: H, W px of the image as the network reads it, r output px per input px.
"""

import concurrent.futures
import functools
import json
import math
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from histojax.errors import UserError
from histojax.imaging import reader, tiling, writers
from histojax.inference.tiled import TiledNetwork

# Px around a region, and of them for a nucleus; the largest of MoNuSeg measure 80 px.
MARGIN, _NUCLEUS = 128, 88
# Side of a region with its margins, px: a 4,096th of it in bytes is in memory for each region.
WINDOW = 3_072
_BLOCK = 256
# Share of the px read that may be damaged.
_MOST_DAMAGED = 0.01

# In the folder of the parts: what was damaged so far.
DAMAGE = "damaged.json"

Box = tuple[int, int, int, int]  # y, x, height, width


def margin_for(expansion: float) -> int:
    """Px around a region in which cells grow by `expansion` px, which their neighbours bound."""
    return max(MARGIN, math.ceil(2 * expansion) + _NUCLEUS)


class Region(NamedTuple):
    """What a region owns and what it sees, (y, x, height, width) each, px."""

    owned: Box
    seen: Box

    @property
    def name(self) -> str:
        """Of its file."""
        return f"y{self.owned[0]:06d}-x{self.owned[1]:06d}"


def regions_of(
    height: int,
    width: int,
    *,
    stride: int,
    window: int = WINDOW,
    margin: int = MARGIN,
    wanted: Callable[[int, int, int, int], bool],
) -> list[Region]:
    """The regions of an image that are wanted, in raster order; sides are multiples of `stride`.

    `window` is the side of a region with its margins, and `margin` the least of these, px.

    Raises:
        UserError: the window has no room for more than its margins.
    """
    margin = tiling.round_up(margin, stride)
    side = (window - 2 * margin) // stride * stride
    if side < margin:
        cells = ", or lower --cell_expansion" if margin > tiling.round_up(MARGIN, stride) else ""
        raise UserError(f"--window={window} is below {3 * margin} px: give more{cells}")
    # Alike, as a last one of a few px would cost as many tiles as a whole one.
    down, across = (
        tiling.round_up(-(-length // -(-length // side)), stride) for length in (height, width)
    )
    found = []
    for y in range(0, height, down):
        for x in range(0, width, across):
            owned = (y, x, min(down, height - y), min(across, width - x))
            if wanted(*owned):
                top, left = max(0, y - margin), max(0, x - margin)
                bottom, right = min(height, y + down + margin), min(width, x + across + margin)
                found.append(Region(owned, (top, left, bottom - top, right - left)))
    return found


class DamagedReader:
    """A reader that goes on where the file is damaged: such blocks are white, and counted.

    It does not where the file is decoded whole, because nothing of it is left then.

    Attributes:
        damaged: y, x, height, width of each block, px.
        pixels: px that were read, those of overlaps each time.
        lost: those of them that are damaged.
    """

    def __init__(self, image: tiling.RegionReader, block: int = _BLOCK, factor: float = 1.0):
        """Reads an image with `factor` times as many pixels a side, in blocks of px of these."""
        self._whole = isinstance(image, reader.RegionReader) and image.whole
        self.reader = image if factor == 1.0 else reader.ResampledReader(image, factor)
        self.height, self.width = self.reader.height, self.reader.width
        self._block = block
        self.damaged: set[Box] = set()
        self.pixels = self.lost = 0

    def read(self, y: int, x: int, height: int, width: int) -> np.ndarray:
        """uint8 (height, width, 3)."""
        self.pixels += height * width
        try:
            return self.reader.read(y, x, height, width)
        except UserError:
            if self._whole:
                raise
            pixels = np.full((height, width, 3), 255, np.uint8)
        # Once more, in blocks of the image's own grid.
        side = self._block
        for top in range(y // side * side, y + height, side):
            for left in range(x // side * side, x + width, side):
                y0, y1 = max(y, top), min(y + height, top + side)
                x0, x1 = max(x, left), min(x + width, left + side)
                block = np.s_[y0 - y : y1 - y, x0 - x : x1 - x]
                try:
                    pixels[block] = self.reader.read(y0, x0, y1 - y0, x1 - x0)
                except UserError:
                    bottom, right = min(top + side, self.height), min(left + side, self.width)
                    self.damaged.add((top, left, bottom - top, right - left))
                    self.lost += (y1 - y0) * (x1 - x0)
        return pixels

    def save(self, path: pathlib.Path) -> None:
        """Writes what was damaged so far."""
        # A copy, as another thread may read on.
        counts = {"pixels": self.pixels, "lost": self.lost}
        writers.write_json(path, {**counts, "damaged": list(self.damaged)})

    def load(self, path: pathlib.Path) -> None:
        """Goes on from what an earlier call has saved, if it did."""
        if path.is_file():
            before = json.loads(path.read_text(encoding="utf-8"))
            self.pixels += before["pixels"]
            self.lost += before.get("lost", 0)
            self.damaged.update((y, x, h, w) for y, x, h, w in before["damaged"])

    def check(self, path: Any) -> str:
        """A clause about what is damaged, empty where nothing is.

        Raises:
            UserError: it is too much.
        """
        if not self.damaged:
            return ""
        share = self.lost / max(self.pixels, 1)
        if share > _MOST_DAMAGED:
            raise UserError(
                f"{path} is damaged in {share:.1%} of what was read, above {_MOST_DAMAGED:.0%}: "
                "copy it again"
            )
        parts = f"{len(self.damaged)} damaged part{'s' * (len(self.damaged) > 1)}"
        return f"{parts} ({share:.2%} of what was read) taken as white"


class Seen(NamedTuple):
    """A region, its image uint8 (h, w, 3) as the network read it, and outputs (h r, w r, C).

    Outputs are 0 in tiles that were not wanted, and missing where none was. `tiles` counts those
    that were.
    """

    region: Region
    own: np.ndarray
    outputs: dict[str, np.ndarray]
    tiles: int

    @property
    def image(self) -> np.ndarray:
        """What nuclei were looked for in: the enhanced image, where there is one."""
        return self.outputs.get("sr", self.own)


def run_network(
    network: TiledNetwork,
    image: tiling.RegionReader,
    regions: Iterable[Region],
    *,
    tile: int,
    batch: int,
    wanted: Callable[[int, int, int, int], bool],
) -> Iterator[Seen]:
    """The network's outputs for each region; the next is read meanwhile.

    Args:
        network: without a stain normalisation of its own.
        image: as the network reads it.
        regions: in the order in which they come out.
        tile: side of the network's tiles, px; a multiple of its stride.
        batch: tiles that each device sees at once.
        wanted: whether a tile (y, x, height, width) shows tissue; the others give 0.
    """
    halo = tiling.round_up(network.halo, network.stride)
    side = tile + 2 * halo

    def read(region: Region) -> np.ndarray:
        y, x, height, width = region.seen
        rows, columns = (tiling.round_up(side, tile) + 2 * halo for side in (height, width))
        return tiling.read_window(image, y - halo, x - halo, rows, columns)

    def corners(region: Region) -> list[tuple[int, int]]:
        y, x, height, width = region.seen
        return [
            (top, left)
            for top in range(0, height, tile)
            for left in range(0, width, tile)
            if wanted(y + top, x + left, tile, tile)
        ]

    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        ahead = ((region, thread.submit(read, region)) for region in regions)
        upcoming = next(ahead, None)
        while upcoming is not None:
            region, reading = upcoming
            pixels = reading.result()
            upcoming = next(ahead, None)
            height, width = region.seen[2:]
            outputs: dict[str, np.ndarray] = {}
            places = corners(region)
            made = tiling.by_batches(
                network.windows,
                functools.partial(tiling.ArrayReader(pixels).read, height=side, width=side),
                places,
                batch * network.devices,
            )
            for (y, x), of_tile in made:
                rows, columns = min(tile, height - y), min(tile, width - x)
                cores = tiling.crop(of_tile, side, halo, rows, columns, network.scale)
                for name, values in cores.items():
                    scale = values.shape[0] // rows
                    shape = (height * scale, width * scale, *values.shape[2:])
                    whole = outputs.setdefault(name, np.zeros(shape, values.dtype))
                    whole[y * scale : (y + rows) * scale, x * scale : (x + columns) * scale] = (
                        values
                    )
            own = pixels[halo : halo + height, halo : halo + width]
            yield Seen(region, own, outputs, len(places))
