"""Trained runs on the user's own images."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from histojax.cli import say
from histojax.components.images import likeliest_class, tells_classes
from histojax.errors import UserError
from histojax.imaging import conversion, reader, tiling, writers
from histojax.imaging.plane import Plane
from histojax.imaging.scaling import ResampledReader
from histojax.inference import labeling, tiled
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
        sr, labels, classes: files written, None where the run does not make them.
        nuclei: how many were found, None where the run finds none.
        note: what was done about the scale, a sentence.
        class_names: of the values in `classes`, from 0.
    """

    name: str
    size: tuple[int, int]
    mpp: float | None
    sr: pathlib.Path | None
    labels: pathlib.Path | None
    classes: pathlib.Path | None
    nuclei: int | None
    note: str
    class_names: tuple[str, ...] = ()


def predict_files(
    workdir: pathlib.Path,
    inputs: Sequence[pathlib.Path],
    output: pathlib.Path,
    *,
    mpp: float | None = None,
    resample: bool = False,
    tile: int = tiled.LARGEST_TILE,
    ensemble: bool = False,
    max_pixels: int = reader.MAX_PIXELS,
) -> list[Prediction]:
    """Predicts every image and writes index.html; see `histojax.predict`.

    Raises:
        UserError: after the others are done, for images that cannot be read or whose scale does
            not fit. The index lists those that could be.
    """
    files = image_files(inputs)
    run = workdirs.load(workdir)
    network = tiled.predictor(run, largest=tile, ensemble=ensemble)
    done: dict[pathlib.Path, Prediction] = {}
    failures: list[UserError] = []
    for number, path in enumerate(files, 1):
        say(f"{number}/{len(files)} {path}")
        try:
            made = predict_file(
                run, network, path, output, mpp=mpp, resample=resample, max_pixels=max_pixels
            )
        except UserError as failure:
            failures.append(failure)
            continue
        done[path] = made
        say(f"  {made.note}" + ("" if made.nuclei is None else f"; {made.nuclei} nuclei"))
    if done:
        write_index(output, workdir, done, max_pixels=max_pixels)
        say(str(output / "index.html"))
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
        UserError: for a path that is not there, a folder without images, or two files whose
            results would have one name.
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
    mpp: float | None,
    resample: bool,
    max_pixels: int = reader.MAX_PIXELS,
) -> Prediction:
    """Enhances and segments one image, strip by strip, into `output`.

    Raises:
        UserError: for an image that cannot be read, whose scale does not fit, or whose name is too
            long or no text.
    """
    name = conversion.readable_name(path)
    makes_sr = enhances(run.stage)
    finds = segments(run.stage)
    heads = run.stage.segmenter.heads if finds else ()
    classifies = tells_classes(heads)
    longest = f"{name}.{'classes' if classifies else 'labels'}.tif"
    if len(os.fsencode(longest)) > _LONGEST_NAME:
        raise UserError(
            f"{path} would be written as {longest}, and a name has at most {_LONGEST_NAME} bytes: "
            "shorten the name of the image"
        )
    with reader.open_image(path, max_pixels=max_pixels) as image:
        known = mpp if mpp is not None else image.mpp
        factor, note = scale_factor(known, run.meta["mpp_in"], path, resample=resample)
        scaled = image if factor == 1.0 else ResampledReader(image, factor)
        mpp_out = None if known is None else known / factor / network.scale
        height, width = scaled.height * network.scale, scaled.width * network.scale
        with contextlib.ExitStack() as stack:
            labeller = None
            if finds:
                labeller = stack.enter_context(labeling.Labeller(run, height, width, mpp=mpp_out))
            plane = stack.enter_context(Plane(width, np.uint8)) if classifies else None

            def strips() -> Iterator[np.ndarray]:
                for strip in tiling.strips(network.tiles(scaled, name=str(path))):
                    maps = {head: strip.outputs[head] for head in heads}
                    if labeller is not None:
                        labeller.add(maps)
                    if plane is not None:
                        plane.append(likeliest_class(maps))
                    yield strip.outputs.get("sr")

            sr = output / f"{name}.sr.tif" if makes_sr else None
            if sr is not None:
                writers.stream_tiff(sr, strips(), height=height, width=width, mpp=mpp_out)
            else:
                for _ in strips():
                    pass
            classes, labels, count = None, None, None
            if plane is not None:
                classes = output / f"{name}.classes.tif"
                writers.stream_tiff(
                    classes, plane.strips(), height=height, width=width, mpp=mpp_out
                )
            if labeller is not None:
                labels = output / f"{name}.labels.tif"
                with labeller.finish() as found:
                    count = found.count
                    writers.stream_tiff(
                        labels, found.strips(), height=height, width=width, mpp=mpp_out
                    )
    names = tuple(run.meta["classes"]) if classifies else ()
    return Prediction(name, (height, width), mpp_out, sr, labels, classes, count, note, names)


def scale_factor(
    mpp: float | None, mpp_in: float | None, path: pathlib.Path, *, resample: bool
) -> tuple[float, str]:
    """(factor to resample an image by, a sentence about it).

    Args:
        mpp: of the image, um per px.
        mpp_in: that the run was trained for.
        path: for messages.
        resample: whether factors beyond 2 are allowed.

    Raises:
        UserError: if the scales are further apart than 2 and `resample` is not set.
    """
    if mpp is not None and not 0 < mpp < math.inf:
        raise UserError(f"--mpp={mpp} has to be above 0, in micrometres per pixel")
    if mpp is None:
        return 1.0, "scale unknown, taken as it is (--mpp=... says it)"
    if mpp_in is None:
        return 1.0, f"at {mpp:g} um/px; the run does not know its own scale, taken as it is"
    factor = mpp / mpp_in
    if abs(factor - 1) <= _SAME_SCALE:
        return 1.0, f"at {mpp:g} um/px, as the run was trained"
    if not (0.5 <= factor <= 2 or resample):
        raise UserError(
            f"{path} has {mpp:g} um/px and the run was trained for {mpp_in:g}; that is more than a "
            "factor of 2 apart: use a run for this scale, correct --mpp, or add --resample"
        )
    return factor, f"resampled from {mpp:g} to {mpp_in:g} um/px"


def write_index(
    output: pathlib.Path,
    workdir: pathlib.Path,
    done: Mapping[pathlib.Path, Prediction],
    *,
    max_pixels: int = reader.MAX_PIXELS,
) -> None:
    """index.html: each image's numbers, files and a preview of its middle."""
    rows = [(made, preview(path, made, max_pixels=max_pixels)) for path, made in done.items()]
    pages.prediction_index(output / "index.html", workdir=str(workdir), rows=rows)


def preview(
    path: pathlib.Path, made: Prediction, *, max_pixels: int = reader.MAX_PIXELS
) -> np.ndarray:
    """Input | enhanced | nuclei | classes at the middle of the image, uint8 (h, w, 3)."""
    size = min(_PREVIEW, *made.size)
    y, x = (made.size[0] - size) // 2, (made.size[1] - size) // 2
    with reader.open_image(path, max_pixels=max_pixels) as image:
        step = image.height / made.size[0]
        side = max(1, round(size * step))
        before = image.read(
            min(round(y * step), image.height - 1),
            min(round(x * step), image.width - 1),
            min(side, image.height - round(y * step)),
            min(side, image.width - round(x * step)),
        )
    row = [("input", before)]
    shown = before
    if made.sr is not None:
        with reader.open_image(made.sr) as image:
            shown = image.read(y, x, size, size)
        row.append(("enhanced", shown))
    if made.labels is not None and shown.shape[:2] == (size, size):
        labels = reader.read_label_region(made.labels, y, x, size, size)
        row.append(("nuclei", writers.overlay(shown, labels)))
    if made.classes is not None:
        numbers = reader.read_label_region(made.classes, y, x, size, size)
        gray = numbers * (255 // (len(made.class_names) - 1))
        row.append(("classes", gray.astype(np.uint8)))
    return writers.panels([row], cell=size)
