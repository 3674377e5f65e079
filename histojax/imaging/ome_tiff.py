"""Pyramidal OME-TIFF, streamed: enhanced images, and the labels of nuclei.

Source: OME-TIFF specification 6.0 (reduced levels are SubIFDs of the image's own page).
"""

import contextlib
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import tifffile

from histojax.files import atomic_path
from histojax.imaging.plane import Plane
from histojax.imaging.writers import TILE, tile_rows, write_page

# The smallest level has no side above this, px.
_SMALLEST = 1_024


def level_sizes(height: int, width: int) -> list[tuple[int, int]]:
    """(H, W) of each level of a pyramid, halved each time, sides rounded up."""
    sizes = [(height, width)]
    while max(sizes[-1]) > _SMALLEST:
        sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
    return sizes


def write(
    path: str | Path,
    strips: Iterable[np.ndarray],
    *,
    height: int,
    width: int,
    mpp: float | None,
    description: str = "",
) -> None:
    """Writes an image or a label map with its reduced levels; strips are as of `stream_tiff`.

    Levels of an image are means of 2 x 2 px; those of labels take every second px and so hold no
    new labels. `mpp`, um per px, is written both as OME's physical size and as resolution tags,
    `description` of the image in the OME metadata.

    Raises:
        DiskError: the disk refuses.
        ValueError: as of `writers.stream_tiff`.
    """
    pieces, shape, dtype = tile_rows(strips, height, width)
    channels, sizes = shape[2:], level_sizes(height, width)
    metadata: dict[str, Any] = {"axes": "YXS" if channels else "YX", "Description": description}
    if mpp is not None:
        metadata |= {"PhysicalSizeX": mpp, "PhysicalSizeY": mpp}
        metadata |= {"PhysicalSizeXUnit": "µm", "PhysicalSizeYUnit": "µm"}

    with contextlib.ExitStack() as stack:
        part = stack.enter_context(atomic_path(path))
        # Rows of each level are flat, as `Plane` holds values of two axes.
        planes = [stack.enter_context(Plane(w * math.prod(channels), dtype)) for _, w in sizes[1:]]

        def halved(rows: Iterable[np.ndarray], below: Plane) -> Iterator[np.ndarray]:
            for piece in rows:
                below.append(half(piece).reshape(-(-len(piece) // 2), -1))
                yield piece

        def level(plane: Plane, columns: int) -> Iterator[np.ndarray]:
            for y in range(0, plane.height, TILE):
                yield plane.read(y, 0, TILE, plane.width).reshape(-1, columns, *channels)

        writer = stack.enter_context(tifffile.TiffWriter(part, bigtiff=True, ome=True))
        for index, (rows, columns) in enumerate(sizes):
            own = level(planes[index - 1], columns) if index else pieces
            if index < len(planes):
                own = halved(own, planes[index])
            options: dict[str, Any] = {"metadata": metadata, "subifds": len(planes)}
            if index:
                options = {"metadata": None, "subfiletype": 1}
            scale = mpp and mpp * width / columns
            write_page(writer, own, (rows, columns, *channels), dtype, mpp=scale, **options)


def half(image: np.ndarray) -> np.ndarray:
    """An image (H, W, 3) or labels (H, W) at half the size; odd sides are rounded up."""
    if image.ndim == 2:
        return image[::2, ::2]
    return np.asarray(PIL.Image.fromarray(np.ascontiguousarray(image)).reduce(2))
