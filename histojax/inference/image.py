"""A trained run on one image: regions, nuclei, files, page; nothing is done twice."""

import contextlib
import json
import math
import os
import pathlib
import shutil
import time
from collections.abc import Mapping, Sequence
from typing import Any

from histojax.files import disk_errors
from histojax.imaging import reader, writers
from histojax.inference import labeling, tiled
from histojax.inference.prediction import Prediction
from histojax.inference.regions import enhancement, files, image_nuclei, page
from histojax.inference.regions.cut import DAMAGE
from histojax.inference.regions.progress import timed
from histojax.inference.regions.view import Options, View, check_enhances, view_of
from histojax.inference.scale import Estimate
from histojax.nuclei.usenet import USENetParameters
from histojax.runs import workdirs
from histojax.stages.base import enhances, segments


def predict_image(
    run: workdirs.Run,
    network: tiled.TiledNetwork,
    path: pathlib.Path,
    output: pathlib.Path,
    *,
    options: Options | None = None,
    made_of: Mapping[str, Any] | None = None,
    outputs: Sequence[str] | None = None,
    mpp: float | None = None,
    estimate: Estimate | None = None,
    max_pixels: int = reader.MAX_PIXELS,
) -> Prediction:
    """Enhances an image, finds its nuclei, or both, region by region, into the folder `output`.

    An enhancer takes a field as it is. A segmenter reads it, or its enhanced image, at the scale of
    the run's training. A slide has no enhanced image of all of it: both networks read it at the
    scale of the training. What is done lies in NAME.parts until all is, for a call that comes
    after a stop.

    Args:
        run: whose parameters turn maps into nuclei.
        network: of the run.
        path: of the image.
        output: folder, made where it is missing.
        options: None: the defaults.
        made_of: what the results follow from; parts made of anything else are made again, and all
            where it is None.
        outputs: names in `files.OUTPUTS`; None: as `files.chosen` says.
        mpp: of the image, um per px; None: as the file states it.
        estimate: of its nuclei; where it is sure it decides before `mpp` does.
        max_pixels: largest image that is decoded whole, px.

    Raises:
        UserError: an image that cannot be read, whose scale does not fit, whose name is too long or
            no text, that is damaged in too large a part, or whose enhanced image would be too
            large; an output that the run does not make.
    """
    started, times = time.monotonic(), dict[str, float]()
    options = options or Options()
    check_enhances(run, options)
    paths = files.paths_of(path, output)
    with contextlib.ExitStack() as stack:
        image = stack.enter_context(reader.open_image(path, max_pixels=max_pixels))
        view, factor, note = view_of(run, image, path, mpp, estimate, options)
        names = files.chosen(run, outputs, slide=view.slide)
        names |= {"sr"} if options.enhance else set()
        made = {k: p for k, p in paths.items() if k in names}
        if view.slide and "geojson" in made:
            made["geojson"] = made["geojson"].with_suffix(".geojson.gz")
        seeks = segments(run.stage) and names != {"sr"}
        # Nuclei of a field are found in its enhanced image.
        in_enhanced = seeks and enhances(run.stage) and not view.slide
        if in_enhanced or "sr" in names:
            enhancement.check_size(view.seen_box, network.scale, options.max_output_pixels)
        parts = output / f"{path.stem}.parts"
        with disk_errors(output):
            # An estimate of the scale follows from the other images of a call too.
            _prepare(parts, made_of, {"factor": view.factor * factor, "mpp": view.mpp})
        view.image.load(parts / DAMAGE)
        enhanced = found = table = None
        sr = parts / "sr.tif"
        if in_enhanced or "sr" in names:
            with timed(times, "enhancing"):
                enhancer = network.parts[0] if network.parts else network
                enhanced = enhancement.write(sr, enhancer, view, options, parts)
        if seeks:
            seen, finder = view, network
            if in_enhanced:
                assert network.parts is not None
                opened = stack.enter_context(reader.open_image(sr))
                # Its smaller levels are means of 2 x 2 px, and so no Lanczos of all of it.
                opened.reductions = ()
                seen, finder = view.enhanced(opened, network.scale, factor), network.parts[1]
            at = seen.mpp_at(finder.scale)
            # By the size of nuclei they lie on the grid of the training, whatever the file states.
            if estimate is not None and estimate.sure:
                at = run.meta["mpp_out"]
            found = image_nuclei.find(
                *(run, finder, seen, parts, options, times), mpp=at, file=view.image
            )
        note += _remarks(run, view, found)
        if found is not None:
            with timed(times, "writing"):
                table = files.write(found, made, enhanced)
        times["in all"] = time.monotonic() - started
        if "page" in made:
            nuclei = None if found is None or table is None else (found, table)
            page.write(run, view, nuclei, enhanced, made, note=note, times=times)
        if "sr" in made:
            # Last, as a stop would leave it in the place of an image without a record.
            with disk_errors(made["sr"]):
                os.replace(sr, made["sr"])
        shutil.rmtree(parts, ignore_errors=True)
    return Prediction(
        name=path.stem,
        size=view.size,
        mpp=view.mpp,
        scale=view.factor * enhanced.scale if enhanced and "sr" in made else 1,
        files=made,
        nuclei=None if table is None else len(table["label"]),
        note=note,
        box=view.box,
        area_mm2=view.area_mm2,
        class_names=labeling.class_names(run),
    )


def _remarks(run: workdirs.Run, view: View, found: image_nuclei.Found | None) -> str:
    """Clauses about what was not seen or not kept; UserError where too much is damaged."""
    note = ""
    if damaged := view.image.check(view.path):
        note += f"; {damaged}"
    if (places := view.mask.damaged) and view.slide:
        note += f"; its overview is damaged in {places} place{'s' * (places > 1)} (glass there)"
    if not view.mask.mask.any():
        note += "; it shows no tissue (--noskip_glass predicts all of it)"
    if found is None:
        return note
    if found.nuclei.dropped:
        px = found.nuclei.dropped / math.prod(found.per_px)
        note += f"; {px:,.0f} px of objects too large for nuclei dropped"
    if len(found.regions) > 1 and isinstance(labeling.parameters_of(run), USENetParameters):
        note += "; its post-processing is for whole images, so --window changes the nuclei a little"
    return note


def _prepare(
    parts: pathlib.Path, made_of: Mapping[str, Any] | None, more: Mapping[str, Any]
) -> None:
    """Makes the folder of regions, without those that follow from something else, or unknown."""
    record = parts / "made_of.json"
    known, made_of = made_of is not None, {**(made_of or {}), **more}
    try:
        same = json.loads(record.read_text(encoding="utf-8")) == json.loads(json.dumps(made_of))
    except (OSError, ValueError):
        same = False
    if not (same and known):
        shutil.rmtree(parts, ignore_errors=True)
        parts.mkdir(parents=True)
        writers.write_json(record, made_of)
