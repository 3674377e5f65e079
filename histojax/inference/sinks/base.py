"""The seam between a prediction and its files: strips in, a file out.

Axes: H, W pixels of the outputs.
"""

import pathlib
from collections.abc import Mapping
from typing import ClassVar, Protocol, Self

import numpy as np


class Sink(Protocol):
    """Writes one file about one image; a context manager, which drops a file that is not closed.

    Attributes:
        reads: the outputs it needs: "sr" uint8 (rows, W, 3), the heads of a segmenter (rows, W, 1)
            in [0, 1], "classes" uint8 (rows, W), "labels" int32 (rows, W). It is opened for the
            runs that make all of them. Labels are known only after the network has seen the whole
            image, so a sink that reads them gets labels alone.
        suffix: the file is called NAME + suffix.
    """

    reads: ClassVar[tuple[str, ...]]
    suffix: ClassVar[str]

    def __init__(
        self, path: pathlib.Path, *, height: int, width: int, mpp: float | None = None
    ) -> None:
        """Opens the file of outputs of (H, W) px, `mpp` um a px (None: unknown)."""

    def add(self, outputs: Mapping[str, np.ndarray]) -> None:
        """Takes the next rows of the outputs, top to bottom.

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
