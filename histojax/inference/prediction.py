"""A trained run on the user's own images: files in, files out, strip by strip."""

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import PIL.Image

from histojax.checks import check, number, one_of
from histojax.cli import say
from histojax.components.images import likeliest_class, tells_classes
from histojax.errors import UserError
from histojax.imaging import conversion, reader, tiling, writers
from histojax.imaging.labels import read_label_region
from histojax.inference import labeling, tiled
from histojax.inference.sinks import SINKS
from histojax.inference.sinks.base import Sink
from histojax.report import pages
from histojax.runs import workdirs
from histojax.stages.base import enhances, segments

# Scales this close are taken as equal: resampling would cost more than it mends.
_SAME_SCALE = 0.05
_PREVIEW = 384
_LONGEST_NAME = 255  # bytes, of the usual file systems


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What was made of one image.

    Attributes:
        name: of the input file, without its ending.
        size: (H, W) of the outputs, px.
        mpp: um per output px, None where unknown.
        files: by the name of their sink, in the order of `SINKS`.
        nuclei: how many were found, None where none were looked for.
        note: what was done about the scale, a sentence.
        class_names: of the run, from 0; empty where it predicts no classes.
    """

    name: str
    size: tuple[int, int]
    mpp: float | None
    files: Mapping[str, pathlib.Path]
    nuclei: int | None
    note: str
    class_names: tuple[str, ...] = ()


def predict_files(
    workdir: pathlib.Path,
    inputs: Sequence[pathlib.Path],
    output: pathlib.Path,
    *,
    outputs: Sequence[str] | None = None,
    mpp: float | None = None,
    resample: bool = False,
    tile: int = tiled.LARGEST_TILE,
    ensemble: bool = False,
    max_pixels: int = reader.MAX_PIXELS,
) -> list[Prediction]:
    """Predicts every image and writes index.html; see `histojax.predict`.

    An image that cannot be read or whose scale does not fit raises UserError once the others are
    done, and is not in the index.
    """
    for name in outputs or ():
        check({"outputs": name}, {"outputs": one_of(SINKS)}, "--")
    files = image_files(inputs)
    run = workdirs.load(workdir)
    network = tiled.predictor(run, largest=tile, ensemble=ensemble)
    options: dict[str, Any] = {"outputs": outputs, "mpp": mpp, "resample": resample}
    done: dict[pathlib.Path, Prediction] = {}
    failures: list[UserError] = []
    for count, path in enumerate(files, 1):
        say(f"{count}/{len(files)} {path}")
        try:
            made = predict_file(run, network, path, output, max_pixels=max_pixels, **options)
        except UserError as failure:
            failures.append(failure)
            continue
        done[path] = made
        say(f"  {made.note}" + ("" if made.nuclei is None else f"; {made.nuclei} nuclei"))
    if done:
        index = output / "index.html"
        rows = [(made, preview(path, made, max_pixels=max_pixels)) for path, made in done.items()]
        pages.prediction_index(index, workdir=str(workdir), rows=rows)
        say(str(index))
    if len(failures) == 1:
        raise failures[0]
    if failures:
        raise UserError(
            f"{len(failures)} of {len(files)} images could not be predicted: "
            + "; ".join(map(str, failures))
        )
    return list(done.values())


def image_files(inputs: Sequence[pathlib.Path]) -> list[pathlib.Path]:
    """The images among files and folders, in order of name.

    Raises:
        UserError: for a path that is not there, a folder without images, or two results of one
            name.
    """
    files = reader.listed(inputs, "--input", ("an image", "images"), reader.SUFFIXES)
    names: dict[str, pathlib.Path] = {}
    for path in files:
        other = names.setdefault(path.stem, path)
        if other is not path:
            raise UserError(
                f"{other} and {path} would both be written as {path.stem}.sr.tif; rename one or "
                "predict them into two folders"
            )
    return files


def predict_file(
    run: workdirs.Run,
    network: tiled.TiledNetwork,
    path: pathlib.Path,
    output: pathlib.Path,
    *,
    outputs: Sequence[str] | None = None,
    mpp: float | None = None,
    resample: bool = False,
    max_pixels: int = reader.MAX_PIXELS,
) -> Prediction:
    """Enhances and segments one image, strip by strip, into the folder `output`.

    Args:
        run: whose parameters turn maps into nuclei.
        network: of the run.
        path: of the image.
        output: folder, made where it is missing.
        outputs: names in `SINKS`; None: all that the run makes.
        mpp: of the image, um per px; None: as the file states it.
        resample: whether to resample an image whose scale is more than a factor of 2 off the run's.
        max_pixels: largest image that is decoded whole, px.

    Raises:
        UserError: an image that cannot be read, whose scale does not fit, or whose name is too long
            or no text; an output that the run does not make.
    """
    name = conversion.readable_name(path)
    sinks = _sinks(run, outputs)
    files = {kind: output / f"{name}{sink.suffix}" for kind, sink in sinks.items()}
    longest = max((file.name for file in files.values()), key=len)
    if len(os.fsencode(longest)) > _LONGEST_NAME:
        raise UserError(
            f"{path} would be written as {longest}, and a name has at most {_LONGEST_NAME} bytes: "
            "shorten the name of the image"
        )
    with reader.open_image(path, max_pixels=max_pixels) as opened:
        known = mpp if mpp is not None else opened.mpp
        factor, note = scale_factor(known, run.meta["mpp_in"], path, resample=resample)
        scaled = opened if factor == 1.0 else reader.ResampledReader(opened, factor)
        height, width = scaled.height * network.scale, scaled.width * network.scale
        mpp_out = None if known is None else known / factor / network.scale
        if factor != 1.0:
            note += f"; outputs have {height} x {width} px"
        strips = tiling.strips(network.tiles(scaled, name=str(path)))
        with contextlib.ExitStack() as stack:
            opened_sinks = [
                stack.enter_context(sink(files[kind], height=height, width=width, mpp=mpp_out))
                for kind, sink in sinks.items()
            ]
            nuclei = _write(run, strips, opened_sinks, (height, width), mpp_out)
    names = tuple(run.meta["classes"]) if "classes" in _outputs(run) else ()
    return Prediction(name, (height, width), mpp_out, files, nuclei, note, names)


def _outputs(run: workdirs.Run) -> set[str]:
    """The outputs that a run makes, as sinks read them."""
    made = {"sr"} if enhances(run.stage) else set()
    if segments(run.stage):
        heads = run.stage.segmenter.heads
        made |= {*heads, "labels"} | ({"classes"} if tells_classes(heads) else set())
    return made


def _sinks(run: workdirs.Run, outputs: Sequence[str] | None) -> dict[str, type[Sink]]:
    """The sinks named in `outputs`; all that the run has the outputs for where none is named."""
    made = _outputs(run)
    known = {name: sink for name, sink in SINKS.items() if made.issuperset(sink.reads)}
    for name in outputs or ():
        if name not in known:
            raise UserError(
                f"--outputs={name} is not made by {run.workdir}: choose among {', '.join(known)}"
            )
    return {name: sink for name, sink in known.items() if not outputs or name in outputs}


def _write(
    run: workdirs.Run,
    strips: Iterable[dict[str, np.ndarray]],
    sinks: Sequence[Sink],
    size: tuple[int, int],
    mpp: float | None,
) -> int | None:
    """Feeds the network's strips to the sinks, then the labels, whose number it returns."""
    # Labels are known only after the network has seen the whole image.
    late = [sink for sink in sinks if "labels" in sink.reads]
    early = [sink for sink in sinks if sink not in late]
    heads = run.stage.segmenter.heads if segments(run.stage) else ()
    with labeling.Labeller(run, *size, mpp=mpp) if late else contextlib.nullcontext() as labeller:
        for outputs in strips:
            maps = {head: outputs[head] for head in heads}
            if tells_classes(heads):
                outputs["classes"] = likeliest_class(maps)
            for sink in early:
                sink.add(outputs)
            if labeller is not None:
                labeller.add(maps)
        for sink in early:
            sink.close()
        if labeller is None:
            return None
        with labeller.finish() as found:
            for labels in found.strips():
                for sink in late:
                    sink.add({"labels": labels})
        for sink in late:
            sink.close()
        return found.count


def scale_factor(
    mpp: float | None, mpp_in: float | None, path: pathlib.Path, *, resample: bool
) -> tuple[float, str]:
    """(factor to resample an image by, a sentence about it), from its um per px and the run's.

    Raises:
        UserError: where the scales of `path` and the run are more than a factor of 2 apart, or of
            16 with `resample`.
    """
    if mpp is None:
        trained = "" if mpp_in is None else f", the run's {mpp_in:g} um/px"
        return 1.0, f"scale unknown, taken as it is{trained} (--mpp=... gives it)"
    check({"mpp": mpp}, {"mpp": number(above=0, of="a number of micrometres per pixel")}, "--")
    if mpp_in is None:
        return 1.0, f"at {mpp:g} um/px; the run does not know its own scale, taken as it is"
    factor = mpp / mpp_in
    if abs(factor - 1) <= _SAME_SCALE:
        return 1.0, f"at {mpp:g} um/px, as the run was trained"
    limit, remedy = (16, "") if resample else (2, ", or add --resample")
    if not 1 / limit <= factor <= limit:
        raise UserError(
            f"{path} has {mpp:g} um/px and the run was trained for {mpp_in:g}; that is more than a "
            f"factor of {limit} apart: use a run for this scale, correct --mpp{remedy}"
        )
    return factor, f"resampled from {mpp:g} to {mpp_in:g} um/px"


def preview(
    path: pathlib.Path, made: Prediction, *, max_pixels: int = reader.MAX_PIXELS
) -> np.ndarray:
    """Input | enhanced | nuclei | classes at the middle of the image, uint8 (h, w, 3)."""
    size = min(_PREVIEW, *made.size)
    y, x = (made.size[0] - size) // 2, (made.size[1] - size) // 2
    with reader.open_image(path, max_pixels=max_pixels) as image:
        step = image.height / made.size[0]
        side = max(1, round(size * step))
        top = min(round(y * step), image.height - 1)
        left = min(round(x * step), image.width - 1)
        before = image.read(top, left, min(side, image.height - top), min(side, image.width - left))
    row = [("input", before)]
    shown = before
    if "sr" in made.files:
        with reader.open_image(made.files["sr"]) as image:
            shown = image.read(y, x, size, size)
        row.append(("enhanced", shown))
    elif shown.shape[:2] != (size, size):  # resampled, or enhanced and not kept
        shown = np.asarray(PIL.Image.fromarray(shown).resize((size, size)))
    if "labels" in made.files:
        labels = read_label_region(made.files["labels"], y, x, size, size)
        row.append(("nuclei", writers.overlay(shown, labels)))
    if "classes" in made.files:
        numbers = read_label_region(made.files["classes"], y, x, size, size)
        gray = numbers * (255 // (len(made.class_names) - 1))
        row.append(("classes", gray.astype(np.uint8)))
    return writers.panels([row], cell=size)
