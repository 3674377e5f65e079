"""A trained run on one of the user's own images: file in, files out, strip by strip."""

import contextlib
import dataclasses
import math
import os
import pathlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from absl import logging

from histojax.components.images import likeliest_class, tells_classes
from histojax.errors import UserError
from histojax.files import disk_errors
from histojax.imaging import conversion, reader, tiling, writers
from histojax.imaging.labels import read_label_region
from histojax.inference import labeling, measured, tiled
from histojax.inference.scale import Estimate
from histojax.inference.sinks import SINKS
from histojax.inference.sinks.base import Sink
from histojax.inference.slides.regions import DamagedReader
from histojax.runs import workdirs
from histojax.stages.base import enhances, segments

# What tells how a file's outputs were made is called NAME + this.
RECORD = ".predicted.json"
_SAME_SCALE = 0.05
# Scales further apart than this factor are taken for a mistake.
_MOST_APART = 32
# Beyond the 20x that segmenters are trained on at 40x, as a factor of the scale.
_COARSE = 2.5
_PREVIEW = 384
_LONGEST_NAME = 255  # bytes, of the usual file systems


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What was made of one image.

    Attributes:
        name: of the input file, without its ending.
        size: (H, W) of the input, px.
        mpp: um per px of the input, None where unknown.
        scale: px of the enhanced image per px of the input a side, 1 where none is made; of a slide
            that was read at another scale than its own not whole.
        files: by the name of their sink, in the order of `SINKS`.
        nuclei: how many were found, None where none were looked for.
        note: what was done about the scale, and what was left out, a sentence.
        class_names: of the run, from 0; empty where it predicts no classes.
        before: whether an earlier call made it, by the same model and flags.
        tissue_mm2: tissue of a slide in which nuclei were looked for; None where unknown.
        box: (y, x, height, width) of a slide that was predicted, px of the input; None: all of it.
    """

    name: str
    size: tuple[int, int]
    mpp: float | None
    scale: float
    files: Mapping[str, pathlib.Path]
    nuclei: int | None
    note: str
    class_names: tuple[str, ...] = ()
    before: bool = False
    tissue_mm2: float | None = None
    box: tuple[int, int, int, int] | None = None


def predict_file(
    run: workdirs.Run,
    network: tiled.TiledNetwork,
    path: pathlib.Path,
    output: pathlib.Path,
    *,
    outputs: Sequence[str] | None = None,
    mpp: float | None = None,
    estimate: Estimate | None = None,
    cell_expansion: float = 5.0,
    max_pixels: int = reader.MAX_PIXELS,
) -> Prediction:
    """Enhances and segments one image, strip by strip, into the folder `output`.

    An enhancer takes the image as it is. A segmenter reads it, or its enhanced image, at the scale
    of the run's training. Labels are on the grid of the input, and again on the enhanced one.

    Args:
        run: whose parameters turn maps into nuclei.
        network: of the run.
        path: of the image.
        output: folder, made where it is missing.
        outputs: names in `SINKS` and `measured.FILES`; None: all that the run makes.
        mpp: of the image, um per px; None: as the file states it.
        estimate: of its nuclei; where it is sure it decides before `mpp` does.
        cell_expansion: how far a cell reaches beyond its nucleus, um; 0 leaves cells out.
        max_pixels: largest image that is decoded whole, px.

    Raises:
        UserError: an image that cannot be read, whose scale does not fit, or whose name is too long
            or no text; an output that the run does not make.
    """
    sinks, measures = sinks_of(run, outputs), measured.chosen(_outputs(run), outputs)
    files = output_files(path, output, sinks)
    scale = network.scale
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(reader.open_image(path, max_pixels=max_pixels))
        stated, size = source.mpp, (source.height, source.width)
        known = stated if mpp is None else mpp
        factor, note = scale_factor(run, scale, known, estimate, path=path)
        note += against_file(path, stated, mpp)
        # Of the files: (size, mpp) on the grid of the input, and on the enhanced one.
        fine = (size[0] * scale, size[1] * scale), None if known is None else known / scale
        grids = {False: (size, known), True: fine}
        nuclei = labeller = probability = None
        # Of the image in which nuclei are looked for.
        seen = max(1, round(fine[0][0] * factor)), max(1, round(fine[0][1] * factor))
        if any("labels" in sink.reads for sink in sinks.values()):
            at = None if fine[1] is None else fine[1] / factor
            # By the size of nuclei they lie on the grid of the training, whatever the file states.
            if estimate is not None and estimate.sure:
                at = run.meta["mpp_out"]
            labeller = stack.enter_context(labeling.Labeller(run, *seen, mpp=at))
        if factor != 1.0 and enhances(run.stage):
            assert network.parts is not None
            enhancer, network = network.parts
            sr = files.get("sr")
            if sr is None:
                with disk_errors(output):
                    output.mkdir(parents=True, exist_ok=True)
                    scratch = tempfile.TemporaryDirectory(dir=output, prefix=".")
                sr = pathlib.Path(stack.enter_context(scratch)) / "sr.tif"
            with SINKS["sr"](sr, size=fine[0], seen=fine[0], mpp=fine[1]) as enhanced:
                _feed(tiling.strips(enhancer.tiles(source, name=str(path))), [enhanced])
            source = stack.enter_context(reader.open_image(sr, max_pixels=max_pixels))
            sinks = {kind: sink for kind, sink in sinks.items() if kind != "sr"}
        if sinks:
            image = source if factor == 1.0 else reader.ResampledReader(source, factor)
            opened = []
            for kind, sink in sinks.items():
                of, each = grids[sink.enhanced]
                opened.append(stack.enter_context(sink(files[kind], size=of, seen=seen, mpp=each)))
            if measures:
                assert segments(run.stage)
                # Without an enhanced image the input's grid is no finer than that of the maps.
                probability = measured.Probability(size, seen)
                opened.append(probability)
            strips = tiling.strips(network.tiles(image, name=str(path)))
            nuclei = _write(run, strips, opened, labeller)
        if labeller is not None and labeller.largest is not None and labeller.dropped:
            most = labeller.largest * math.prod(size) / math.prod(seen)
            note += f"; {labeller.dropped} object{'s' * (labeller.dropped > 1)} larger "
            note += f"than a nucleus can be (over {most:,.0f} px of the input) dropped"
    if probability is not None:
        files |= measured.write(
            files,
            path,
            output,
            measures,
            mpp=known,
            scale=scale,
            probability=probability.map,
            cell_expansion=cell_expansion,
            max_pixels=max_pixels,
        )
    names = tuple(run.meta["classes"]) if "classes" in _outputs(run) else ()
    return Prediction(path.stem, size, known, scale, files, nuclei, note, names)


def output_files(
    path: pathlib.Path, output: pathlib.Path, sinks: Mapping[str, type[Sink]]
) -> dict[str, pathlib.Path]:
    """The files that are made of an image, by the name of their sink.

    Raises:
        UserError: the name of the image is too long for them, or no text.
    """
    name = conversion.readable_name(path)
    files = {kind: output / f"{name}{sink.suffix}" for kind, sink in sinks.items()}
    longest = max((*(file.name for file in files.values()), name + RECORD), key=len)
    if len(os.fsencode(longest)) > _LONGEST_NAME:
        raise UserError(
            f"{path} would be written as {longest}, and a name has at most {_LONGEST_NAME} bytes: "
            "shorten the name of the image"
        )
    return files


def _feed(strips: Iterable[dict[str, np.ndarray]], sinks: Sequence[Sink]) -> None:
    """Hands all strips to the sinks and closes them."""
    for outputs in strips:
        for sink in sinks:
            sink.add(outputs)
    for sink in sinks:
        sink.close()


def _outputs(run: workdirs.Run) -> set[str]:
    """The outputs that a run makes, as sinks read them."""
    made = {"sr"} if enhances(run.stage) else set()
    if segments(run.stage):
        heads = run.stage.segmenter.heads
        made |= {*heads, "labels"} | ({"classes"} if tells_classes(heads) else set())
    return made


def sinks_of(run: workdirs.Run, outputs: Sequence[str] | None) -> dict[str, type[Sink]]:
    """The sinks named in `outputs`; all that the run has the outputs for where none is named."""
    made = _outputs(run)
    known = {name: sink for name, sink in SINKS.items() if made.issuperset(sink.reads)}
    able = [*known, *measured.chosen(made, measured.FILES)]
    for name in outputs or ():
        if name not in able:
            raise UserError(
                f"--outputs={name} is not made by {run.workdir}: choose among {', '.join(able)}"
            )
    # Nuclei are measured in the files of their labels.
    needed = {"labels"} if measured.chosen(made, outputs) else set()
    return {
        name: sink
        for name, sink in known.items()
        if not outputs or name in outputs or name in needed
    }


def _write(
    run: workdirs.Run,
    strips: Iterable[dict[str, np.ndarray]],
    sinks: Sequence[Sink],
    labeller: labeling.Labeller | None,
) -> int | None:
    """Feeds the network's strips to the sinks, then the labels; the number of nuclei, or None."""
    # Labels are known only after the network has seen the whole image.
    late = [sink for sink in sinks if "labels" in sink.reads]
    early = [sink for sink in sinks if sink not in late]
    heads = run.stage.segmenter.heads if segments(run.stage) else ()

    def labelled() -> Iterator[dict[str, np.ndarray]]:
        for outputs in strips:
            maps = {head: outputs[head] for head in heads}
            if tells_classes(heads):
                outputs["classes"] = likeliest_class(maps)
            yield outputs
            if labeller is not None:
                labeller.add(maps)

    _feed(labelled(), early)
    if labeller is None:
        return None
    with labeller.finish() as found:
        _feed(({"labels": labels} for labels in found.strips()), late)
        return found.count


def scale_factor(
    run: workdirs.Run,
    scale: int,
    mpp: float | None,
    estimate: Estimate | None = None,
    *,
    path: pathlib.Path | str = "the image",
) -> tuple[float, str]:
    """(factor to resample by the image in which nuclei are looked for, a sentence about it).

    The image is the input, or the enhanced image of `scale` px per px. A sure estimate of the
    input's nuclei tells its scale, else `mpp` does.

    Raises:
        UserError: the scales of `path` and of the run are more than a factor of 32 apart.
    """
    trained, usual = run.meta["mpp_out"], run.meta.get("nucleus_diameter")
    if segments(run.stage) and estimate is not None and estimate.sure:
        assert usual is not None
        assert estimate.diameter is not None
        factor, own = usual / (estimate.diameter * scale), f"{usual:.3g} px"
        spread = f"{estimate.low:.3g} to {estimate.high:.3g}, estimated from {estimate.nuclei}"
        words = f"{spread} of them" if estimate.nuclei else estimate.reason
        given = f"its nuclei measure {estimate.diameter:.3g} px ({words})"
    elif segments(run.stage) and mpp is not None and trained is not None:
        factor, own = mpp / scale / trained, f"{trained:g} um/px"
        given = f"at {mpp:g} um/px"
    else:
        return 1.0, _as_it_is(run, mpp, estimate)
    if is_near(factor):
        return 1.0, f"{given}, as in the training"
    if not 1 / _MOST_APART <= factor <= _MOST_APART:
        raise UserError(
            f"{path}: {given}, more than a factor of {_MOST_APART} from the {own} of the training: "
            "correct --mpp or --nucleus_diameter, or use a run for this scale"
        )
    read = "enhanced as it is, then read" if enhances(run.stage) else "read"
    words = f"{given}: {read} {factor:.3g} times as large, like the {own} of the training"
    if factor >= _COARSE and not enhances(run.stage):
        words += "; it is so coarse that an enhancing model, such as nuclei-joint-x4, may find more"
    return factor, words


def against_file(path: pathlib.Path, stated: float | None, mpp: float | None) -> str:
    """Warns where --mpp differs from what the file states; a clause about it, else nothing."""
    if mpp is None or stated is None or is_near(mpp / stated):
        return ""
    logging.warning("%s states %g um/px, and --mpp=%g is taken", path, stated, mpp)
    return f"; the file states {stated:g} um/px"


def is_near(factor: float) -> bool:
    """Whether a ratio of scales is close to 1: resampling would cost more than it mends."""
    return abs(factor - 1) <= _SAME_SCALE


def _as_it_is(run: workdirs.Run, mpp: float | None, estimate: Estimate | None) -> str:
    """The sentence about an image that is not resampled, whatever its scale."""
    trained = run.meta["mpp_in"]
    if mpp is None:
        own = "as it is" if trained is None else f"as if it had the run's {trained:g} um/px"
        gives = "--mpp=..." if estimate is None else "--mpp or --nucleus_diameter"
        said = f"its scale is unknown, so it is read {own}; {gives} gives it"
    elif trained is None:
        said = f"at {mpp:g} um/px, read as it is: the run does not know its own scale"
    elif is_near(mpp / trained):
        said = f"at {mpp:g} um/px, as in the training"
    else:
        said = f"at {mpp:g} um/px, enhanced as it is; the training had {trained:g} um/px"
    return said if estimate is None else f"{said}; its nuclei do not tell it: {estimate.reason}"


def preview(
    path: pathlib.Path, made: Prediction, *, max_pixels: int = reader.MAX_PIXELS
) -> np.ndarray:
    """Input | enhanced | nuclei | classes at the middle of what was predicted, uint8 (h, w, 3)."""
    top, left, height, width = made.box or (0, 0, *made.size)
    side = max(1, min(int(_PREVIEW / made.scale), height, width))
    y, x = top + (height - side) // 2, left + (width - side) // 2
    with reader.open_image(path, max_pixels=max_pixels) as image:
        shown = DamagedReader(image).read(y, x, side, side)
    row = [("input", shown)]
    fine = [int(made.scale * value) for value in (y - top, x - left, side, side)]
    if "sr" in made.files:
        with reader.open_image(made.files["sr"]) as image:
            shown = image.read(*fine)
        row.append(("enhanced", shown))
    if {"sr", "sr.labels"} <= made.files.keys():
        labels = read_label_region(made.files["sr.labels"], *fine)
        row.append(("nuclei", writers.overlay(shown, labels)))
    elif "labels" in made.files:
        labels = read_label_region(made.files["labels"], y, x, side, side)
        row.append(("nuclei", writers.overlay(row[0][1], labels)))
    if "classes" in made.files:
        numbers = read_label_region(made.files["classes"], y, x, side, side)
        gray = numbers * (255 // (len(made.class_names) - 1))
        row.append(("classes", gray.astype(np.uint8)))
    return writers.panels([row], cell=max(1, round(made.scale * side)))
