"""Mask files in, pairs of image and mask out, as a folder that `folder:OUTPUT` reads."""

import pathlib
import zlib
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np

from histojax.cli import say
from histojax.data import identity
from histojax.data.sources import folder
from histojax.data.sources.base import Entry
from histojax.errors import UserError
from histojax.imaging import reader, writers
from histojax.imaging.labels import read_label_mpp, read_labels
from histojax.synthesis.builtin import Seed

_MASKS = (".png", ".tif", ".tiff")


class TissueMaker(Protocol):
    """A `tissue.Synthesizer`, or `builtin.BuiltinTissue`."""

    @property
    def mpp(self) -> float | None: ...

    @property
    def classes(self) -> Sequence[str] | None: ...

    def check(self, mask: np.ndarray, *, name: str) -> None: ...

    def strips(self, mask: np.ndarray, seed: Seed) -> Iterable[np.ndarray]: ...


def write_pairs(
    maker: TissueMaker,
    files: Sequence[pathlib.Path],
    output: pathlib.Path,
    *,
    seed: int = 0,
    count: int = 1,
    max_pixels: int = reader.MAX_PIXELS,
    seen: Sequence[Entry] = (),
) -> list[pathlib.Path]:
    """Writes images/, instances/ (masks/ where there are classes), dataset.json and seen.json.

    `count` images are made for each mask, some rows at a time. The seed, the mask's name and the
    number of the copy decide an image. `seen` are the images that the maker has learnt from.

    Returns:
        The images' paths.

    Raises:
        UserError: for a folder with files in it, or, before anything is written, a mask that the
            maker refuses.
    """
    writers.check_empty(output)
    say(f"checking {len(files)} masks")
    for path in files:
        maker.check(read_labels(path, max_pixels=max_pixels), name=str(path))
    kind = "instances" if maker.classes is None else "masks"
    written, folders = [], ("images", kind)
    for number, path in enumerate(files, 1):
        mask = read_labels(path, max_pixels=max_pixels)
        height, width = mask.shape
        labels = mask.astype(np.uint32) if maker.classes is None else mask
        for copy in range(count):
            name = path.stem if count == 1 else f"{path.stem}-{copy}"
            say(f"{number}/{len(files)} {name}")
            strips = maker.strips(mask, (seed, zlib.crc32(path.stem.encode()), copy))
            image, other = (output / folder / f"{name}.tif" for folder in folders)
            for place, rows in ((image, strips), (other, [labels])):
                writers.stream_tiff(place, rows, height=height, width=width, mpp=maker.mpp)
            written.append(image)
    stated = {"classes": maker.classes, "mpp": maker.mpp}
    known = {name: value for name, value in stated.items() if value is not None}
    writers.write_json(output / "dataset.json", known)
    # A mask lies in masks/ of a data folder, or in the folder that `histojax.masks` wrote.
    places = {place for path in files for place in path.parents[:2]}
    identity.write_seen(output, seen, *map(folder.read_seen, sorted(places)))
    return written


def mask_files(masks: Sequence[pathlib.Path]) -> list[pathlib.Path]:
    """The label images among files and folders, in order of name.

    Raises:
        UserError: for a path that is not there, a folder without label images, or two of one name.
    """
    files = reader.listed(masks, "--masks", ("a label image", "label images"), _MASKS)
    stems = [path.stem for path in files]
    for stem in stems:
        if stems.count(stem) > 1:
            raise UserError(f"two masks are called {stem}, as their images would be: rename one")
    return files


def common_mpp(files: Sequence[pathlib.Path]) -> float | None:
    """The micrometres per pixel that the files of all masks state, None where they differ."""
    scales = {read_label_mpp(path) for path in files}
    return scales.pop() if len(scales) == 1 else None
