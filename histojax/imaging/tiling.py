"""Whole-image inference by tiles that agree with the whole.

A tile is a core; the window that a network sees is the core with a halo on every side. The network
on a whole image is defined as the network on the image reflect-extended by the halo, with the
margin discarded. `tiled` reads its windows from that same extension, so the two agree
wherever an output pixel depends on no more than `halo` input pixels around it, and where origins
are aligned to the network's total stride. Networks that pool over the window
(squeeze-and-excitation) or that resize with aligned corners are outside of this.

Axes: B windows in a batch, H, W image pixels, h, w window pixels, C channels, s output pixels per
input pixel.
"""

from __future__ import annotations

import collections
import concurrent.futures
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from histojax.errors import UserError


class RegionReader(Protocol):
    """An image that is read by region: height, width and read(y, x, height, width)."""

    height: int
    width: int

    def read(self, y: int, x: int, height: int, width: int) -> np.ndarray: ...


Network = Callable[[np.ndarray], Mapping[str, Any]]


class Tile(NamedTuple):
    """The outputs for one core: y, x of its corner in output px, {name: (rows, columns, ...)}."""

    y: int
    x: int
    outputs: dict[str, np.ndarray]


class Strip(NamedTuple):
    """Outputs over the full width: y of the first row in output px, {name: (rows, W*s, ...)}."""

    y: int
    outputs: dict[str, np.ndarray]


def round_up(value: int, multiple: int) -> int:
    """The least multiple of `multiple` that is not below `value`."""
    return -(-value // multiple) * multiple


def squares(height: int, width: int, side: int) -> list[tuple[slice, slice]]:
    """The whole squares of a grid from the top left corner, row by row: (rows, columns) each."""
    return [
        (slice(y, y + side), slice(x, x + side))
        for y in range(0, height - side + 1, side)
        for x in range(0, width - side + 1, side)
    ]


def core_size(
    sizes: Iterable[tuple[int, int]], *, halo: int, stride: int = 1, largest: int = 512
) -> int:
    """One core for all images of a set, which wastes the fewest window pixels.

    Small images get a core of their own size rather than a mostly empty window, and long sides are
    cut into equal parts rather than into full tiles and a sliver.

    Args:
        sizes: (H, W) of every image, px.
        halo: px on every side of a core.
        stride: the network's total stride.
        largest: no core is larger, px; it bounds the memory of one window.

    Returns:
        The core, px, a multiple of `stride`.

    Raises:
        UserError: `largest` is below the stride.
    """
    if largest < stride:
        raise UserError(
            f"A tile of at most {largest} px cannot hold the network's stride of {stride} px: "
            f"allow tiles of {stride} px or more."
        )
    halo, largest = round_up(halo, stride), largest // stride * stride
    counts = collections.Counter(sizes)
    candidates = {largest}
    for side in set(itertools.chain.from_iterable(counts)):
        fewest = -(-side // largest)
        for parts in range(fewest, 2 * fewest + 1):
            candidates.add(min(round_up(-(-side // parts), stride), largest))

    def window_pixels(core: int) -> int:
        windows = sum(n * -(-h // core) * -(-w // core) for (h, w), n in counts.items())
        return windows * (core + 2 * halo) ** 2

    return min(candidates, key=lambda core: (window_pixels(core), -core))


def reflected(start: int, length: int, size: int) -> np.ndarray:
    """Indices into `size` pixels for start .. start + length - 1 of the reflected extension.

    The border pixel is not repeated (NumPy's "reflect"), and the reflection repeats without end, so
    that images smaller than the halo are extended too; one pixel extends to a constant.
    """
    period = max(2 * (size - 1), 1)
    index = np.arange(start, start + length) % period
    return np.minimum(index, period - index) if size > 1 else np.zeros_like(index)


class _ArrayReader:
    def __init__(self, image: np.ndarray):
        self.image = image
        self.height, self.width = image.shape[:2]

    def read(self, y: int, x: int, height: int, width: int) -> np.ndarray:
        return self.image[y : y + height, x : x + width]


def _as_reader(image: RegionReader | np.ndarray) -> RegionReader:
    reader = _ArrayReader(image) if isinstance(image, np.ndarray) else image
    if reader.height < 1 or reader.width < 1:
        raise UserError(
            f"The image has {reader.height} x {reader.width} px and nothing to read: "
            "give an image of at least one pixel."
        )
    return reader


def read_window(
    image: RegionReader | np.ndarray, y: int, x: int, height: int, width: int
) -> np.ndarray:
    """A region of the reflect-extended image; y and x may be negative or beyond the image, px.

    Only the part of the image that the region shows is read.
    """
    reader = _as_reader(image)
    rows = reflected(y, height, reader.height)
    columns = reflected(x, width, reader.width)
    top, left = int(rows.min()), int(columns.min())
    part = reader.read(top, left, int(rows.max()) - top + 1, int(columns.max()) - left + 1)
    return np.asarray(part)[(rows - top)[:, None], columns - left]


def _check_geometry(core: int, halo: int, batch_size: int, stride: int) -> None:
    if core < 1 or core % stride:
        raise UserError(
            f"A tile of {core} px does not fit the network's stride: "
            f"give a positive multiple of {stride} px."
        )
    if halo < 0:
        raise UserError(f"A halo of {halo} px is negative: give 0 px or more.")
    if batch_size < 1:
        raise UserError(f"A batch of {batch_size} tiles holds nothing: give 1 or more.")


def _crop(
    outputs: Mapping[str, np.ndarray], side: int, halo: int, rows: int, columns: int, scale: int
) -> dict[str, np.ndarray]:
    """`rows` x `columns` input px from the corner of the core, of each output at its own scale."""
    cropped = {}
    for name, array in outputs.items():
        own, rest = divmod(array.shape[0], side)
        if rest or own < 1 or array.shape[1] != own * side:
            raise ValueError(
                f"output {name!r} has {array.shape[:2]} px for a window of {side} px: "
                "it must be a whole multiple of the window"
            )
        if own > scale:
            raise ValueError(f"output {name!r} has scale {own}, above the scale of {scale} given")
        edge = halo * own
        cropped[name] = array[edge : edge + rows * own, edge : edge + columns * own]
    return cropped


def tiled(
    network: Network,
    image: RegionReader | np.ndarray,
    *,
    core: int,
    halo: int,
    scale: int = 1,
    batch_size: int = 1,
    stride: int = 1,
) -> Iterator[Tile]:
    """Runs a network over an image of any size at one window shape, core + 2 halo.

    Args:
        network: uint8 windows (B, h, w, 3) to {name: (B, h*s, w*s, ...)}. B is `batch_size` at
            every call (the last batch is filled up with copies of its last window), so a jitted
            network is compiled once. Its arrays may still be computing when it returns.
        image: uint8 (H, W, 3), or a reader of regions, whose `read` is called from one thread
            other than the caller's.
        core: the tile, input px, a multiple of `stride`.
        halo: at least the receptive-field radius, input px; rounded up to the stride.
        scale: output px per input px, of the tiles' y and x. An output may have a smaller whole
            scale of its own, which is read off its shape.
        batch_size: windows per call.
        stride: the network's total stride, input px.

    Yields:
        Tiles in raster order, cropped to the part of the core inside the image. Two batches are in
        flight: one computes while the one before is handed out and the next is read.

    Raises:
        UserError: a core that is no multiple of the stride, a negative halo, an empty image.
        ValueError: an output whose shape is no whole multiple of the window.
    """
    _check_geometry(core, halo, batch_size, stride)
    reader = _as_reader(image)
    return _tiles(network, reader, core, round_up(halo, stride), scale, batch_size)


def _tiles(
    network: Network, reader: RegionReader, core: int, halo: int, scale: int, batch_size: int
) -> Iterator[Tile]:
    side = core + 2 * halo
    corners = itertools.product(range(0, reader.height, core), range(0, reader.width, core))

    def read_batch(batch: Sequence[tuple[int, int]]) -> np.ndarray:
        windows = [read_window(reader, y - halo, x - halo, side, side) for y, x in batch]
        return np.stack(windows + windows[-1:] * (batch_size - len(batch)))

    def finish(batch: Sequence[tuple[int, int]], outputs: Mapping[str, Any]) -> Iterator[Tile]:
        host = {name: np.asarray(array) for name, array in outputs.items()}
        for i, (y, x) in enumerate(batch):
            rows, columns = min(core, reader.height - y), min(core, reader.width - x)
            own = {name: array[i] for name, array in host.items()}
            cropped = _crop(own, side, halo, rows, columns, scale)
            yield Tile(y * scale, x * scale, cropped)

    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        batch = list(itertools.islice(corners, batch_size))
        windows = thread.submit(read_batch, batch)
        computing: tuple[list[tuple[int, int]], Mapping[str, Any]] | None = None
        while batch:
            outputs = network(windows.result())
            following = list(itertools.islice(corners, batch_size))
            if following:
                windows = thread.submit(read_batch, following)
            if computing is not None:
                yield from finish(*computing)
            computing, batch = (batch, outputs), following
        if computing is not None:
            yield from finish(*computing)


def _ratios(outputs: Mapping[str, np.ndarray]) -> dict[str, tuple[int, int]]:
    """(own rows, largest rows): turns y, x of the largest output into px of each output."""
    largest = max(array.shape[0] for array in outputs.values())
    return {name: (array.shape[0], largest) for name, array in outputs.items()}


def assemble(tiles: Iterable[Tile], height: int, width: int) -> dict[str, np.ndarray]:
    """Whole arrays from tiles, for images that fit in memory.

    Args:
        tiles: what `tiled` yields.
        height: H*s, width: W*s of the largest output, px; outputs of a smaller scale become
            proportionally smaller arrays.
    """
    arrays: dict[str, np.ndarray] = {}
    for y, x, outputs in tiles:
        for name, (own, largest) in _ratios(outputs).items():
            part = outputs[name]
            if name not in arrays:
                shape = (height * own // largest, width * own // largest, *part.shape[2:])
                arrays[name] = np.zeros(shape, part.dtype)
            top, left = y * own // largest, x * own // largest
            arrays[name][top : top + part.shape[0], left : left + part.shape[1]] = part
    return arrays


def strips(tiles: Iterable[Tile]) -> Iterator[Strip]:
    """Joins each row of tiles into one strip over the full width, top to bottom.

    A row of tiles is held in memory, never more.
    """
    for y, row in itertools.groupby(tiles, key=lambda tile: tile.y):
        parts = [tile.outputs for tile in row]
        yield Strip(y, {name: np.concatenate([p[name] for p in parts], 1) for name in parts[0]})


def recut(arrays: Iterable[np.ndarray], rows: int) -> Iterator[np.ndarray]:
    """The same rows in pieces of `rows` rows (the last may have fewer), from pieces of any height.

    At most `rows` rows and one incoming piece are held.
    """
    held: list[np.ndarray] = []
    count = 0
    for array in arrays:
        while count + len(array) >= rows:
            take = rows - count
            yield np.concatenate([*held, array[:take]]) if held else array[:take]
            array, held, count = array[take:], [], 0
        if len(array):
            held.append(array)
            count += len(array)
    if held:
        yield np.concatenate(held)
