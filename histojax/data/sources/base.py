"""What a source of images is, and what sources share."""

import hashlib
import operator
from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np

from histojax.data.sources.record_cache import RecordCache

Objects = Literal["nuclei", "glands"]

Record = dict[str, Any]
BLANK = "blank-"  # begins the digest of an image of one colour
Entry = dict[str, str]  # what identifies an image: name, group, image, labels


class Source(Protocol):
    """Named images with random access; picklable, so that worker processes can hold one.

    source[i] is a dict of "name" (str), "hr" (uint8 (H, W, 3)) and, where the data has them,
    "instances" (int32 (H, W), 0 = background), "mask" (uint8 (H, W), 0 = background, 1 or a class
    index elsewhere) and "lr" (uint8 (h, w, 3)). The arrays must not be written to. Images of a
    group (a patient) share a split; `mpp` is micrometres per pixel of "hr"; `classes` names the
    mask's values. `left_out` says which files are not among them, and `seen` names the images that
    these were made from, such as those that the run behind pseudo-labels was trained on.
    """

    names: list[str]
    groups: list[str]
    mpp: float | None
    classes: list[str]
    objects: Objects
    left_out: Sequence[str] = ()
    seen: Sequence[Entry] = ()

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Record: ...

    def digests(self, index: int) -> tuple[str, str]:
        """16 hex digits of the pixels of an image, and of its labels and lr ("" without any)."""
        ...

    def fingerprint(self) -> str:
        """16 hex digits of SHA-256 over names, pixels and labels."""
        parts = zip(self.names, map(self.digests, range(len(self))), strict=True)
        return digest_of(*(text for name, digests in parts for text in (name, *digests)))


class CachedSource(Source):
    """Images that a subclass makes in `_read`; those used last are kept, up to `cache_bytes`.

    Safe to use from several threads. Records without a mask get that of their instances.
    """

    def __init__(self, cache_bytes: int):
        self._cache = RecordCache(cache_bytes)
        self._digests: dict[int, tuple[str, str]] = {}

    def __getitem__(self, index: int) -> Record:
        index = operator.index(index)
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} of a source of {len(self)}")
        index %= len(self)
        return self._cache.get_or_make(index, lambda: self._masked(index))

    def _masked(self, index: int) -> Record:
        record = self._read(index)
        if "instances" in record and "mask" not in record:
            record["mask"] = (record["instances"] > 0).astype(np.uint8)
        return record

    def digests(self, index: int) -> tuple[str, str]:
        if index not in self._digests:
            self._digests[index] = digests_of(self[index])
        return self._digests[index]

    def _read(self, index: int) -> Record:
        raise NotImplementedError


class WrappedSource(Source):
    """The images of another source, whose records a subclass changes in `__getitem__`."""

    def __init__(self, source: Source):
        self._source = source
        self.names, self.groups = source.names, source.groups
        self.mpp, self.classes, self.objects = source.mpp, source.classes, source.objects
        self.left_out, self.seen = source.left_out, source.seen

    def digests(self, index: int) -> tuple[str, str]:
        return self._source.digests(index)


def places_of(source: Source) -> dict[str, int]:
    """{name: index} of each image, once: a mixture holds an image as often as its weight asks."""
    return {name: index for index, name in enumerate(source.names)}


def digest_of(*parts: str) -> str:
    """16 hex digits of SHA-256 over the parts: a fingerprint."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def digests_of(record: Record) -> tuple[str, str]:
    """16 hex digits of the pixels of a record's image, and of all else in it ("" for nothing)."""
    image, labels = hashlib.sha256(), hashlib.sha256()
    fields = sorted(field for field in record if field != "name")
    for field in fields:
        digest, pixels = image if field == "hr" else labels, np.ascontiguousarray(record[field])
        # Labels of one value are the same in any type.
        pixels = pixels if pixels.dtype == np.uint8 else pixels.astype(np.int32)
        digest.update(f"{field}\0{pixels.shape}\0".encode())
        digest.update(pixels.data)
    blank = BLANK if record["hr"].min() == record["hr"].max() else ""
    return blank + image.hexdigest()[:16], labels.hexdigest()[:16] if len(fields) > 1 else ""


def common_mpp(scales: Sequence[float | None]) -> float | None:
    """The micrometres per pixel that all of these state within 1 %, else None."""
    known = [mpp for mpp in scales if mpp is not None]
    if known and len(known) == len(scales) and max(known) <= 1.01 * min(known):
        return known[0]
    return None
