"""A trained run on files and folders of images, and the page about them."""

import dataclasses
import functools
import math
import pathlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from histojax.checks import check, number
from histojax.cli import say
from histojax.data import copies
from histojax.errors import UserError
from histojax.files import disk_errors
from histojax.imaging import reader, tiling, writers
from histojax.inference import prediction, record, scale, tiled
from histojax.inference.image import predict_image
from histojax.inference.inputs import check_names, image_files
from histojax.inference.prediction import RECORD, Prediction
from histojax.inference.regions import files as region_files
from histojax.inference.regions.cut import DamagedReader
from histojax.inference.regions.view import LARGEST_FIELD, Options, check_enhances, is_slide
from histojax.inference.scale import Estimate
from histojax.mosaic import files as mosaic_files
from histojax.mosaic.files import Joined
from histojax.report import mosaic_page, pages
from histojax.runs import workdirs
from histojax.stages.base import segments

_MOST_NAMED = 8
_MOST_FIELDS = 200  # that are searched for common tissue
_MOST_SHOWN = 200  # on the page; a picture of each of 1,000 would take 1.5 GB
# Options that change no result.
_WITHOUT_EFFECT = ("workers", "max_output_pixels")
_ABOVE_0 = {
    "mpp": number(above=0, of="a number of micrometres per pixel").or_none(),
    "nucleus_diameter": number(above=0, of="a number of px").or_none(),
    "read_mpp": number(above=0, of="a number of micrometres per pixel").or_none(),
}


def predict_files(
    workdir: pathlib.Path,
    inputs: Sequence[pathlib.Path],
    output: pathlib.Path,
    *,
    outputs: Sequence[str] | None = None,
    mpp: float | None = None,
    nucleus_diameter: float | None = None,
    tile: int = tiled.LARGEST_TILE,
    ensemble: bool = False,
    max_pixels: int = reader.MAX_PIXELS,
    overwrite: bool = False,
    options: Options | None = None,
    part: tuple[int, int] = (0, 1),
    mosaic: bool = False,
) -> list[Prediction]:
    """Predicts every image and writes index.html; see `histojax.predict`.

    An image that cannot be read, does not fit or fails raises UserError once the others are done.
    One that was predicted before, by the same model and flags, is left as it is unless `overwrite`
    is set. Of all images those of `part`, (number from 0, parts in all), are predicted, every so
    many. With `mosaic` the images are overlapping fields, which are joined in
    the folder mosaic of `output`, and the mosaics are predicted.
    """
    options = options or Options()
    given = {"mpp": mpp, "nucleus_diameter": nucleus_diameter, "read_mpp": options.read_mpp}
    check(given, _ABOVE_0, "--")
    files, left = image_files(inputs)
    run = workdirs.load(workdir)
    check_enhances(run, options)
    suffixes = _suffixes(run, outputs)
    if mosaic:
        joined = _joined(files, output, mpp)
        files, left = list(joined.files), left | joined.left
    check_names(files, output, suffixes)
    files = files[part[0] :: part[1]]
    network = tiled.predictor(run, largest=tile, ensemble=ensemble)
    flags = {"outputs": outputs, "mpp": mpp, "nucleus_diameter": nucleus_diameter}
    flags |= {"tile": tile, "ensemble": ensemble}
    made_of = _made_of(run, options, flags)
    records = {path: output / f"{path.stem}{RECORD}" for path in files}
    before = [path for path in files if not overwrite and records[path].is_file()]
    if before:
        say(f"comparing {len(before)} of {len(files)} images with what was made before")
    found = {path: record.standing(records[path], made_of(path)) for path in before}
    stand = {path: one for path, one in found.items() if one is not None}
    done = {path: made for path, (made, _) in stand.items()}
    if nucleus_diameter is not None:
        own = sizes = _given(run, files, nucleus_diameter)
    else:
        own, sizes = _estimated(run, files, stand, mpp=mpp, max_pixels=max_pixels)
    refused: dict[str, str] = {}

    common: dict[str, Any] = {"outputs": outputs, "mpp": mpp, "max_pixels": max_pixels}
    common["options"] = options
    for count, path in enumerate(files, 1):
        say(f"{count}/{len(files)} {path}")
        estimate, made = sizes.get(path), done.get(path)
        try:
            if made is None:
                with disk_errors(records[path]):
                    kept = record.forget(records[path], made_of(path))
                if overwrite:
                    shutil.rmtree(output / f"{path.stem}.parts", ignore_errors=True)
                common |= {"estimate": estimate, "made_of": made_of(path)}
                made = predict_image(run, network, path, output, **common)
                record.write(records[path], made, made_of(path), own.get(path), kept)
        except UserError as failure:
            refused[str(path)] = str(failure)
            continue
        except Exception as failure:
            # Such as a disk that is gone: the other images may still be predicted.
            logging.exception("%s failed", path)
            kind = type(failure).__name__
            refused[str(path)] = f"{path} failed ({kind}: {failure}): report the traceback above"
            continue
        done[path] = made
        nuclei = "" if made.nuclei is None else f"; nuclei found: {made.nuclei:,}"
        say(f"  {'made before: ' * made.before}{made.note}{nuclei}")
    whole = {path: done[path] for path in files if path in done}
    _summarize(output, whole, refused, part)
    _report(workdir, output / _of_part("index.html", part), whole, refused, left, max_pixels)
    _failed(refused, len(files))
    if mosaic:
        joined.check()
    return list(whole.values())


def _made_of(
    run: workdirs.Run, options: Options, flags: Mapping[str, Any]
) -> Callable[[pathlib.Path], dict[str, Any]]:
    """What the results of an image follow from; its file is read when it is asked for."""
    given = dataclasses.asdict(options).items()
    common = {**flags, "model": record.model_digest(run)}
    common["options"] = {name: value for name, value in given if name not in _WITHOUT_EFFECT}
    return functools.cache(lambda path: {**common, "image": record.image_digest(path)})


def _failed(refused: Mapping[str, str], count: int) -> None:
    """Raises UserError that names what could not be predicted, of `count` images."""
    if len(refused) == 1:
        raise UserError(*refused.values())
    if refused:
        names = ", ".join(pathlib.Path(path).name for path in refused)
        raise UserError(f"{len(refused)} of {count} images could not be predicted: {names}")


def _joined(inputs: Sequence[pathlib.Path], output: pathlib.Path, mpp: float | None) -> Joined:
    """Fields as mosaics, with their page; UserError where no two of them match.

    What an earlier call has made of mosaics that are no more is removed.
    """
    place = output / "mosaic"
    joined = mosaic_files.stitch_files(inputs, place, mpp=mpp, again=True, say=say)
    mosaic_page.write(place / "index.html", joined)
    if not joined.files:
        joined.check()
    gone = {path.name.removesuffix(RECORD) for path in output.glob(f"mosaic-*{RECORD}")}
    for name in gone - {path.stem for path in joined.files}:
        for end in (RECORD, *region_files.OUTPUTS.values(), *region_files.FURTHER):
            (output / f"{name}{end}").unlink(missing_ok=True)
        shutil.rmtree(output / f"{name}.parts", ignore_errors=True)
    for text in (*joined.stitched.notes, str(place / "index.html")):
        say(text)
    return joined


def _suffixes(run: workdirs.Run, outputs: Sequence[str] | None) -> list[str]:
    """The ends of the names of all files that may be made of an image."""
    chosen = region_files.chosen(run, outputs)
    return [region_files.OUTPUTS[name] for name in chosen] + [*region_files.FURTHER]


def _summarize(
    output: pathlib.Path,
    done: Mapping[pathlib.Path, Prediction],
    refused: Mapping[str, str],
    part: tuple[int, int],
) -> None:
    """Writes summary.csv, a line for each image; of a part its own."""
    rows = [
        {
            "image": str(path),
            "state": "done",
            "height_px": made.size[0],
            "width_px": made.size[1],
            "mpp_um": made.mpp,
            "area_mm2": made.area_mm2,
            "nuclei": made.nuclei,
            "note": made.note,
        }
        for path, made in done.items()
    ]
    rows += [{"image": path, "state": "failed", "note": reason} for path, reason in refused.items()]
    if rows:
        writers.write_csv(output / _of_part("summary.csv", part), rows)


def _of_part(name: str, part: tuple[int, int]) -> str:
    """The name of a file about all images, or about those of a part."""
    stem, ending = name.split(".")
    return name if part[1] == 1 else f"{stem}-{part[0] + 1}-of-{part[1]}.{ending}"


def _report(
    workdir: pathlib.Path,
    index: pathlib.Path,
    done: Mapping[pathlib.Path, Prediction],
    refused: Mapping[str, str],
    left: Mapping[str, str],
    max_pixels: int,
) -> None:
    """Writes the index, and says in the last lines what was not made, and why."""
    unsummed = overlapping(done) if any(made.nuclei for made in done.values()) else ""
    if done:
        # An earlier call may have allowed larger ones.
        pixels = max(max_pixels, *(math.prod(made.size) for made in done.values()))
        rows = [
            (made, prediction.preview(p, made, max_pixels=pixels) if n < _MOST_SHOWN else None)
            for n, (p, made) in enumerate(done.items())
        ]
        pages.prediction_index(
            index,
            workdir=workdirs.name_of(workdir),
            rows=rows,
            left={**refused, **left},
            unsummed=unsummed,
        )
        say(str(index))
    if unsummed:
        say(unsummed)
    if before := [path.name for path, made in done.items() if made.before]:
        say(_named("left as made before (--overwrite makes them again)", before))
    if left:
        say(_named("not taken", [f"{name} ({reason})" for name, reason in left.items()]))
    for name, reason in refused.items():
        say(f"not predicted: {reason if name in reason else f'{name}: {reason}'}")


def _named(what: str, texts: Sequence[str]) -> str:
    """A line with the first few texts."""
    more = f" and {len(texts) - _MOST_NAMED:,} more" if len(texts) > _MOST_NAMED else ""
    return f"{what}: {', '.join(texts[:_MOST_NAMED])}{more}"


def overlapping(done: Mapping[pathlib.Path, Prediction]) -> str:
    """Why nuclei are not summed over fields, such as where two show the same tissue; or nothing."""
    fields = [path for path, made in done.items() if math.prod(made.size) <= LARGEST_FIELD]
    if len(fields) > _MOST_FIELDS:
        return f"over {_MOST_FIELDS} fields are not searched for overlaps: nuclei are not summed"
    signatures = [_signature(path) for path in fields if len(fields) > 1]
    pairs = [
        f"{fields[i].name} and {fields[j].name} share {share:.0%}"
        for i, j, share in copies.copies_among(signatures)
    ]
    more = f" and {len(pairs) - 3} pairs more" if len(pairs) > 3 else ""
    named = f"fields overlap ({', '.join(pairs[:3])}{more}): nuclei are not summed"
    return named if pairs else ""


def _signature(path: pathlib.Path) -> np.ndarray | None:
    """Of an image; None for a slide that is damaged in places."""
    try:
        return copies.signature_of(reader.read_image(path))
    except UserError:
        return None


def _given(
    run: workdirs.Run, files: Sequence[pathlib.Path], diameter: float
) -> dict[pathlib.Path, Estimate]:
    """The diameter that the user gives, for all images; UserError where the run cannot use it."""
    if not (segments(run.stage) and run.meta.get("nucleus_diameter")):
        raise UserError(
            f"--nucleus_diameter={diameter:g} needs a run that knows the size of its nuclei, and "
            f"{run.workdir} does not; give --mpp instead"
        )
    given = Estimate(diameter, diameter, diameter, 0, True, "--nucleus_diameter")
    return dict.fromkeys(files, given)


def _estimate(
    estimate: Callable[[tiling.RegionReader], Estimate],
    path: pathlib.Path,
    image: reader.RegionReader,
) -> Estimate:
    """The size of an image's nuclei; damaged parts of a slide are taken as white."""
    try:
        return estimate(image)
    except UserError:
        if not is_slide(path, image):
            raise
    # Only then, as its levels are hidden behind it, and level 0 takes longer to read.
    return estimate(DamagedReader(image))


def _estimated(
    run: workdirs.Run,
    files: Sequence[pathlib.Path],
    stand: Mapping[pathlib.Path, tuple[Prediction, Estimate | None]],
    *,
    mpp: float | None,
    max_pixels: int,
) -> tuple[dict[pathlib.Path, Estimate], dict[pathlib.Path, Estimate]]:
    """The nuclei of each image whose scale is unknown, and what it goes by: its camera's.

    Fields of one camera are alike in their kind of file and size in px. A slide beside a photograph
    has a scale of its own, whatever the other's nuclei measure.
    """
    own = {path: size for path, (_, size) in stand.items() if size is not None}
    px = {path: stand[path][0].size for path in own}
    missing = [path for path in files if path not in stand]
    if missing and segments(run.stage) and run.meta.get("nucleus_diameter"):
        estimate = scale.estimator(run)
        for path in missing:
            try:
                with reader.open_image(path, max_pixels=max_pixels) as image:
                    if run.meta["mpp_out"] is None or (mpp is None and image.mpp is None):
                        px[path] = image.height, image.width
                        own[path] = _estimate(estimate, path, image)
            except Exception as failure:
                # An image that cannot be read is refused when its turn comes.
                if path in px:
                    own[path] = scale.unknown(f"their size cannot be estimated ({failure})")
    cameras: dict[tuple[str, tuple[int, int]], dict[pathlib.Path, Estimate]] = {}
    for path, size in own.items():
        cameras.setdefault((path.suffix.lower(), px[path]), {})[path] = size
    together: dict[pathlib.Path, Estimate] = {}
    for fields in cameras.values():
        together |= scale.shared(fields)
    return own, together
