"""A folder of images and their labels as a source: `folder:ROOT`.

docs/reference/data_formats.md has its layout. Opening a source checks all that the headers of its
files show, so that a run with a flaw in its data fails in its first second.
"""

import json
import logging
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from histojax.checks import Rule, number, one_of
from histojax.data.sources.base import CachedSource, Entry, Objects, Record, common_mpp
from histojax.data.sources.splits import (
    check_grouping,
    checked_splits,
    group_of,
    kept_splits,
    names_of_split,
)
from histojax.errors import UserError
from histojax.imaging.conversion import check_pixels, log_once, readable_name
from histojax.imaging.labels import read_labels
from histojax.imaging.reader import MAX_PIXELS, SUFFIXES, image_size, open_image, read_image
from histojax.imaging.resampling import SCALES

_log = logging.getLogger(__name__)

_LABEL_SUFFIXES, _LOSSY = (".png", ".tif", ".tiff", ".bmp"), (".jpg", ".jpeg", ".webp")
SEEN = "seen.json"
_DESCRIPTION = {
    "mpp": Rule(
        "a number of micrometres per pixel is due, such as 0.25",
        number(above=0, below=1000).or_none().holds,
    ),
    "classes": Rule(
        "a list of 2 to 256 different names is due, the background first, such as "
        '["background", "nucleus"]',
        lambda names: (
            isinstance(names, list)
            and all(isinstance(name, str) for name in names)
            and 2 <= len(names) == len(set(names)) <= 256
        ),
    ),
    "objects": Rule(
        'instances are "nuclei" or "glands": write one of them, or leave it out for nuclei',
        one_of(("nuclei", "glands")).holds,
    ),
}


class FolderSource(CachedSource):
    """A folder of images, arguments as `open_source`; scale None takes lr images of any scale.

    `splits` is split -> names, of splits.json, or None without one.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        split: str,
        seed: int = 0,
        group_pattern: str | None = "",
        cache_bytes: int = 2**31,
        require_labels: bool = True,
        crop: int | None = None,
        scale: int | None = 4,
        max_pixels: int = MAX_PIXELS,
        kept: Mapping[str, Sequence[str]] | None = None,
    ):
        super().__init__(cache_bytes)
        root = Path(root).expanduser()
        self.split, self._max_pixels = split, max_pixels
        images = _images(root)
        listed = root / "splits.json"
        content = _json_object(listed)
        self.splits = None if content is None else checked_splits(listed, content, images)
        mpp, self.classes, self.objects = _description(root)
        self.seen = read_seen(root)
        groups = {name: group_of(name, group_pattern) for name in images}
        splits = {"train": list(images)} if self.splits is None else self.splits
        carve = self.splits is None
        if carve and kept is not None:
            carve, splits = False, kept_splits(root, images, kept, split)
        elif carve and split != "all" and not group_pattern:
            check_grouping(f"data folder {root}", groups)
        self.names = names_of_split(
            f"data folder {root}",
            split,
            {name: role for role, names in splits.items() for name in names},
            groups,
            carve=carve,
            published=False,
            seed=seed,
        )
        self.groups = [groups[name] for name in self.names]
        files = {
            "image": images,
            "instances": _files(root / "instances", _LABEL_SUFFIXES),
            "mask": _files(root / "masks", _LABEL_SUFFIXES),
            "lr": _files(root / "lr", SUFFIXES),
        }
        used = images if split == "all" else [n for names in splits.values() for n in names]
        self.left_out = _left_out(root, files, used)
        self._paths = [
            {role: paths[name] for role, paths in files.items() if name in paths}
            for name in self.names
        ]
        stated = []
        for name, paths in zip(self.names, self._paths, strict=True):
            if require_labels and not paths.keys() & {"instances", "mask"}:
                raise _without_labels(root, name, bool(files["instances"] or files["mask"]))
            if files["lr"] and "lr" not in paths:
                raise UserError(
                    f"{name} has no low-resolution image in {root / 'lr'}, where others have one: "
                    "add it, or take lr/ away to have all of them degraded"
                )
            stated.append(_check_files(paths, crop, scale, max_pixels))
        self._stamps = {path: _stamp(path) for paths in self._paths for path in paths.values()}
        self.mpp = mpp if mpp is not None else _stated_mpp(root, stated)

    def _read(self, index: int) -> Record:
        paths, limit = self._paths[index], self._max_pixels
        self._check_unchanged(paths)
        record: Record = {"name": self.names[index]}
        record["hr"] = read_image(paths["image"], max_pixels=limit)
        for role in [role for role in ("instances", "mask") if role in paths]:
            record[role] = read_labels(paths[role], max_pixels=limit)
            if record[role].shape != record["hr"].shape[:2]:
                raise UserError(
                    f"{paths[role]} and {paths['image']} are no longer of one size: put back the "
                    "file that was there when the data were opened"
                )
        if "mask" in record:
            record["mask"] = _mask(paths["mask"], record["mask"], self.classes)
        if "lr" in paths:
            record["lr"] = read_image(paths["lr"], max_pixels=limit)
        return record

    def _check_unchanged(self, paths: dict[str, Path]) -> None:
        """Refuses files that are gone since the folder was opened; warns of changes."""
        for path in paths.values():
            try:
                stamp = _stamp(path)
            except OSError as error:
                raise UserError(
                    f"{path} was there when the data were opened and cannot be read now "
                    f"({error.strerror}): put it back, or leave the image out and start again"
                ) from error
            if stamp != self._stamps[path]:
                log_once(path, "has changed since the data were opened: read as it is now")


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _files(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    """{name: path} of a folder's files, in order of name; empty where there is none."""
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name.startswith(".") or path.suffix.lower() not in suffixes or path.is_dir():
            continue
        name = unicodedata.normalize("NFC", readable_name(path).removesuffix(".ome"))
        if name in files:
            raise UserError(
                f"{files[name].name} and {path.name} in {folder} share the name {name!r}: "
                "keep or rename one of them"
            )
        files[name] = path
    return dict(sorted(files.items()))


def _left_out(
    root: Path, files: Mapping[str, Mapping[str, Path]], used: Collection[str]
) -> list[str]:
    """What lies in the folder and is not used, a clause for each reason."""
    images, found = files["image"], []
    for role, folder in {"image": "images", "instances": "instances", "mask": "masks"}.items():
        suffixes = SUFFIXES if role == "image" else _LABEL_SUFFIXES
        visible = [path for path in (root / folder).glob("*") if not path.name.startswith(".")]
        odd = [p.name for p in visible if p.is_file() and p.suffix.lower() not in suffixes]
        found += _clause(odd, f"of an unknown ending in {folder}/")
        nested = [path.name for path in visible if path.is_dir()]
        found += _clause(nested, f"folders in {folder}/, which are not searched")
        found += _clause(set(files[role]) - set(images), f"in {folder}/ without an image")
    return found + _clause(set(images) - set(used), "in no split")


def _clause(names: Collection[str], what: str) -> list[str]:
    few = ", ".join(sorted(names)[:3]) + (", ..." if len(names) > 3 else "")
    return [f"{len(names)} {what} ({few})"] if names else []


def _images(root: Path) -> dict[str, Path]:
    if not root.exists():
        raise UserError(
            f"data folder {root} does not exist: if it has moved, give its place by --data or "
            "--config.data.source"
        )
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


def _json_object(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file, or None where there is no file."""
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_bytes())  # of UTF-8, 16 or 32, with or without a mark
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is not valid JSON ({error}): mend it") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, and an object {{...}} is due")
    return content


def _description(root: Path) -> tuple[float | None, list[str], Objects]:
    """(mpp, classes, objects) of dataset.json; nuclei where it says nothing else."""
    path = root / "dataset.json"
    content = _json_object(path) or {}
    unknown = sorted(set(content) - set(_DESCRIPTION))
    if unknown:
        _log.warning("%s: %s not used (%s are)", path, ", ".join(unknown), ", ".join(_DESCRIPTION))
    for field, rule in _DESCRIPTION.items():
        if field in content and not rule.holds(content[field]):
            value = json.dumps(content[field])
            raise UserError(f'{path} has "{field}": {value}, and {rule.words}')
    mpp, classes = content.get("mpp"), content.get("classes", ["background", "nucleus"])
    return (None if mpp is None else float(mpp)), classes, content.get("objects", "nuclei")


def read_seen(root: Path) -> list[Entry]:
    """The images that a folder's seen.json names; none where there is no file."""
    path = root / SEEN
    content = _json_object(path)
    images: Any = [] if content is None else content.get("images")
    fields = ("name", "group", "image", "labels")
    try:
        return [{field: str(entry[field]) for field in fields} for entry in images]
    except (TypeError, KeyError):
        raise UserError(
            f"{path} lists no images as histojax writes them: make its folder again"
        ) from None


def _without_labels(root: Path, name: str, others: bool) -> UserError:
    found = [path for folder in ("instances", "masks") for path in (root / folder).glob("*")]
    lossy = [path for path in found if path.suffix.lower() in _LOSSY and path.stem == name]
    if lossy:
        return UserError(
            f"{lossy[0]} is no label image, because a {lossy[0].suffix[1:]} file changes the "
            f"numbers of labels: save it as {', '.join(_LABEL_SUFFIXES)} from its source"
        )
    if others:
        labels = [path for path in found if path.suffix.lower() in _LABEL_SUFFIXES]
        alike = [path.name for path in labels if path.stem.startswith(name)]
        hint = f"; or is it {alike[0]}, to be renamed?" if len(alike) == 1 else ""
        return UserError(
            f"image {name!r} of {root} has no label image instances/{name} or masks/{name} "
            f"({', '.join(_LABEL_SUFFIXES)}): add it, or move the image to a folder of its own and "
            f"name that in data.unlabelled{hint}"
        )
    return UserError(
        f"data folder {root} has no labels: put label images of the same names in instances/ or "
        "masks/, or name the folder in data.unlabelled"
    )


def _check_files(
    paths: dict[str, Path], crop: int | None, scale: int | None, max_pixels: int
) -> float | None:
    """Checks the sizes of an image's files by their headers; returns the image's own mpp."""
    path = paths["image"]
    with open_image(path, max_pixels=max_pixels) as image:
        height, width, mpp, orientation = image.height, image.width, image.mpp, image.orientation
    check_pixels(path, height * width, max_pixels)
    if crop is not None and min(height, width) < crop:
        raise UserError(
            f"{path} of {height} x {width} px is smaller than the crop of {crop} px: lower "
            "data.crop or take the image out"
        )
    labels = [paths[role] for role in ("instances", "mask") if role in paths]
    for label in labels:
        if image_size(label) != (height, width):
            rows, columns = image_size(label)
            turned = f" once turned upright by its orientation {orientation}"
            raise UserError(
                f"{label} is {rows} x {columns} px, and its image {path.name} is {height} x "
                f"{width} px{turned if orientation != 1 else ''}: give the labels the size of the "
                "image"
            )
    if labels and orientation != 1:
        turned = f"is turned upright by its orientation {orientation}, as viewers show it"
        log_once(path, f"{turned}, and its labels are taken to be upright as they are")
    if "lr" in paths:
        low = image_size(paths["lr"])
        scales = SCALES if scale is None else (scale,)
        if low not in [(height // r, width // r) for r in scales]:
            raise UserError(
                f"{paths['lr']} is {low[0]} x {low[1]} px, and 1/{' or 1/'.join(map(str, scales))} "
                f"of its image's {height} x {width} px is due, rounded down: crop or resample one "
                "of them, or set data.scale"
            )
        open_image(paths["lr"], max_pixels=max_pixels).close()
    return mpp


def _stated_mpp(root: Path, stated: Sequence[float | None]) -> float | None:
    """The scale that all files state within 1 %, else None, with a warning where some state one."""
    mpp = common_mpp(stated)
    known = [value for value in stated if value is not None]
    if mpp is None and known:
        _log.warning(
            f"{root}: {len(known)} of {len(stated)} images state their scale, from "
            f"{min(known):.3g} to {max(known):.3g} um per pixel: taken as unknown; dataset.json "
            "can state it"
        )
    return mpp


def _mask(path: Path, values: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """The mask uint8 (H, W): {0, 1}, or class indices below len(classes)."""
    if len(classes) == 2 and values.max() == 255 and ((values == 0) | (values == 255)).all():
        return (values == 255).astype(np.uint8)
    if values.max() >= len(classes):
        odd = values[(values >= len(classes)) & (values != 255)]
        value, count = (odd[0], len(np.unique(odd))) if odd.size else (255, 1)
        if len(classes) == 2 and count > 2 and values.max() <= 255:
            raise UserError(
                f"{path} holds {count} of the values 2 to 254, as after JPEG: threshold it at 128, "
                "or take its source"
            )
        more = f" and {count - 1} other such values" if count > 1 else ""
        raise UserError(
            f"{path} holds the value {value}{more}, and a mask holds 0 and 1, 0 and 255, or "
            f"indices of the {len(classes)} classes {list(classes)}: name the classes in "
            "dataset.json, or put label images in instances/"
        )
    return values.astype(np.uint8)
