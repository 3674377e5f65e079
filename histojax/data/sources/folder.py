"""A folder of images and their labels as a source: `folder:ROOT`.

    ROOT/images/NAME.(png|jpg|jpeg|bmp|tif|tiff|svs)  the high-resolution images
    ROOT/instances/NAME.(png|tif|tiff|bmp)            label images, 0 = background, or
    ROOT/masks/NAME.(png|tif|tiff|bmp)                {0, 1} or {0, 255}; otherwise class indices
    ROOT/lr/NAME.*                                    registered low-resolution images, optional,
                                                      1/r of the size, rounded down
    ROOT/dataset.json                                 {"mpp": 0.25, "classes": ["background", ...],
                                                       "objects": "nuclei" or "glands"}
    ROOT/splits.json                                  {"train": [NAME, ...], "val": [...], ...}

A label image is upright, as viewers show its image: turned by the EXIF or TIFF orientation of the
image file. Names are compared in Unicode's composed form (NFC), so that an accent typed on one
system matches the same accent of another.

Opening a source checks everything that the headers of its files show, so that a run with a flaw in
its data fails in its first second.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import logging
import pathlib
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np

from histojax.data.sources.base import Objects, Record, common_mpp
from histojax.data.sources.record_cache import RecordCache
from histojax.data.sources.splits import checked_splits, group_of, names_of_split
from histojax.errors import UserError
from histojax.imaging.conversion import check_pixels, log_once, readable_name
from histojax.imaging.labels import read_labels
from histojax.imaging.reader import (
    MAX_PIXELS,
    SUFFIXES,
    image_size,
    open_image,
    read_image,
)
from histojax.imaging.resampling import SCALES

_log = logging.getLogger(__name__)

_LABEL_SUFFIXES = (".png", ".tif", ".tiff", ".bmp")


@dataclasses.dataclass(frozen=True)
class _Item:
    name: str
    group: str
    image: pathlib.Path
    instances: pathlib.Path | None
    mask: pathlib.Path | None
    lr: pathlib.Path | None

    @property
    def files(self) -> dict[str, pathlib.Path]:
        """Role -> path of the files that there are."""
        roles = ("image", "instances", "mask", "lr")
        return {role: path for role in roles if (path := getattr(self, role)) is not None}


class FolderSource:
    """A folder of images; see the module's docstring for its layout.

    Where there are instances and no mask, "mask" is instances > 0. Label values stay those of the
    file. Decoded images are kept, the most recently used ones, up to cache_bytes.

    Attributes:
        splits: split -> names, of splits.json; None without one.
    """

    def __init__(
        self,
        root: str | pathlib.Path,
        *,
        split: str,
        seed: int = 0,
        group_pattern: str | None = "",
        val_fraction: float = 0.2,
        cache_bytes: int = 2**31,
        require_labels: bool = True,
        crop: int | None = None,
        scale: int | None = 4,
        max_pixels: int = MAX_PIXELS,
    ):
        """Lists and checks the folder; the arguments are those of `open_source`.

        `scale` None takes lr images of any of SCALES.
        """
        self.root = pathlib.Path(root).expanduser()
        self.split = split
        self._cache = RecordCache(cache_bytes)
        self._max_pixels = max_pixels
        images = _images(self.root)
        content = _json_object(self.root / "splits.json")
        self.splits = None
        if content is not None:
            self.splits = checked_splits(self.root / "splits.json", content, images)
        mpp, self.classes, self.objects = _description(self.root)
        groups = {name: group_of(name, group_pattern) for name in images}
        chosen = names_of_split(self.root, split, self.splits, groups, seed, val_fraction)

        instances = _files(self.root / "instances", _LABEL_SUFFIXES)
        masks = _files(self.root / "masks", _LABEL_SUFFIXES)
        lr = _files(self.root / "lr", SUFFIXES)
        self._items = [
            _Item(
                name, groups[name], images[name], instances.get(name), masks.get(name), lr.get(name)
            )
            for name in chosen
        ]
        stated = []
        for item in self._items:
            if require_labels and item.instances is None and item.mask is None:
                raise _without_labels(self.root, item.name, bool(instances or masks))
            if lr and item.lr is None:
                raise UserError(
                    f"{item.name} has no low-resolution image in {self.root / 'lr'}, where others "
                    "have one: add it, or take lr/ away to have all of them degraded"
                )
            stated.append(_check_item(item, crop, scale, max_pixels))
        self._stamps = {path: _stamp(path) for item in self._items for path in item.files.values()}
        self.names = [item.name for item in self._items]
        self.groups = [item.group for item in self._items]
        self.mpp = mpp if mpp is not None else _stated_mpp(self.root, stated)

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Record:
        index = range(len(self._items))[index]
        return self._cache.get_or_make(index, lambda: self._read(self._items[index]))

    def _read(self, item: _Item) -> Record:
        self._check_unchanged(item)
        limit = self._max_pixels
        record: Record = {"name": item.name, "hr": read_image(item.image, max_pixels=limit)}
        if item.instances is not None:
            record["instances"] = read_labels(item.instances, max_pixels=limit)
        if item.mask is not None:
            labels = read_labels(item.mask, max_pixels=limit)
            record["mask"] = _mask(item.mask, labels, self.classes)
        elif item.instances is not None:
            record["mask"] = (record["instances"] > 0).astype(np.uint8)
        if item.lr is not None:
            record["lr"] = read_image(item.lr, max_pixels=limit)
        for field in ("instances", "mask"):
            if field in record and record[field].shape != record["hr"].shape[:2]:
                raise UserError(
                    f"{item.files.get(field, item.instances)} and {item.image} are no longer of "
                    "one size: put back the file that was there when the data were opened"
                )
        return record

    def _check_unchanged(self, item: _Item) -> None:
        """Refuses an image whose files are gone since the folder was opened; warns of changes."""
        for path in item.files.values():
            try:
                stamp = _stamp(path)
            except OSError as error:
                raise UserError(
                    f"{path} was there when the data were opened and cannot be read now "
                    f"({error.strerror}): put it back, or leave the image out and start again"
                ) from error
            if stamp != self._stamps[path]:
                log_once(path, "has changed since the data were opened: read as it is now")

    def __repr__(self) -> str:
        return f"FolderSource({str(self.root)!r}, split={self.split!r}, images={len(self)})"

    @functools.cached_property
    def _digest(self) -> str:
        digest = hashlib.sha256()
        for item in self._items:
            self._check_unchanged(item)
            for role, path in item.files.items():
                digest.update(f"{item.name}\0{role}\0{path.stat().st_size}\0".encode())
                with path.open("rb") as stream:
                    digest.update(hashlib.file_digest(stream, "sha256").digest())
        return digest.hexdigest()[:16]

    def fingerprint(self) -> str:
        """Returns 16 hex digits of SHA-256 over names, sizes and bytes of this split's files."""
        return self._digest


def _stamp(path: pathlib.Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _name(path: pathlib.Path) -> str:
    return unicodedata.normalize("NFC", readable_name(path).removesuffix(".ome"))


def _files(folder: pathlib.Path, suffixes: Sequence[str]) -> dict[str, pathlib.Path]:
    """Returns {name: path} of a folder's files, in order of name; empty where there is none."""
    if not folder.is_dir():
        return {}
    files: dict[str, pathlib.Path] = {}
    for path in sorted(folder.iterdir(), key=lambda path: path.name):
        if path.name.startswith(".") or path.suffix.lower() not in suffixes or path.is_dir():
            continue
        name = _name(path)
        if name in files:
            raise UserError(
                f"{files[name].name} and {path.name} in {folder} share the name {name!r}: "
                "keep or rename one of them"
            )
        files[name] = path
    return dict(sorted(files.items()))


def _images(root: pathlib.Path) -> dict[str, pathlib.Path]:
    if not root.exists():
        raise UserError(f"data folder {root} does not exist: give the path of a folder")
    if not root.is_dir():
        raise UserError(f"data folder {root} is a file: give the folder that holds images/")
    folder = root / "images"
    if not folder.is_dir():
        raise UserError(
            f"data folder {root} has no images/ folder: put the images in {folder} and their "
            "labels in instances/ or masks/ next to it"
        )
    images = _files(folder, SUFFIXES)
    if not images:
        raise UserError(
            f"{folder} holds no images: put files there that end in {', '.join(SUFFIXES)}"
        )
    return images


def _json_object(path: pathlib.Path) -> dict[str, Any] | None:
    """Returns the object in a JSON file, or None where there is no file."""
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is not valid JSON ({error}): mend it") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, and an object {{...}} is due")
    return content


def _description(root: pathlib.Path) -> tuple[float | None, list[str], Objects]:
    """Returns (mpp, classes, objects) of dataset.json; nuclei where it says nothing else."""
    path = root / "dataset.json"
    content = _json_object(path) or {}
    unknown = sorted(set(content) - {"mpp", "classes", "objects"})
    if unknown:
        known = "it may hold mpp, classes and objects"
        _log.warning("%s: %s not used (%s)", path, ", ".join(unknown), known)
    mpp = content.get("mpp")
    number = isinstance(mpp, int | float) and not isinstance(mpp, bool)
    if mpp is not None and not (number and 0 < mpp < 1000):
        raise UserError(
            f'{path} has "mpp": {json.dumps(mpp)}, and a number of micrometres per pixel is due, '
            "such as 0.25"
        )
    classes = content.get("classes", ["background", "nucleus"])
    listed = isinstance(classes, list) and all(isinstance(name, str) for name in classes)
    if not listed or len(set(classes)) != len(classes) or not 2 <= len(classes) <= 256:
        raise UserError(
            f'{path} has "classes": {json.dumps(classes)}, and a list of 2 to 256 different '
            'names is due, the background first, such as ["background", "nucleus"]'
        )
    objects = content.get("objects", "nuclei")
    if objects not in ("nuclei", "glands"):
        raise UserError(
            f'{path} says "objects": {json.dumps(objects)}, and instances are "nuclei" or '
            '"glands": write one of them, or leave it out for nuclei'
        )
    return (None if mpp is None else float(mpp)), classes, objects


def _without_labels(root: pathlib.Path, name: str, others: bool) -> UserError:
    if not others:
        return UserError(
            f"data folder {root} has no labels: put label images of the same names in instances/ "
            "or masks/, or name the folder in data.unlabelled"
        )
    return UserError(
        f"image {name!r} of {root} has no label image instances/{name} or masks/{name} "
        f"({', '.join(_LABEL_SUFFIXES)}): add it, or move the image to a folder of its own and "
        "name that in data.unlabelled"
    )


def _check_item(item: _Item, crop: int | None, scale: int | None, max_pixels: int) -> float | None:
    """Checks an item's sizes by the headers of its files; returns the image's own mpp."""
    with open_image(item.image, max_pixels=max_pixels) as image:
        height, width, mpp, orientation = image.height, image.width, image.mpp, image.orientation
    check_pixels(item.image, height * width, max_pixels)
    if crop is not None and min(height, width) < crop:
        raise UserError(
            f"{item.image} of {height} x {width} px is smaller than the crop of {crop} px: lower "
            "data.crop or take the image out"
        )
    labels = [path for path in (item.instances, item.mask) if path is not None]
    for path in labels:
        if image_size(path) != (height, width):
            of = "{} x {} px".format(*image_size(path))
            turned = f" once turned upright by its orientation {orientation}"
            raise UserError(
                f"{path} is {of}, and its image {item.image.name} is {height} x {width} px"
                f"{turned if orientation != 1 else ''}: give the labels the size of the image"
            )
    if labels and orientation != 1:
        log_once(
            item.image,
            f"is turned upright by its orientation {orientation}, as viewers show it, and its "
            "labels are taken to be upright as they are",
        )
    if item.lr is not None:
        low = image_size(item.lr)
        scales = SCALES if scale is None else (scale,)
        if low not in [(height // r, width // r) for r in scales]:
            raise UserError(
                f"{item.lr} is {low[0]} x {low[1]} px, and 1/{' or 1/'.join(map(str, scales))} of "
                f"its image's {height} x {width} px is due, rounded down: crop or resample one of "
                "them, or set data.scale"
            )
        with open_image(item.lr, max_pixels=max_pixels):
            pass
    return mpp


def _stated_mpp(root: pathlib.Path, stated: Sequence[float | None]) -> float | None:
    """The scale that all files state within 1 %, else None, with a warning where some state one."""
    mpp = common_mpp(stated)
    known = [value for value in stated if value is not None]
    if mpp is None and known:
        _log.warning(
            "%s: %d of %d images state their scale, from %.3g to %.3g um per pixel: taken as "
            "unknown; dataset.json can state it",
            root,
            len(known),
            len(stated),
            min(known),
            max(known),
        )
    return mpp


def _mask(path: pathlib.Path, values: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Returns the mask uint8 (H, W): {0, 1}, or class indices below len(classes)."""
    if len(classes) == 2 and values.max() == 255 and ((values == 0) | (values == 255)).all():
        return (values == 255).astype(np.uint8)
    if values.max() >= len(classes):
        raise UserError(
            f"{path} holds the value {values.max()}, and a mask holds 0 and 1, 0 and 255, or "
            f"indices of the {len(classes)} classes {list(classes)}: name the classes in "
            "dataset.json, or put label images in instances/"
        )
    return values.astype(np.uint8)
