"""The seam between a prediction and its files: strips in, a file out.

Axes: H, W pixels of the outputs.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, Self

import numpy as np


@dataclasses.dataclass(frozen=True)
class Image:
    """The image whose outputs are written.

    Attributes:
        name: of the input file, without its ending.
        height, width: H, W, px.
        scale: output px per px of the network's input.
        mpp: um per output px, None where unknown.
        folder: where files go.
    """

    name: str
    height: int
    width: int
    scale: int
    mpp: float | None
    folder: pathlib.Path


@dataclasses.dataclass(frozen=True)
class Written:
    """A file, and what it holds in numbers, such as {"nuclei": 312}."""

    path: pathlib.Path
    summary: Mapping[str, Any] = dataclasses.field(default_factory=dict)


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

    def __init__(self, image: Image) -> None: ...

    def add(self, strip: Mapping[str, np.ndarray]) -> None:
        """Takes the next rows of the outputs, top to bottom.

        Raises:
            UserError: the disk refuses.
        """
        ...

    def close(self) -> Written:
        """Finishes the file under its final name.

        Raises:
            UserError: the disk refuses.
        """
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...
