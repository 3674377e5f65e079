"""Whole-image inference by tiles that agree with the whole.

A tile is a core; the window that a network sees is the core with a halo on every side. The network
on a whole image is the network on the image reflect-extended by the halo, with the margin
discarded. `tiled` reads its windows from that same extension, so the two agree wherever an output
pixel depends on at most `halo` input pixels around it, and origins are aligned to the network's
total stride: not where networks pool over the window (squeeze-and-excitation) or align corners.

Axes: H, W image pixels, h, w window pixels, C channels, s output pixels per input pixel.
"""

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


def round_up(value: int, multiple: int) -> int:
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
    """One core, px, for images of all `sizes` (H, W), which wastes the fewest window pixels.

    Small images get a core of their own size rather than a mostly empty window, and long sides are
    cut into equal parts rather than into full tiles and a sliver. The core is a multiple of the
    stride, and `largest` bounds the memory of one window.

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


class ArrayReader:
    """An image in memory as a `RegionReader`."""

    def __init__(self, image: np.ndarray):
        self.image = image
        self.height, self.width = image.shape[:2]

    def read(self, y: int, x: int, height: int, width: int) -> np.ndarray:
        return self.image[y : y + height, x : x + width]


def _as_reader(image: RegionReader | np.ndarray) -> RegionReader:
    reader = ArrayReader(image) if isinstance(image, np.ndarray) else image
    if reader.height < 1 or reader.width < 1:
        raise UserError(
            f"The image has {reader.height} x {reader.width} px and nothing to read: "
            "give an image of at least one pixel."
        )
    return reader


def read_window(
    image: RegionReader | np.ndarray, y: int, x: int, height: int, width: int
) -> np.ndarray:
    """A region of the reflect-extended image from y, x on, px; only the part it shows is read."""
    reader = _as_reader(image)
    rows = reflected(y, height, reader.height)
    columns = reflected(x, width, reader.width)
    top, left = int(rows.min()), int(columns.min())
    part = reader.read(top, left, int(rows.max()) - top + 1, int(columns.max()) - left + 1)
    return np.asarray(part)[(rows - top)[:, None], columns - left]


def crop(
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
    stride: int = 1,
    batch: int = 1,
    devices: int = 1,
) -> Iterator[Tile]:
    """Runs a network over an image of any size at one window shape, core + 2 halo.

    Args:
        network: as of `by_batches`.
        image: uint8 (H, W, 3), or a reader, whose `read` is called from another thread.
        core: the tile, input px, a multiple of `stride`.
        halo: at least the receptive-field radius, input px; rounded up to the stride.
        scale: output px per input px, of the tiles' y and x. An output may have a smaller whole
            scale of its own, which is read off its shape.
        stride: the network's total stride, input px.
        batch: the most windows that the network sees at once; an image has them in equal parts.
        devices: what batches of more windows are a multiple of; `batch` has to be one, or less.

    Yields:
        Tiles in raster order, cropped to the part of the core inside the image.

    Raises:
        UserError: a core that is no multiple of the stride, a negative halo, an empty image.
        ValueError: an output whose shape is no whole multiple of the window.
    """
    if core < 1 or core % stride:
        raise UserError(
            f"A tile of {core} px does not fit the network's stride: "
            f"give a positive multiple of {stride} px."
        )
    if halo < 0:
        raise UserError(f"A halo of {halo} px is negative: give 0 px or more.")
    # Apart from the generator, so that a refusal does not wait for the first tile.
    reader = _as_reader(image)
    return _tiles(network, reader, core, round_up(halo, stride), scale, batch, devices)


def _tiles(
    network: Network,
    reader: RegionReader,
    core: int,
    halo: int,
    scale: int,
    batch: int,
    devices: int,
) -> Iterator[Tile]:
    side = core + 2 * halo
    corners = list(itertools.product(range(0, reader.height, core), range(0, reader.width, core)))
    count = -(-len(corners) // -(-len(corners) // batch))
    count = round_up(count, devices) if count > devices else count

    def window(y: int, x: int) -> np.ndarray:
        return read_window(reader, y - halo, x - halo, side, side)

    for (y, x), outputs in by_batches(network, window, corners, count):
        rows, columns = min(core, reader.height - y), min(core, reader.width - x)
        yield Tile(y * scale, x * scale, crop(outputs, side, halo, rows, columns, scale))


def by_batches(
    network: Network,
    window: Callable[[int, int], np.ndarray],
    corners: Sequence[tuple[int, int]],
    batch: int,
) -> Iterator[tuple[tuple[int, int], dict[str, np.ndarray]]]:
    """A network's outputs for the window at each corner, in order.

    Two batches are in flight: one computes while the one before is handed out and the next is read.

    Args:
        network: uint8 windows (batch, h, w, 3) to {name: (batch, h*s, w*s, ...)}, which may still
            be computing when it returns.
        window: uint8 (h, w, 3) at y, x; called from another thread.
        corners: y, x of each.
        batch: windows that the network sees at once; the last batch is filled up with black ones.

    Yields:
        Corner, and {name: (h*s, w*s, ...)}.
    """
    groups = [corners[start : start + batch] for start in range(0, len(corners), batch)]

    def read(group: Sequence[tuple[int, int]]) -> np.ndarray:
        windows = [window(y, x) for y, x in group]
        return np.stack(windows + [np.zeros_like(windows[0])] * (batch - len(group)))

    def finished(
        group: Sequence[tuple[int, int]], outputs: Mapping[str, Any]
    ) -> Iterator[tuple[tuple[int, int], dict[str, np.ndarray]]]:
        arrays = {name: np.asarray(values) for name, values in outputs.items()}
        for index, corner in enumerate(group):
            yield corner, {name: values[index] for name, values in arrays.items()}

    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        # Each is read when it is asked for.
        reading = (thread.submit(read, group) for group in groups)
        windows, computing = next(reading, None), None
        for group in groups:
            assert windows is not None
            outputs = network(windows.result())
            windows = next(reading, None)
            if computing is not None:
                yield from finished(*computing)
            computing = group, outputs
        if computing is not None:
            yield from finished(*computing)


def assemble(tiles: Iterable[Tile]) -> dict[str, np.ndarray]:
    """Whole arrays (H*s, W*s, ...) from the tiles of `tiled`, each output at its own scale."""
    rows = list(strips(tiles))
    return {name: np.concatenate([row.pop(name) for row in rows]) for name in list(rows[0])}


def strips(tiles: Iterable[Tile]) -> Iterator[dict[str, np.ndarray]]:
    """Joins each row of tiles, the most in memory, into {name: (rows, W*s, ...)}."""
    for _, row in itertools.groupby(tiles, key=lambda tile: tile.y):
        parts = [tile.outputs for tile in row]
        yield {name: np.concatenate([part[name] for part in parts], 1) for name in parts[0]}


def recut(arrays: Iterable[np.ndarray], rows: int) -> Iterator[np.ndarray]:
    """The same rows in pieces of `rows` rows (the last may have fewer), from pieces of any height.

    At most `rows` rows and one incoming piece are held.
    """
    held: list[np.ndarray] = []
    for array in arrays:
        while (take := rows - sum(map(len, held))) <= len(array):
            yield np.concatenate([*held, array[:take]]) if held else array[:take]
            array, held = array[take:], []
        if len(array):
            held.append(array)
    if held:
        yield np.concatenate(held)
