"""A trained run on a slide: tissue, regions, nuclei, files, page; nothing is done twice."""

import concurrent.futures
import contextlib
import dataclasses
import json
import pathlib
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tqdm import tqdm

from histojax.errors import UserError
from histojax.files import disk_errors
from histojax.imaging import reader, tiling, writers
from histojax.inference import labeling, prediction, tiled
from histojax.inference.scale import Estimate
from histojax.inference.slides import enhancement, files, region_nuclei, regions
from histojax.inference.slides.tissue_mask import TissueMask, tissue_mask
from histojax.runs import workdirs
from histojax.stages.base import enhances, segments

# um per px of a slide that states its objective alone: 10 um over the magnification.
_UM_OF_POWER = 10.0
# Images of more px are slides, and what has an ending of slides.
LARGEST_FIELD = 2**25


@dataclasses.dataclass(frozen=True)
class Options:
    """How slides are predicted.

    Attributes:
        enhance: whether the enhanced image is written, by a run that enhances and segments.
        region: x, y, width, height of what is predicted, px of level 0; None: the whole slide.
        read_mpp: scale at which an enhancer reads, um per px; None: level 0 as it is.
        window: side of a region with its margins, px.
        batch: tiles that the network sees at once.
        workers: regions that are post-processed while the network goes on.
        cell_expansion: of `measurements.measure`, um.
        max_output_pixels: the largest enhanced image, px.
    """

    enhance: bool = False
    region: tuple[int, int, int, int] | None = None
    read_mpp: float | None = None
    window: int = regions.WINDOW
    batch: int = 1
    workers: int = 2
    cell_expansion: float = 5.0
    max_output_pixels: int = 2**31


@dataclasses.dataclass(frozen=True)
class View:
    """A slide as a network reads it.

    Attributes:
        path: the slide.
        size: H, W of level 0, px.
        mpp: um per px of level 0, None where unknown.
        image: resampled; damaged parts are white.
        factor: its px per px of level 0.
        mask: tissue, in px of level 0.
        box: y, x, height, width of what is predicted, px of level 0.
        scanned: y, x, height, width of what the scanner has seen, px of level 0.
    """

    path: pathlib.Path
    size: tuple[int, int]
    mpp: float | None
    image: regions.DamagedReader
    factor: float
    mask: TissueMask
    box: regions.Box
    scanned: regions.Box

    def wanted(self, y: int, x: int, height: int, width: int) -> bool:
        """Whether there is something to predict in a part of the image, its px."""
        top, left, bottom, right = (v / self.factor for v in (y, x, y + height, x + width))
        own_y, own_x, own_height, own_width = self.box
        top, bottom = max(top, own_y), min(bottom, own_y + own_height)
        left, right = max(left, own_x), min(right, own_x + own_width)
        inside = top < bottom and left < right
        return inside and self.mask.any_in(top, left, bottom - top, right - left)

    @property
    def seen_box(self) -> regions.Box:
        """The box in px of the image."""
        y, x, height, width = self.box
        top, left = round(y * self.factor), round(x * self.factor)
        bottom = min(self.image.height, round((y + height) * self.factor))
        right = min(self.image.width, round((x + width) * self.factor))
        return top, left, bottom - top, right - left

    @property
    def tissue_mm2(self) -> float | None:
        """Tissue of the box, mm2; None without a scale."""
        if self.mpp is None:
            return None
        return self.mask.pixels_in(*self.box) * self.mpp**2 / 1e6


def is_slide(path: pathlib.Path, image: reader.RegionReader) -> bool:
    """Whether an image goes region by region: by its ending, or because it is large."""
    slides = (".svs", *reader.SLIDE_SUFFIXES)
    return path.suffix.lower() in slides or image.height * image.width > LARGEST_FIELD


def predict_slide(
    run: workdirs.Run,
    network: tiled.TiledNetwork,
    path: pathlib.Path,
    output: pathlib.Path,
    *,
    options: Options,
    made_of: Mapping[str, Any],
    sinks: Sequence[str] | None = None,
    mpp: float | None = None,
    estimate: Estimate | None = None,
    tile: int = tiled.LARGEST_TILE,
    max_pixels: int = reader.MAX_PIXELS,
) -> prediction.Prediction:
    """Finds the nuclei of a slide region by region, or enhances it, into the folder `output`.

    Regions that are done lie in NAME.parts until all are, for a call that comes after a stop.

    Args:
        run, network: that segment, enhance, or both.
        path: of the slide.
        output: folder, made where it is missing.
        options: of slides alone.
        made_of: what the results follow from; parts made of anything else are made again.
        sinks: names of what is written; None: all but the enhanced image where there is more.
        mpp, estimate, max_pixels: as in `prediction.predict_file`.
        tile: largest tile, output px.

    Raises:
        UserError: a slide that cannot be read or is damaged in too large a part, a scale that does
            not fit, an enhanced image that would be too large.
    """
    started = time.monotonic()
    times: dict[str, float] = {}
    names = _names(run, sinks, options)
    with contextlib.ExitStack() as stack:
        image = stack.enter_context(reader.open_image(path, max_pixels=max_pixels))
        view, note = _view_of(run, network, image, path, mpp, estimate, options)
        normalized: tiling.RegionReader = view.image
        if network.matching is not None:
            normalized = network.matching.reader(view.image, name=str(path))
            network = dataclasses.replace(network, matching=None)
        tile = max(network.stride, tile // network.scale // network.stride * network.stride)
        made: dict[str, pathlib.Path] = {}
        nuclei = table = None
        if "sr" in names:
            sr = output / f"{path.stem}.sr.tif"
            fine = None if view.mpp is None else view.mpp / view.factor / network.scale
            with _timed(times, "enhancing"):
                enhancement.write(
                    sr,
                    network,
                    normalized,
                    view.seen_box,
                    mpp=fine,
                    tile=tile,
                    batch=options.batch,
                    wanted=view.wanted,
                    max_output_pixels=options.max_output_pixels,
                )
            made["sr"] = sr
        if names - {"sr"}:
            parts = output / f"{path.stem}.parts"
            with disk_errors(output):
                _prepare(parts, made_of)
            nuclei = _find(run, network, normalized, view, parts, tile, options, times)
            with _timed(times, "writing"):
                of_nuclei, table = files.write(nuclei, view, network.scale, output, names)
                made |= of_nuclei
        if damage := view.image.check(path):
            note += f"; {damage}"
        if not view.mask.mask.any():
            note += "; it shows no tissue"
        times["in all"] = time.monotonic() - started
        with _timed(times, "page"):
            files.page(
                nuclei,
                table,
                view,
                network.scale,
                output,
                made,
                note=note,
                times=times,
                run=run,
            )
        if nuclei is not None:
            shutil.rmtree(parts, ignore_errors=True)
    count = None if nuclei is None else len(nuclei.table["label"])
    scale = network.scale if "sr" in made else 1
    return prediction.Prediction(path.stem, view.size, view.mpp, scale, made, count, note)


@contextlib.contextmanager
def _timed(times: dict[str, float], name: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    times[name] = times.get(name, 0) + time.monotonic() - started


def _names(run: workdirs.Run, sinks: Sequence[str] | None, options: Options) -> set[str]:
    """Of the files to be made of a slide; UserError for one that the run does not make."""
    able = {"sr"} if enhances(run.stage) else set()
    if segments(run.stage):
        able |= set(files.OF_NUCLEI)
    if unknown := [name for name in sinks or () if name not in able]:
        raise UserError(
            f"--outputs={unknown[0]} is not made of a slide by {run.workdir}: choose among "
            f"{', '.join(sorted(able))}"
        )
    if options.enhance and "sr" not in able:
        raise UserError(f"--enhance needs a run that enhances, and {run.workdir} does not")
    chosen = set(sinks or (able - {"sr"} or able))
    return chosen | {"sr"} if options.enhance else chosen


def _view_of(
    run: workdirs.Run,
    network: tiled.TiledNetwork,
    image: reader.RegionReader,
    path: pathlib.Path,
    mpp: float | None,
    estimate: Estimate | None,
    options: Options,
) -> tuple[View, str]:
    """The slide at the scale of the network, and a sentence about the scale."""
    known = image.mpp if mpp is None else mpp
    note = ""
    if mpp is not None and image.mpp is not None and not prediction.is_near(mpp / image.mpp):
        note = f"; the file states {image.mpp:g} um/px"
    if known is None and image.power and not (estimate and estimate.sure):
        known = _UM_OF_POWER / image.power
        note = f"; its scale is a guess by its objective of {image.power:g}x, --mpp=... corrects it"
    reads = options.read_mpp or (run.meta["mpp_in"] if segments(run.stage) else None)
    factor, words = 1.0, "enhanced as it is"
    if segments(run.stage) and not enhances(run.stage):
        factor, words = prediction.scale_factor(run, 1, known, estimate, path=path)
    elif reads is not None and known is not None and not prediction.is_near(known / reads):
        factor, words = known / reads, f"at {known:g} um/px, read at {reads:g} um/px"
    y, x, height, width = 0, 0, image.height, image.width
    if options.region is not None:
        x, y, width, height = options.region
        if not (0 <= x < x + width <= image.width and 0 <= y < y + height <= image.height):
            given = ",".join(map(str, options.region))
            raise UserError(
                f"--region={given} is not inside {path} of {image.width} x {image.height} px: "
                "give X,Y,WIDTH,HEIGHT in px of the full resolution"
            )
    seen = image if factor == 1.0 else reader.ResampledReader(image, factor)
    view = View(
        path,
        (image.height, image.width),
        known,
        regions.DamagedReader(seen),
        factor,
        tissue_mask(image, known),
        (y, x, height, width),
        image.bounds,
    )
    return view, words + note


def _prepare(parts: pathlib.Path, made_of: Mapping[str, Any]) -> None:
    """Makes the folder of regions, without those that follow from something else."""
    record = parts / "made_of.json"
    try:
        same = json.loads(record.read_text(encoding="utf-8")) == json.loads(json.dumps(made_of))
    except (OSError, ValueError):
        same = False
    if not same:
        shutil.rmtree(parts, ignore_errors=True)
        parts.mkdir(parents=True)
        writers.write_json(record, made_of)


def _find(
    run: workdirs.Run,
    network: tiled.TiledNetwork,
    image: tiling.RegionReader,
    view: View,
    parts: pathlib.Path,
    tile: int,
    options: Options,
    times: dict[str, float],
) -> region_nuclei.Nuclei:
    """The nuclei of all regions, of which those that lie in `parts` are not looked for again."""
    scale = network.scale
    found = regions.regions_of(
        image.height,
        image.width,
        stride=network.stride,
        window=options.window // scale,
        margin=regions.MARGIN // scale,
        wanted=view.wanted,
    )
    paths = {region: parts / f"{region.name}.npz" for region in found}
    todo = [region for region in found if not paths[region].exists()]
    size = image.height * scale, image.width * scale
    mpp = None if view.mpp is None else view.mpp / view.factor / scale
    parameters = labeling.parameters_of(run)
    um2 = 1.0 if view.mpp is None else (view.mpp / view.factor) ** 2 / 1e6

    def area(some: Sequence[regions.Region]) -> float:
        return sum(r.owned[2] * r.owned[3] for r in some) * um2

    def finish(seen: regions.Seen) -> None:
        with _timed(times, "post-processing"):
            nuclei = region_nuclei.find(
                run,
                parameters,
                seen,
                size=size,
                mpp=mpp,
                cell_expansion=options.cell_expansion,
            )
            region_nuclei.save(paths[seen.region], nuclei)

    unit = " px" if view.mpp is None else " mm2"
    with (
        tqdm(
            total=area(found), initial=area(found) - area(todo), unit=unit, desc=view.path.name
        ) as bar,
        concurrent.futures.ThreadPoolExecutor(options.workers) as pool,
    ):
        waiting: list[concurrent.futures.Future[None]] = []
        started = time.monotonic()
        network_seconds = 0.0
        for seen in regions.run_network(
            network, image, todo, tile=tile, batch=options.batch, wanted=view.wanted
        ):
            network_seconds += time.monotonic() - started
            waiting.append(pool.submit(finish, seen))
            while len(waiting) > options.workers:
                waiting.pop(0).result()
            bar.update(area([seen.region]))
            bar.set_postfix_str(f"{bar.n / max(bar.total, 1e-9):.0%} of the tissue")
            started = time.monotonic()
        for future in waiting:
            future.result()
    times["network"] = network_seconds
    whole = region_nuclei.joined(region_nuclei.load(path) for path in paths.values())
    return region_nuclei.within(whole, tuple(scale * value for value in view.seen_box))
