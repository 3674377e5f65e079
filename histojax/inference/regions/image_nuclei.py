"""The nuclei of an image, region by region: the network goes on while nuclei are found."""

import concurrent.futures
import dataclasses
import functools
import pathlib
import time
from collections.abc import Iterator, Sequence

import numpy as np

from histojax.imaging import tiling
from histojax.imaging.plane import Plane
from histojax.inference import labeling
from histojax.inference.regions import cut, region_nuclei
from histojax.inference.regions.progress import Times, progress, timed
from histojax.inference.regions.region_nuclei import Nuclei
from histojax.inference.regions.view import Options, View
from histojax.inference.tiled import TiledNetwork
from histojax.runs import workdirs

_ROWS = 512


@dataclasses.dataclass(frozen=True)
class Found:
    """The nuclei of an image.

    Attributes:
        nuclei: on the grid of the network's maps.
        view: the image as the network read it.
        scale: px of the grid per px of the view.
        regions: of the view, in which nuclei were looked for.
        parts: folder of what was found in each.
    """

    nuclei: Nuclei
    view: View
    scale: int
    regions: Sequence[cut.Region]
    parts: pathlib.Path

    @property
    def size(self) -> tuple[int, int]:
        """H, W of the grid, px."""
        return self.view.image.height * self.scale, self.view.image.width * self.scale

    @property
    def per_px(self) -> tuple[float, float]:
        """Px of the grid per px of level 0, along y and x; sides are rounded, each by itself."""
        (height, width), (rows, columns) = self.size, self.view.size
        return height / rows, width / columns

    def label_strips(self) -> Iterator[np.ndarray]:
        """The label image, uint32 (rows, W) at a time."""
        return region_nuclei.label_strips(self.nuclei.outlines, *self.size)

    def class_strips(self) -> Iterator[np.ndarray]:
        """The classes of all px, uint8 (rows, W) at a time; 0 where nothing was looked for."""
        height, width = self.size
        with Plane(width, np.uint8) as plane:
            for y in range(0, height, _ROWS):
                plane.append(np.zeros((min(_ROWS, height - y), width), np.uint8))
            for region in self.regions:
                y, x = (self.scale * value for value in region.owned[:2])
                classes = region_nuclei.load_classes(self.parts / f"{region.name}.npz")
                plane.write(y, x, classes)
            for y in range(0, height, _ROWS):
                yield plane.read(y, 0, _ROWS, width)


def find(
    run: workdirs.Run,
    network: TiledNetwork,
    view: View,
    parts: pathlib.Path,
    options: Options,
    times: Times,
    *,
    mpp: float | None,
    file: cut.DamagedReader,
) -> Found:
    """The nuclei of a view, numbered 1..n, whose centroids lie in its box.

    Args:
        run: whose parameters turn maps into nuclei.
        network: that gives these maps.
        view: as the network reads it, but for its normalisation.
        parts: folder of the regions, of which those that lie there are not looked for again.
        options: the window, the batch, the workers and the cells.
        times: gets the seconds of the network and of the post-processing.
        mpp: um per px of the maps for the areas of the post-processing, None where unknown.
        file: the reader whose damage is kept for a call that comes after a stop.
    """
    scale, image = network.scale, view.image
    top, left, height, width = view.frame
    um = view.mpp_at(scale)
    found = _regions_of(view, network, options)
    paths = {region: parts / f"{region.name}.npz" for region in found}
    todo = [region for region in found if not paths[region].exists()]
    seek = functools.partial(
        region_nuclei.find,
        run,
        labeling.parameters_of(run),
        size=(image.height * scale, image.width * scale),
        frame=(scale * top, scale * left, scale * height, scale * width),
        mpp=um,
        at=mpp,
        cell_expansion=options.cell_expansion,
    )

    def finish(seen: cut.Seen) -> None:
        with timed(times, "post-processing"):
            region_nuclei.save(paths[seen.region], seek(seen))

    def pixels(some: Sequence[cut.Region]) -> int:
        return sum(r.owned[2] * r.owned[3] for r in some)

    normalized: tiling.RegionReader = image
    if network.matching is not None:
        normalized = network.matching.reader(image, name=str(view.path))
        network = dataclasses.replace(network, matching=None)
    with (
        progress(view, pixels(found), pixels(found) - pixels(todo)) as advance,
        concurrent.futures.ThreadPoolExecutor(options.workers) as pool,
    ):
        waiting: list[concurrent.futures.Future[None]] = []
        started = time.monotonic()
        seconds = 0.0
        for seen in cut.run_network(
            network,
            normalized,
            todo,
            tile=network.core([region.seen[2:] for region in found]),
            batch=options.batch,
            wanted=view.wanted,
        ):
            seconds += time.monotonic() - started
            # Before the region counts as done.
            file.save(parts / cut.DAMAGE)
            if normalized is not image:
                # Stains are measured as the file has them.
                seen = seen._replace(own=image.read(*seen.region.seen))
            waiting.append(pool.submit(finish, seen))
            while len(waiting) > options.workers:
                waiting.pop(0).result()
            advance(pixels([seen.region]), seen.tiles)
            started = time.monotonic()
        for future in waiting:
            future.result()
    times["network"] = seconds
    none = region_nuclei.none(um, options.cell_expansion, labeling.class_names(run))
    whole = region_nuclei.joined([none, *map(region_nuclei.load, paths.values())])
    inside = region_nuclei.within(whole, tuple(scale * value for value in view.seen_box))
    return Found(inside, view, scale, found, parts)


def _regions_of(view: View, network: TiledNetwork, options: Options) -> list[cut.Region]:
    """The regions of a view in which nuclei are looked for."""
    scale, um = network.scale, view.mpp_at(network.scale)
    expansion = options.cell_expansion / um if um else 0
    return cut.regions_of(
        view.image.height,
        view.image.width,
        stride=network.stride,
        window=options.window // scale,
        margin=-(-cut.margin_for(expansion) // scale),
        wanted=view.wanted,
    )
