"""The seam between a prediction and its files: strips in, a file out.

Axes: H, W pixels of the file.
"""

import pathlib
from collections.abc import Mapping
from typing import ClassVar, Protocol, Self

import numpy as np

Size = tuple[int, int]  # H, W


class Sink(Protocol):
    """Writes one file about one image; a context manager, which drops a file that is not closed.

    Attributes:
        reads: the outputs it needs: "sr" uint8 (rows, W, 3), the heads of a segmenter (rows, W, 1)
            in [0, 1], "classes" uint8 (rows, W), "labels" int32 (rows, W). It is opened for the
            runs that make all of them. Labels are known only after the network has seen the whole
            image, so a sink that reads them gets labels alone.
        suffix: the file is called NAME + suffix.
        enhanced: whether the file is on the grid of the enhanced image, or on that of the input.
    """

    reads: ClassVar[tuple[str, ...]]
    suffix: ClassVar[str]
    enhanced: ClassVar[bool]

    def __init__(self, path: pathlib.Path, *, size: Size, seen: Size, mpp: float | None) -> None:
        """Opens a file of `size` (H, W) px of `mpp` um (None: unknown) for outputs of `seen` px."""

    def add(self, outputs: Mapping[str, np.ndarray]) -> None:
        """Takes the next rows of the outputs, top to bottom, on the grid that the network saw.

        Raises:
            DiskError: the disk refuses.
        """

    def close(self) -> None:
        """Finishes the file under its final name.

        Raises:
            DiskError: the disk refuses.
        """

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...
