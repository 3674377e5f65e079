"""Measures whether a model makes the same of a place that two overlapping fields show.

    python -m launch.same_place --model=nuclei-40x --input=fields --output=out --mpp=0.25

Fields are joined as histojax.stitch joins them, and predicted one by one. For each pair that is
linked, out/same_place.csv holds, over the pixels that both show:

    overlap        their share of the first field
    psnr_enhanced  of the second field's enhanced image on the first's, dB
    psnr_bicubic   the same of the fields enlarged bicubically: how far the camera's images differ
    nuclei         found whole in the overlap: the mean of the two fields
    f1, aji        of the second field's nuclei against the first's

A margin of each field is left out, because a network sees less around it.
"""

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np
from absl import flags
from scipy import ndimage

from histojax import cli
from histojax.errors import UserError
from histojax.imaging import reader, resampling, writers
from histojax.inference.arrays import Arrays, predict_array
from histojax.metrics import image_quality, instances
from histojax.mosaic import stitching
from histojax.mosaic.placement import Link
from histojax.runs import workdirs

_MODEL = flags.DEFINE_string("model", None, "A model's name, a model file, or a workdir.")
_INPUT = flags.DEFINE_multi_string("input", None, "A field, or a folder of fields.")
_OUTPUT = flags.DEFINE_string("output", None, "Empty folder of the table. Example: --output=out")
_MPP = flags.DEFINE_float("mpp", None, "Micrometres per pixel, where the fields do not state it.")
_MARGIN = flags.DEFINE_integer("margin", 16, "Px of each field's border that do not count.", 0)


def points_in_second(link: Link, first: tuple[int, int], second: tuple[int, int]) -> np.ndarray:
    """Where each pixel of the first field (H, W) lies in the second, y + ix, px."""
    middles = [complex(height - 1, width - 1) / 2 for height, width in (first, second)]
    rows, columns = np.mgrid[: first[0], : first[1]]
    moved = rows + 1j * columns - middles[0] - link.shift
    return moved * np.exp(-1j * link.angle) + middles[1]


def inner(points: np.ndarray, second: tuple[int, int], margin: int) -> np.ndarray:
    """Which pixels of the first field lie inside both fields, `margin` px from their borders."""
    height, width = second
    inside = (points.real >= margin) & (points.real <= height - 1 - margin)
    inside &= (points.imag >= margin) & (points.imag <= width - 1 - margin)
    frame = np.zeros(inside.shape, bool)
    frame[margin : inside.shape[0] - margin, margin : inside.shape[1] - margin] = True
    return inside & frame


def read_at(image: np.ndarray, points: np.ndarray, *, labels: bool = False) -> np.ndarray:
    """An image (H, W, C), bicubically, or labels (H, W), by nearest neighbour, at points."""
    where = [points.real, points.imag]
    if labels:
        return ndimage.map_coordinates(image, where, order=0)
    planes = (
        ndimage.map_coordinates(plane.astype(np.float32), where, order=3, mode="nearest")
        for plane in np.moveaxis(image, -1, 0)
    )
    return resampling.round_to_uint8(np.stack(list(planes), -1))


def whole(labels: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """The labels of which no pixel lies outside."""
    return np.where(np.isin(labels, np.unique(labels[~inside])), 0, labels)


def compared(
    link: Link, images: Sequence[np.ndarray], made: Sequence[Arrays], margin: int
) -> dict[str, object] | None:
    """A line of the table; None where the common part is smaller than four margins."""
    (one, two), sizes = (made[link.first], made[link.second]), [image.shape[:2] for image in images]
    points = points_in_second(link, *sizes)
    inside = inner(points, sizes[1], margin)
    if inside.sum() < (4 * margin) ** 2:
        return None
    line: dict[str, object] = {"overlap": round(float(inside.mean()), 3)}
    if one.enhanced is not None and two.enhanced is not None:
        scale = one.enhanced.shape[0] // sizes[0][0]
        fine_sizes = [(h * scale, w * scale) for h, w in sizes]
        fine_link = dataclasses.replace(link, shift=link.shift * scale)
        fine = points_in_second(fine_link, *fine_sizes)
        at = inner(fine, fine_sizes[1], margin * scale)
        large = [resampling.round_to_uint8(resampling.upsample(image, scale)) for image in images]
        for name, first, second in (
            ("enhanced", one.enhanced, two.enhanced),
            ("bicubic", large[0], large[1]),
        ):
            found = image_quality.psnr(read_at(second, fine)[at], first[at])
            line[f"psnr_{name}"] = round(found, 2)
    if one.labels is not None and two.labels is not None:
        both = [one.labels, read_at(two.labels, points, labels=True)]
        # A nucleus that the border cuts in one of them counts in neither.
        for labels in tuple(both):
            inside &= (labels == 0) | (whole(labels, inside) > 0)
        both = [whole(labels, inside) for labels in both]
        table = instances.overlap_table(both[1], both[0])
        line["nuclei"] = table.instances / 2
        line["f1"] = round(instances.f1(table), 4)
        line["aji"] = round(instances.aji(table), 4)
    return line


def main(argv: Sequence[str]) -> None:
    """Writes the table and says its means."""
    del argv
    output = pathlib.Path(str(_OUTPUT.value))
    writers.check_empty(output)
    cli.set_up_jax()
    paths = reader.listed(
        [pathlib.Path(path) for path in _INPUT.value],
        "--input",
        ("a field", "fields"),
        reader.SUFFIXES,
    )
    images = [reader.read_image(path) for path in paths]
    joined = stitching.stitch(images, names=[path.name for path in paths], say=cli.say)
    links = [link for link in joined.links if not link.reason]
    if not links:
        raise UserError(f"no two fields of --input={paths[0].parent} match: give overlapping ones")
    run = workdirs.load(workdirs.place_of(str(_MODEL.value)))
    made = []
    for path, image in zip(paths, images, strict=True):
        cli.say(f"predicting {path.name}")
        made.append(predict_array(image, run, mpp=_MPP.value, cell_expansion=0.0))
    rows = []
    for link in links:
        pair = [images[link.first], images[link.second]]
        if (line := compared(link, pair, made, _MARGIN.value)) is not None:
            names = {"first": paths[link.first].name, "second": paths[link.second].name}
            rows.append(names | line)
    if not rows:
        raise UserError(f"no overlap is wider than four margins of {_MARGIN.value} px: lower it")
    writers.write_csv(output / "same_place.csv", rows)
    for name in list(rows[0])[2:]:
        cli.say(
            f"{name}: {np.mean([row[name] for row in rows]):.3f} in the mean of {len(rows)} pairs"
        )


if __name__ == "__main__":
    flags.mark_flags_as_required(["model", "input", "output"])
    cli.run(main)
