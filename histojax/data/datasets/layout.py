"""What a published data set is, and how its files are found in a folder or an archive.

Each set's module turns its official layout into a list of `Example`s. Nothing is decoded before an
example is loaded, so that missing files are named before the work begins.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import pathlib
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from histojax.data.sources.base import Objects
from histojax.errors import UserError
from histojax.imaging.labels import read_labels
from histojax.imaging.reader import MAX_PIXELS, SUFFIXES, read_image
from histojax.nuclei.components import label_mask

_log = logging.getLogger(__name__)

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
NUCLEI = ("background", "nucleus")

Record = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Example:
    """One image of a set, not yet decoded.

    Attributes:
        name: unique in its set.
        group: the patient, or the smallest unit that is known to hold one.
        part: the set's own part that it belongs to, such as "train" or "fold1".
        load: () -> "hr" uint8 (H, W, 3) with "instances" int32 (H, W) and, where the set has them,
            "mask" uint8 (H, W) of class indices and "lr" uint8 (h, w, 3).
    """

    name: str
    group: str
    part: str
    load: Callable[[], Record]


@dataclasses.dataclass(frozen=True)
class Contents:
    """What was found in a source.

    Attributes:
        examples: in the order in which they are stored.
        mpp: micrometres per pixel of all images, None where the set does not say.
        classes: names of the mask's values, from 0.
        objects: what the instances are, "nuclei" or "glands".
        splits: variant -> split -> parts; "" is the variant that a set's bare name opens. A variant
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
    """A published set: its owner, how to obtain it, and how its layout is read.

    Attributes:
        name: by which it is prepared and opened.
        layout: what the source must hold, in words.
        read: (folder, max_pixels of an image file) -> what it holds; raises UserError where
            `layout` is not what is there.
    """

    name: str
    title: str
    licence: str
    citation: str
    homepage: str
    obtain: str
    layout: str
    read: Callable[[pathlib.Path, int], Contents]


@dataclasses.dataclass(frozen=True)
class File:
    """A file of a source; `place` are the names of its folders, the source's own first."""

    path: pathlib.Path
    place: tuple[str, ...]

    @property
    def stem(self) -> str:
        return self.path.stem

    @property
    def suffix(self) -> str:
        return self.path.suffix.lower()


def files_of(root: pathlib.Path) -> list[File]:
    """Returns every file below a folder in order of path, without what systems leave behind."""
    found = []
    for path in sorted(root.rglob("*")):
        inside = path.relative_to(root).parts
        if "__MACOSX" in inside or any(part.startswith(".") for part in inside):
            continue
        if path.is_file():
            found.append(File(path, (root.resolve().name, *inside[:-1])))
    return found


def by_key(files: Iterable[File], key: Callable[[File], str]) -> dict[str, File]:
    """Returns {key: file}.

    Raises:
        UserError: two files have one key.
    """
    keyed: dict[str, File] = {}
    for file in files:
        name = key(file)
        if name in keyed:
            raise UserError(
                f"{keyed[name].path} and {file.path} are both {name!r}: keep one of them"
            )
        keyed[name] = file
    return keyed


def pairs(
    images: Mapping[str, File], annotations: Mapping[str, File], *, expected: str
) -> list[tuple[str, File, File]]:
    """Returns (key, image, annotation) in order of key; other annotations are left out.

    Args:
        images, annotations: key -> file.
        expected: how the annotation of an image is called, with {} for its key.

    Raises:
        UserError: an image has no annotation.
    """
    for key, image in images.items():
        if key not in annotations:
            raise UserError(
                f"image {image.path} has no annotation {expected.format(key)}: add it, or take "
                "the image out"
            )
    if spare := len(set(annotations) - set(images)):
        _log.warning("%d annotations have no image and are left out", spare)
    return [(key, images[key], annotations[key]) for key in sorted(images)]


def read_pair(image: pathlib.Path, labels: pathlib.Path, max_pixels: int = MAX_PIXELS) -> Record:
    """Reads an image and its label image; a binary one becomes its components (4-connected).

    Raises:
        UserError: a file cannot be read or has more than max_pixels, or the two differ in size.
    """
    hr = read_image(image, max_pixels=max_pixels)
    instances = read_labels(labels, max_pixels=max_pixels)
    check_size(image, hr, labels, instances)
    if len(np.unique(instances[instances > 0])) == 1:
        instances = label_mask(instances, connectivity=4)
    return {"hr": hr, "instances": instances}


def check_size(
    image: pathlib.Path, hr: np.ndarray, annotation: pathlib.Path, labels: np.ndarray
) -> None:
    """Refuses labels (H, W) of another size than their image (H, W, 3)."""
    if hr.shape[:2] != labels.shape:
        raise UserError(
            f"{annotation} is {labels.shape[0]} x {labels.shape[1]} px, and its image {image.name} "
            f"is {hr.shape[0]} x {hr.shape[1]} px: take both from one release of the data set"
        )


def unrecognised(root: pathlib.Path, layout: str) -> UserError:
    """The refusal of a source in which no image of the layout was found."""
    return UserError(
        f"{root} does not hold the expected layout: {layout}; give the folder or archive as it "
        "was downloaded"
    )


def check_source(source: pathlib.Path) -> None:
    """Refuses what is neither a folder nor an archive."""
    if not source.exists():
        raise UserError(f"--source={source} does not exist: give a folder or an archive that does")
    if not source.is_dir() and not _is_archive(source):
        raise UserError(
            f"--source={source} is neither a folder nor an archive: give one of those "
            f"({', '.join(ARCHIVES)})"
        )


@contextlib.contextmanager
def opened(source: pathlib.Path, scratch: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives the folder of a source; archives are unpacked to `scratch`, removed at the end.

    Args:
        source: a folder, an archive (.zip, .tar, .tar.gz, .tgz), or a folder of nothing but
            archives.
        scratch: an existing folder with room for what the archives hold.

    Raises:
        UserError: an archive cannot be unpacked.
    """
    if source.is_file():
        archives = [source]
    else:
        archives = [path for path in sorted(source.iterdir()) if _is_archive(path)]
        if not archives or any(_is_data(file) for file in files_of(source)):
            yield source
            return
    unpacked = scratch / "unpacked"
    try:
        unpacked.mkdir()
        if source.is_dir():  # tables that are published beside the archives
            for path in sorted(set(source.iterdir()) - set(archives)):
                if path.is_file():
                    shutil.copy(path, unpacked)
        for archive in archives:
            _unpack(archive, unpacked / archive.name.partition(".")[0])
        yield unpacked
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)


def _is_archive(path: pathlib.Path) -> bool:
    return path.is_file() and path.name.lower().endswith(ARCHIVES)


def _is_data(file: File) -> bool:
    return file.suffix in (*SUFFIXES, ".npy")


def _unpack(archive: pathlib.Path, folder: pathlib.Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if archive.name.lower().endswith(".zip"):
            with zipfile.ZipFile(archive) as opened_zip:
                _check_room(archive, folder, (m.file_size for m in opened_zip.infolist()))
                opened_zip.extractall(folder)
        else:
            with tarfile.open(archive) as opened_tar:
                _check_room(archive, folder, (m.size for m in opened_tar))
                opened_tar.extractall(folder, filter="data")
    # zipfile raises RuntimeError for a password and NotImplementedError for a compression.
    except (
        zipfile.BadZipFile,
        tarfile.TarError,
        zlib.error,
        EOFError,
        RuntimeError,
    ) as error:
        raise UserError(
            f"{archive} cannot be unpacked ({error or type(error).__name__}): download it again"
        ) from error


def _check_room(archive: pathlib.Path, folder: pathlib.Path, sizes: Iterable[int]) -> None:
    needed, free = sum(sizes), shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{archive} unpacks to {needed / 2**30:.1f} GiB, and {folder} has {free / 2**30:.1f} "
            "GiB free: give a --data_dir with more room"
        )
