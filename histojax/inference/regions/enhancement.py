"""The enhanced image of an image, or of a part of one, as a pyramidal OME-TIFF."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator

import numpy as np

from histojax.errors import UserError
from histojax.files import atomic_path
from histojax.imaging import ome_tiff, resampling
from histojax.inference.regions.cut import DAMAGE, Box, Region, run_network
from histojax.inference.regions.progress import progress
from histojax.inference.regions.view import Options, View
from histojax.inference.tiled import TiledNetwork

_NOTE = "Computationally enhanced by histojax, for research; not for diagnosis."
_LARGEST_STRIP = 2**26  # px of the output that are in memory together


@dataclasses.dataclass(frozen=True)
class Enhanced:
    """An enhanced image of a view's box, of `scale` px per px of the view, in a file."""

    path: pathlib.Path
    view: View
    scale: int

    @property
    def size(self) -> tuple[int, int]:
        """H, W of it, px."""
        return self.view.seen_box[2] * self.scale, self.view.seen_box[3] * self.scale


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
    view: View,
    options: Options,
    parts: pathlib.Path,
) -> Enhanced:
    """Enhances what is predicted of a view; glass is enlarged by bicubic interpolation.

    Args:
        path: final name.
        network: that gives "sr".
        view: as the network reads it.
        options: of the batch.
        parts: folder of the strips that are done, for a call that comes after a stop.

    Raises:
        DiskError: the disk refuses.
    """
    y, x, height, width = view.seen_box
    scale = network.scale
    tile = network.core([(height, width)])
    rows = max(tile, _LARGEST_STRIP // (width * scale**2) // tile * tile)

    def strips() -> Iterator[np.ndarray]:
        tops = range(y, y + height, rows)
        boxes = [(top, x, min(rows, y + height - top), width) for top in tops]
        files = {box: parts / f"sr-y{box[0]:06d}.npy" for box in boxes}
        # Strips own all that they see: an enhancer needs no margin beyond its halo.
        todo = [Region(box, box) for box in boxes if not files[box].exists()]
        made = run_network(
            network, view.image, todo, tile=tile, batch=options.batch, wanted=view.wanted
        )
        done = sum(box[2] * box[3] for box in boxes if files[box].exists())
        with progress(view, height * width, done) as advance:
            for box in boxes:
                if files[box].exists():
                    yield np.load(files[box])
                    continue
                found = next(made)
                strip = found.outputs.get("sr")
                if strip is None or found.tiles < -(-box[2] // tile) * -(-width // tile):
                    strip = _with_glass(strip, found.own, found.region, tile, scale, view.wanted)
                # Before the strip counts as done.
                view.image.save(parts / DAMAGE)
                with atomic_path(files[box]) as part, part.open("wb") as file:
                    np.save(file, strip)
                advance(box[2] * box[3], found.tiles)
                yield strip

    ome_tiff.write(
        path,
        strips(),
        height=height * scale,
        width=width * scale,
        mpp=view.mpp_at(scale),
        description=_NOTE,
    )
    return Enhanced(path, view, scale)


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
