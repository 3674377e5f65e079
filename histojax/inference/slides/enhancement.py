"""The enhanced image of a slide, or of a part of one, as a pyramidal OME-TIFF."""

import pathlib
from collections.abc import Callable, Iterator

import numpy as np

from histojax.errors import UserError
from histojax.imaging import ome_tiff, resampling, tiling
from histojax.inference.slides.regions import Box, Region, run_network
from histojax.inference.tiled import TiledNetwork

_NOTE = "Computationally enhanced by histojax, for research; not for diagnosis."
_LARGEST_STRIP = 2**26  # px of the output that are in memory together


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
    max_output_pixels: int,
) -> None:
    """Enhances a part of a slide; glass is enlarged by bicubic interpolation.

    Args:
        path: final name.
        network: that gives "sr".
        image, box: the slide as the network reads it, and y, x, height, width of it, px.
        mpp: um per px of the enhanced image, None where unknown.
        tile, batch, wanted: as in `run_network`.
        max_output_pixels: largest enhanced image, px.

    Raises:
        UserError: the enhanced image would be larger.
    """
    y, x, height, width = box
    scale = network.scale
    if (pixels := height * width * scale**2) > max_output_pixels:
        raise UserError(
            f"the enhanced image would have {width * scale:,} x {height * scale:,} px, "
            f"{3 * pixels / 1e9:,.0f} GB before compression, and at most --max_output_pixels="
            f"{max_output_pixels:,} px are written: name a part by --region=X,Y,WIDTH,HEIGHT, or "
            "allow more"
        )
    rows = max(tile, _LARGEST_STRIP // (width * scale**2) // tile * tile)

    def strips() -> Iterator[np.ndarray]:
        parts = [(top, x, min(rows, y + height - top), width) for top in range(y, y + height, rows)]
        # Strips own all that they see: an enhancer needs no margin beyond its halo.
        seen = [Region(part, part) for part in parts]
        for found in run_network(network, image, seen, tile=tile, batch=batch, wanted=wanted):
            yield _with_glass(found.outputs.get("sr"), found.own, found.region, tile, scale, wanted)

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
