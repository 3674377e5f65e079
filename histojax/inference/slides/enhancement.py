"""The enhanced image of a slide, or of a part of one, as a pyramidal OME-TIFF."""

import pathlib
from collections.abc import Callable, Iterator

import numpy as np

from histojax.errors import UserError
from histojax.files import atomic_path
from histojax.imaging import ome_tiff, resampling, tiling
from histojax.inference.slides.regions import Box, Region, run_network
from histojax.inference.tiled import TiledNetwork

_NOTE = "Computationally enhanced by histojax, for research; not for diagnosis."
_LARGEST_STRIP = 2**26  # px of the output that are in memory together


def check_size(box: Box, scale: int, largest: int) -> None:
    """Raises UserError where the enhanced image of y, x, height, width has above `largest` px."""
    height, width = (side * scale for side in box[2:])
    if (pixels := height * width) > largest:
        raise UserError(
            f"the enhanced image would have {width:,} x {height:,} px, {3 * pixels / 1e9:,.0f} GB "
            f"before compression, and at most --max_output_pixels={largest:,} px are written: name "
            "a part by --region=X,Y,WIDTH,HEIGHT, or allow more"
        )


def write(
    path: pathlib.Path,
    network: TiledNetwork,
    image: tiling.RegionReader,
    box: Box,
    *,
    mpp: float | None,
    tile: int,
    batch: int,
    wanted: Callable[[int, int, int, int], bool],
    parts: pathlib.Path,
    save_damage: Callable[[], None] = lambda: None,
) -> None:
    """Enhances a part of a slide; glass is enlarged by bicubic interpolation.

    Args:
        path: final name.
        network: that gives "sr".
        image, box: the slide as the network reads it, and y, x, height, width of it, px.
        mpp: um per px of the enhanced image, None where unknown.
        tile, batch, wanted: as in `run_network`.
        parts: folder of the strips that are done, for a call that comes after a stop.
        save_damage: called before a strip counts as done.
    """
    y, x, height, width = box
    scale = network.scale
    rows = max(tile, _LARGEST_STRIP // (width * scale**2) // tile * tile)

    def strips() -> Iterator[np.ndarray]:
        tops = range(y, y + height, rows)
        boxes = [(top, x, min(rows, y + height - top), width) for top in tops]
        done = {box: parts / f"sr-y{box[0]:06d}.npy" for box in boxes}
        # Strips own all that they see: an enhancer needs no margin beyond its halo.
        todo = [Region(box, box) for box in boxes if not done[box].exists()]
        made = run_network(network, image, todo, tile=tile, batch=batch, wanted=wanted)
        for box in boxes:
            if done[box].exists():
                yield np.load(done[box])
                continue
            found = next(made)
            sr = found.outputs.get("sr")
            strip = _with_glass(sr, found.own, found.region, tile, scale, wanted)
            save_damage()
            with atomic_path(done[box]) as part, part.open("wb") as file:
                np.save(file, strip)
            yield strip

    ome_tiff.write(
        path,
        strips(),
        height=height * scale,
        width=width * scale,
        mpp=mpp,
        description=_NOTE,
    )


def _with_glass(
    sr: np.ndarray | None,
    own: np.ndarray,
    region: Region,
    tile: int,
    scale: int,
    wanted: Callable[[int, int, int, int], bool],
) -> np.ndarray:
    """The enhanced strip with what the network has not seen in its place."""
    # A copy, as Pillow's array is read-only.
    enlarged = np.array(resampling.upsample(own, scale, "bicubic"))
    if sr is None:
        return enlarged
    top, left, height, width = region.seen
    for y in range(0, height, tile):
        for x in range(0, width, tile):
            if wanted(top + y, left + x, tile, tile):
                place = np.s_[y * scale : (y + tile) * scale, x * scale : (x + tile) * scale]
                enlarged[place] = sr[place]
    return enlarged
