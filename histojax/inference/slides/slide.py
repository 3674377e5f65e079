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
from histojax.inference import labeling, measured, prediction, tiled
from histojax.inference.scale import Estimate
from histojax.inference.slides import enhancement, files, region_nuclei, regions
from histojax.inference.slides.view import Options, View, check_enhances, view_of
from histojax.nuclei.usenet import USENetParameters
from histojax.runs import workdirs
from histojax.stages.base import enhances, segments

_DAMAGE = "damaged.json"  # in NAME.parts


def predict_slide(
    run: workdirs.Run,
    network: tiled.TiledNetwork,
    path: pathlib.Path,
    output: pathlib.Path,
    *,
    options: Options,
    made_of: Mapping[str, Any],
    outputs: Sequence[str] | None = None,
    mpp: float | None = None,
    estimate: Estimate | None = None,
    tile: int = tiled.LARGEST_TILE,
    max_pixels: int = reader.MAX_PIXELS,
) -> prediction.Prediction:
    """Finds the nuclei of a slide region by region, or enhances it, into the folder `output`.

    What is done lies in NAME.parts until all is, for a call that comes after a stop.

    Args:
        run, network: that segment, enhance, or both.
        path: of the slide.
        output: folder, made where it is missing.
        options: of slides alone.
        made_of: what the results follow from; parts made of anything else are made again.
        outputs: names of what is written; None: all but the enhanced image where there is more.
        mpp, estimate, max_pixels: as in `prediction.predict_file`.
        tile: largest tile, output px.

    Raises:
        UserError: a slide that cannot be read or is damaged in too large a part, a scale that does
            not fit, an enhanced image that would be too large.
    """
    started = time.monotonic()
    times: dict[str, float] = {}
    names = _names(run, outputs, options)
    with reader.open_image(path, max_pixels=max_pixels) as image:
        view, note = view_of(run, image, path, mpp, estimate, options)
        normalized: tiling.RegionReader = view.image
        if network.matching is not None:
            normalized = network.matching.reader(view.image, name=str(path))
            network = dataclasses.replace(network, matching=None)
        tile = max(network.stride, tile // network.scale // network.stride * network.stride)
        made: dict[str, pathlib.Path] = {}
        nuclei = table = None
        if "sr" in names:
            enhancement.check_size(view.seen_box, network.scale, options.max_output_pixels)
        parts = output / f"{path.stem}.parts"
        with disk_errors(output):
            # An estimate of the scale follows from the other images of a call too.
            _prepare(parts, {**made_of, "factor": view.factor, "mpp": view.mpp})
        view.image.load(parts / _DAMAGE)
        if "sr" in names:
            made["sr"] = output / f"{path.stem}.sr.tif"
            with _timed(times, "enhancing"):
                enhancement.write(
                    made["sr"],
                    network.parts[0] if network.parts else network,
                    normalized,
                    view.seen_box,
                    mpp=None if view.mpp is None else view.mpp / view.factor / network.scale,
                    tile=tile,
                    batch=options.batch,
                    wanted=view.wanted,
                    parts=parts,
                    save_damage=lambda: view.image.save(parts / _DAMAGE),
                )
        if names - {"sr"}:
            nuclei = _find(run, network, normalized, view, parts, tile, options, times)
        note += _remarks(run, view, nuclei, network.scale)
        if nuclei is not None:
            with _timed(times, "writing"):
                of_nuclei, table = files.write(nuclei, view, network.scale, output, names)
                made |= of_nuclei
        times["in all"] = time.monotonic() - started
        with _timed(times, "page"):
            files.page(nuclei, table, view, network.scale, output, made, note, times, run)
        shutil.rmtree(parts, ignore_errors=True)
    count = None if nuclei is None else len(nuclei.table["label"])
    scale = network.scale * view.factor if "sr" in made else 1
    known = path.stem, view.size, view.mpp, scale, made, count, note
    return prediction.Prediction(*known, tissue_mm2=view.tissue_mm2, box=view.box)


def _remarks(run: workdirs.Run, view: View, nuclei: region_nuclei.Nuclei | None, scale: int) -> str:
    """Clauses about what was not seen or not kept; UserError where too much is damaged."""
    note = ""
    if damaged := view.image.check(view.path):
        note += f"; {damaged}"
    if places := view.mask.damaged:
        note += f"; its overview is damaged in {places} place{'s' * (places > 1)} (glass there)"
    if not view.mask.mask.any():
        note += "; it shows no tissue (--noskip_glass predicts all of it)"
    if nuclei is not None and nuclei.dropped:
        px = nuclei.dropped / (view.factor * scale) ** 2
        note += f"; {px:,.0f} px of objects too large for nuclei dropped"
    if nuclei is not None and isinstance(labeling.parameters_of(run), USENetParameters):
        note += "; its post-processing is for whole images, so --window changes the nuclei a little"
    return note


@contextlib.contextmanager
def _timed(times: dict[str, float], name: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    times[name] = times.get(name, 0) + time.monotonic() - started


def _names(run: workdirs.Run, outputs: Sequence[str] | None, options: Options) -> set[str]:
    """Of the files to be made of a slide; UserError for one that the run does not make."""
    able = {"sr"} if enhances(run.stage) else set()
    if segments(run.stage):
        able |= set(files.OF_NUCLEI)
    if unknown := [name for name in outputs or () if name not in able]:
        raise UserError(
            f"--outputs={unknown[0]} is not made of a slide by {run.workdir}: choose among "
            f"{', '.join(sorted(able))}"
        )
    check_enhances(run, options)
    chosen = set(outputs or (able - {"sr", measured.EXTRA} or able))
    return chosen | {"sr"} if options.enhance else chosen


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
    mpp = None if view.mpp is None else view.mpp / view.factor / scale
    margin = regions.margin_for(0 if mpp is None else options.cell_expansion / mpp)
    found = regions.regions_of(
        image.height,
        image.width,
        stride=network.stride,
        window=options.window // scale,
        margin=-(-margin // scale),
        wanted=view.wanted,
    )
    paths = {region: parts / f"{region.name}.npz" for region in found}
    todo = [region for region in found if not paths[region].exists()]
    size = image.height * scale, image.width * scale
    top, left, height, width = (scale * value for value in view.frame)
    parameters = labeling.parameters_of(run)
    um2 = 1.0 if view.mpp is None else (view.mpp / view.factor) ** 2 / 1e6

    def pixels(some: Sequence[regions.Region]) -> int:
        return sum(r.owned[2] * r.owned[3] for r in some)

    def finish(seen: regions.Seen) -> None:
        with _timed(times, "post-processing"):
            nuclei = region_nuclei.find(
                run,
                parameters,
                seen,
                size=size,
                frame=(top, left, height, width),
                mpp=mpp,
                cell_expansion=options.cell_expansion,
            )
            region_nuclei.save(paths[seen.region], nuclei)

    amounts = "{n:,.0f}/{total:,.0f} px" if view.mpp is None else "{n:,.3f}/{total:,.3f} mm2"
    with (
        tqdm(
            total=pixels(found),
            initial=pixels(found) - pixels(todo),
            unit_scale=um2,
            desc=view.path.name,
            bar_format=f"{{l_bar}}{{bar}}| {amounts} with tissue [{{elapsed}}<{{remaining}}]",
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
            # Before the region counts as done.
            view.image.save(parts / _DAMAGE)
            waiting.append(pool.submit(finish, seen))
            while len(waiting) > options.workers:
                waiting.pop(0).result()
            bar.update(pixels([seen.region]))
            started = time.monotonic()
        for future in waiting:
            future.result()
    times["network"] = network_seconds
    none = region_nuclei.none(mpp, options.cell_expansion)
    whole = region_nuclei.joined([none, *map(region_nuclei.load, paths.values())])
    return region_nuclei.within(whole, tuple(scale * value for value in view.seen_box))
