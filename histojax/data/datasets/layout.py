"""What a published data set is, and how its files are found in a folder or an archive.

Nothing is decoded before an example is loaded: missing files are named before the work begins.
"""

import contextlib
import dataclasses
import functools
import logging
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from histojax.data.sources.base import Objects
from histojax.errors import UserError
from histojax.imaging.labels import read_labels
from histojax.imaging.reader import SUFFIXES, read_image
from histojax.nuclei.components import label_mask

_log = logging.getLogger(__name__)

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
NUCLEI = ("background", "nucleus")

Record = dict[str, np.ndarray]
Files = Mapping[str, Path]


@dataclasses.dataclass(frozen=True)
class Example:
    """One image of a set, not yet decoded; `part` is one of the set's own.

    `group` is the patient, or the smallest unit that is known to hold one.
    `load` gives "hr" uint8 (H, W, 3) with "instances" int32 (H, W) and, where the set has them,
    "mask" uint8 (H, W) of class indices and "lr" uint8 (h, w, 3).
    """

    name: str
    group: str
    part: str
    load: Callable[[], Record]


@dataclasses.dataclass(frozen=True)
class Contents:
    """What was found in a source; `classes` are the names of the mask's values, from 0.

    `splits` is variant -> split -> parts; "" is the variant that a set's bare name opens. A variant
    without "val" has its train images split by group when it is opened.
    """

    examples: Sequence[Example]
    mpp: float | None = None
    classes: Sequence[str] = NUCLEI
    objects: Objects = "nuclei"
    splits: Mapping[str, Mapping[str, Sequence[str]]] = dataclasses.field(
        default_factory=lambda: {"": {"train": ["train"], "test": ["test"]}}
    )


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A published set; `read` takes its folder, in this `layout`, and the most pixels of a file."""

    name: str
    title: str
    licence: str
    citation: str
    homepage: str
    layout: str
    read: Callable[[Path, int], Contents]


def files_of(root: Path) -> list[Path]:
    """Every file below a folder in order of path, without what systems leave behind."""
    root = root.resolve()
    found = []
    for path in sorted(root.rglob("*")):
        inside = path.relative_to(root).parts
        hidden = "__MACOSX" in inside or any(part.startswith(".") for part in inside)
        if path.is_file() and not hidden:
            found.append(path)
    return found


def by_key(files: Iterable[Path], key: Callable[[Path], str]) -> dict[str, Path]:
    """{key: file} of the files whose key is not empty; UserError where two have one key."""
    keyed: dict[str, Path] = {}
    for file in files:
        name = key(file)
        if name in keyed:
            raise UserError(f"{keyed[name]} and {file} are both {name!r}: keep one of them")
        if name:
            keyed[name] = file
    return keyed


def by_stem(files: Iterable[Path], suffixes: Sequence[str], ending: str = "") -> dict[str, Path]:
    """`by_key` of the files NAME + ending + suffix, by NAME."""
    return by_key(
        (f for f in files if f.suffix.lower() in suffixes and f.stem.endswith(ending)),
        lambda file: file.stem.removesuffix(ending),
    )


def pairs(
    root: Path, layout: str, images: Files, annotations: Files, *, expected: str
) -> list[tuple[str, Path, Path]]:
    """(key, image, annotation) in order of key; annotations without an image are left out.

    UserError names the `layout` of a source without images or annotations, or the annotation that
    an image lacks: `expected`, with {} for its key.
    """
    if not images or not annotations:
        raise unrecognised(root, layout)
    for key, image in images.items():
        if key not in annotations:
            raise UserError(
                f"image {image} has no annotation {expected.format(key)}: add it, or take the "
                "image out"
            )
    if spare := len(set(annotations) - set(images)):
        _log.warning("%d annotations have no image and are left out", spare)
    return [(key, images[key], annotations[key]) for key in sorted(images)]


def unrecognised(root: Path, layout: str) -> UserError:
    """The refusal of a source in which no image of the layout was found."""
    return UserError(
        f"{root} does not hold the expected layout: {layout}; give the folder or archive as it "
        "was downloaded"
    )


def label_images(
    found: Iterable[tuple[str, str, Path, Path]], max_pixels: int, *, mpp: float | None = None
) -> Contents:
    """The contents of a set without official splits: (name, group, image, label image) of each."""
    return Contents(
        [
            Example(name, group, "train", functools.partial(read_nuclei, image, labels, max_pixels))
            for name, group, image, labels in found
        ],
        mpp=mpp,
        splits={"": {"train": ["train"]}},
    )


def read_pair(image: Path, labels: Path, max_pixels: int) -> Record:
    """Reads an image and its label image; UserError for a bad file, or sizes that differ."""
    hr = read_image(image, max_pixels=max_pixels)
    instances = read_labels(labels, max_pixels=max_pixels)
    if hr.shape[:2] != instances.shape:
        height, width = instances.shape
        raise UserError(
            f"{labels} is {height} x {width} px, and its image {image.name} is {hr.shape[0]} x "
            f"{hr.shape[1]} px: take both from one release of the data set"
        )
    return {"hr": hr, "instances": instances}


def read_nuclei(image: Path, labels: Path, max_pixels: int) -> Record:
    """`read_pair`, where a binary label image becomes its components (4-connected)."""
    record = read_pair(image, labels, max_pixels)
    if len(np.unique(record["instances"][record["instances"] > 0])) == 1:
        record["instances"] = label_mask(record["instances"], connectivity=4)
    return record


def check_source(source: Path) -> None:
    """Refuses what is neither a folder nor an archive."""
    if not source.exists():
        raise UserError(f"--source={source} does not exist: give a folder or an archive that does")
    if not source.is_dir() and not _is_archive(source):
        raise UserError(
            f"--source={source} is neither a folder nor an archive: give one of those "
            f"({', '.join(ARCHIVES)})"
        )


@contextlib.contextmanager
def opened(source: Path, scratch: Path) -> Iterator[Path]:
    """Gives the folder of a source; archives are unpacked to `scratch`, removed at the end.

    The source is a folder, an archive, or a folder of nothing but archives and tables.
    """
    archives, tables = [source], []
    if source.is_dir():
        beside = [path for path in sorted(source.iterdir()) if path.is_file()]
        archives = [path for path in beside if _is_archive(path)]
        tables = [path for path in beside if not _is_archive(path)]
        data = (*SUFFIXES, ".npy")
        if not archives or any(file.suffix.lower() in data for file in files_of(source)):
            yield source
            return
    unpacked = scratch / "unpacked"
    try:
        unpacked.mkdir()
        for path in tables:
            shutil.copy(path, unpacked)
        for archive in archives:
            _unpack(archive, unpacked / archive.name.partition(".")[0])
        yield unpacked
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)


def _is_archive(path: Path) -> bool:
    return path.is_file() and path.name.lower().endswith(ARCHIVES)


def _unpack(archive: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if archive.name.lower().endswith(".zip"):
            with zipfile.ZipFile(archive) as opened_zip:
                _check_room(archive, folder, sum(m.file_size for m in opened_zip.infolist()))
                opened_zip.extractall(folder)
        else:
            with tarfile.open(archive) as opened_tar:
                _check_room(archive, folder, sum(m.size for m in opened_tar))
                if not hasattr(tarfile, "data_filter"):
                    raise UserError(
                        f"{archive} is unpacked safely by Python 3.11.4 or later alone: unpack it "
                        "yourself and name its folder"
                    )
                opened_tar.extractall(folder, filter="data")
    # zipfile raises RuntimeError for a password and NotImplementedError for a compression.
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, RuntimeError) as error:
        raise UserError(
            f"{archive} cannot be unpacked ({error or type(error).__name__}): download it again"
        ) from error


def _check_room(archive: Path, folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{archive} unpacks to {needed / 2**30:.1f} GiB, and {folder} has {free / 2**30:.1f} "
            "GiB free: give a --data_dir with more room"
        )
