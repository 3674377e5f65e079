"""What every source of images is."""

from __future__ import annotations

from typing import Any, Literal, Protocol

Objects = Literal["nuclei", "glands"]


class Source(Protocol):
    """Named images with random access; picklable, so that worker processes can hold one.

    source[i] is a dict of "name" (str), "hr" (uint8 (H, W, 3)) and, where the data has them,
    "instances" (int32 (H, W), 0 = background), "mask" (uint8 (H, W), 0 = background, 1 or a class
    index elsewhere) and "lr" (uint8 (h, w, 3)). The arrays must not be written to.

    Attributes:
      names, groups: one str for each image; images of a group (a patient) share a split.
      mpp: micrometres per pixel of "hr", None where unknown.
      classes: names of the mask's values, from 0.
      objects: what the instances are; optional, see `objects_of`.
    """

    names: list[str]
    groups: list[str]
    mpp: float | None
    classes: list[str]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...

    def fingerprint(self) -> str: ...


def objects_of(source: Source) -> Objects:
    """What a source's instances are; nuclei where it does not say, as wrappers of training do."""
    return getattr(source, "objects", "nuclei")
