"""Masks to synthesise tissue from, made of labelled ones.

    turned    a window of a labelled image under one of the eight symmetries of the square
    replaced  the places of a labelled image's nuclei, and at each of them any of its nuclei

Both draw counts from the data, and the second sizes and shapes too. They read nothing but the given
source, so that masks of some labels know of no others.
"""

import dataclasses
import itertools
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import scipy.ndimage
from skimage.segmentation import relabel_sequential

from histojax.cli import say
from histojax.data import identity
from histojax.data.augmentation import dihedral
from histojax.data.sources.base import Source
from histojax.errors import UserError
from histojax.imaging import writers

KINDS = ("turned", "replaced")
# Nuclei smaller than this are crumbs of the annotation, px.
_SMALLEST = 30
# How far a nucleus may lie off the place that it takes, px, how often it is tried there, and how
# many others are tried then.
_SPREAD, _TRIES, _OTHERS = 4.0, 16, 16


@dataclasses.dataclass(frozen=True)
class Bank:
    """What labelled images hold, image by image."""

    nuclei: tuple[tuple[np.ndarray, ...], ...]  # bool (h, w) each, none that the border cuts off
    places: tuple[np.ndarray, ...]  # float (N, 2), y and x of all nuclei's middles, px
    sizes: tuple[tuple[int, int], ...]  # H, W


def collect(source: Source) -> Bank:
    """The bank of a source with instances.

    Raises:
        UserError: an image without instances, or no whole nucleus in any.
    """
    nuclei, places, sizes = [], [], []
    for index in range(len(source)):
        instances = instances_of(source[index])
        found = list(nuclei_of(instances))
        middles = [[(side.start + side.stop) / 2 for side in box] for box, _, _ in found]
        whole_ones = (shape for _, shape, whole in found if whole and shape.sum() >= _SMALLEST)
        nuclei.append(tuple(whole_ones))
        places.append(np.array(middles, np.float64).reshape(-1, 2))
        sizes.append(instances.shape)
    if not any(nuclei):
        raise UserError(
            f"the {len(source)} labelled images hold no whole nucleus of {_SMALLEST} px or more: "
            "give others"
        )
    return Bank(tuple(nuclei), tuple(places), tuple(sizes))


def nuclei_of(instances: np.ndarray) -> Iterator[tuple[Any, np.ndarray, bool]]:
    """Each nucleus of a label image: its box, its pixels there, whether no border cuts it off."""
    cut_off = {*instances[[0, -1]].flat, *instances[:, [0, -1]].flat}
    for label, box in enumerate(scipy.ndimage.find_objects(instances), 1):
        if box is not None:
            yield box, instances[box] == label, label not in cut_off


def write_masks(
    source: Source, folder: pathlib.Path, kind: str, count: int, size: int, seed: int
) -> None:
    """Writes `count` of `masks` as folder/mask00000.tif and so on, uint32, and seen.json.

    Raises:
        UserError: as `masks`, or for a folder with files in it.
    """
    writers.check_empty(folder)
    for number, mask in enumerate(itertools.islice(masks(source, kind, size, seed), count)):
        path = folder / f"mask{number:05d}.tif"
        writers.stream_tiff(path, [mask.astype(np.uint32)], height=size, width=size, mpp=source.mpp)
    identity.write_seen(folder, source.seen, identity.entries_of(source))
    say(f"{count} masks in {folder}, of {len(source)} images")


def masks(source: Source, kind: str, size: int, seed: int) -> Iterator[np.ndarray]:
    """Masks of one of `KINDS` without end, int32 (size, size), each with a nucleus in it.

    Raises:
        UserError: images of which no masks can be made.
    """
    rng = np.random.default_rng(seed)
    bank = collect(source)
    large = [n for n, sides in enumerate(bank.sizes) if min(sides) >= size]
    if kind == "turned" and not any(len(bank.places[n]) for n in large):
        raise UserError(
            f"no labelled image of {size} x {size} px or more has a nucleus: ask for smaller masks"
        )
    while True:
        if kind == "turned":
            mask = turned(instances_of(source[int(rng.choice(large))]), size, rng)
        else:
            mask = replaced(bank, size, size, rng)
        # Background alone is no condition for tissue.
        if mask.any():
            yield mask


def turned(instances: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """A window of a label image, turned or mirrored; int32 (size, size), labels from 1."""
    y, x = (int(rng.integers(side - size + 1)) for side in instances.shape)
    window = dihedral(instances[y : y + size, x : x + size], int(rng.integers(8)))
    return relabel_sequential(window.copy())[0].astype(np.int32)


def replaced(bank: Bank, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Nuclei of the bank at the places of others, without overlap: int32 (height, width), from 1.

    The places are those of a labelled image, turned or mirrored, or of several side by side where
    the mask is larger. The nuclei are of the image that the places are of, for large ones lie far
    apart and small ones near; the largest are placed first, as they find room last. Where none fits
    after some tries, the place stays empty.
    """
    mask = np.zeros((height, width), np.int32)
    places, images = _layout(bank, height, width, rng)
    # Of an image that holds none as a whole, those of all.
    every = tuple(itertools.chain(*bank.nuclei))
    offered = [bank.nuclei[image] or every for image in images]
    first = [nuclei[int(rng.integers(len(nuclei)))] for nuclei in offered]
    label = 1
    for n in np.argsort([-np.count_nonzero(shape) for shape in first], kind="stable"):
        others = rng.integers(len(offered[n]), size=_OTHERS)
        for shape in [first[n]] * _TRIES + [offered[n][int(other)] for other in others]:
            if _placed(mask, dihedral(shape, int(rng.integers(8))), places[n], label, rng):
                label += 1
                break
    return mask


def _placed(
    mask: np.ndarray, shape: np.ndarray, place: np.ndarray, label: int, rng: np.random.Generator
) -> bool:
    """Draws a nucleus near a place, unless it would lie on others or outside of the mask."""
    middle = place + rng.normal(0.0, _SPREAD, 2)
    top, left = (np.round(middle - np.array(shape.shape) / 2)).astype(int)
    y, x = max(top, 0), max(left, 0)
    window = mask[y : max(top + shape.shape[0], 0), x : max(left + shape.shape[1], 0)]
    part = shape[y - top :, x - left :][: window.shape[0], : window.shape[1]]
    if not part.any() or window[part].any():
        return False
    window[part] = label
    return True


def _layout(
    bank: Bank, height: int, width: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Places (N, 2) inside of (height, width), of images side by side, and whose each is (N,)."""
    found, owners, y = [], [], 0.0
    while y < height:
        x, bottom, row = 0.0, np.inf, []
        while x < width:
            index = int(rng.integers(len(bank.places)))
            places, (h, w) = bank.places[index], bank.sizes[index]
            if rng.integers(2):
                places, h, w = places[:, ::-1], w, h
            flip = rng.integers(2, size=2)
            places = np.where(flip, np.array([h, w]) - places, places)
            # A window smaller than the image lies anywhere in it.
            slack = np.maximum(np.array([h, w]) - [height, width], 0)
            shift = rng.uniform(size=2) * slack * (x == y == 0)
            row.append((index, places + np.array([y, x]) - shift))
            x += w - shift[1]
            bottom = min(bottom, y + h - shift[0])
        # The shortest image of a row ends it, so that no place is taken twice.
        for index, places in row:
            found.append(places[places[:, 0] < bottom])
            owners.append(np.full(len(found[-1]), index))
        y = bottom
    places, images = np.concatenate(found), np.concatenate(owners)
    inside = np.all((places >= 0) & (places < [height, width]), axis=1)
    return places[inside], images[inside]


def instances_of(record: Mapping[str, Any], spec: str = "the data") -> np.ndarray:
    """The label image of a record of `spec`, integer (H, W); a UserError where it has none."""
    if "instances" not in record:
        raise UserError(
            f"image {record['name']!r} of {spec} has no instances: give label images (instances/), "
            "not masks"
        )
    return record["instances"]
