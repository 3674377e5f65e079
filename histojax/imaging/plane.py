"""An image-sized array on disk: written by strips, read and overwritten by region."""

import contextlib
import tempfile
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import DTypeLike

from histojax.files import disk_errors


class Plane(contextlib.AbstractContextManager):
    """An array (H, W) of one dtype in a temporary file without a name, which goes with the process.

    A context manager, which closes the file. All methods raise DiskError for what the disk refuses.
    """

    def __init__(self, width: int, dtype: DTypeLike):
        self.width, self.height, self.dtype = width, 0, np.dtype(dtype)
        with disk_errors(None):
            # Plain reads and writes rather than a memory map, whose pages would count as ours.
            self._file = tempfile.TemporaryFile()  # noqa: SIM115

    def append(self, rows: np.ndarray) -> None:
        """Adds rows (n, W) at the bottom; rows of 0 take no room on a disk that knows holes."""
        self.height += len(rows)
        if np.any(rows):
            self.write(self.height - len(rows), 0, rows)
            return
        with disk_errors(None):
            self._file.truncate(self.height * self.width * self.dtype.itemsize)

    def write(self, y: int, x: int, values: np.ndarray) -> None:
        """Overwrites the region at y, x with values (rows, columns), which lie inside."""
        values = np.ascontiguousarray(values, self.dtype)
        with disk_errors(None):
            for offset, line in self._runs(y, x, values):
                self._file.seek(offset)
                self._file.write(line.data)
            # So that a full disk raises here, and not in a later read.
            self._file.flush()

    def read(self, y: int, x: int, height: int, width: int) -> np.ndarray:
        """(height, width) at y, x, cut off at the border of the array."""
        height = max(min(height, self.height - y), 0)
        width = max(min(width, self.width - x), 0)
        values = np.empty((height, width), self.dtype)
        with disk_errors(None):
            for offset, line in self._runs(y, x, values):
                self._file.seek(offset)
                self._file.readinto(line.data)
        return values

    def _runs(self, y: int, x: int, values: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """The parts of a region that lie in one piece in the file, each with its place."""
        pieces: Iterable[np.ndarray] = [values] if values.shape[1] == self.width else values
        for row, piece in enumerate(pieces, y):
            yield (row * self.width + x) * self.dtype.itemsize, piece

    def close(self) -> None:
        # A full disk may refuse buffered values; `write` has raised that already.
        with contextlib.suppress(OSError):
            self._file.close()

    def __exit__(self, *_: object) -> None:
        self.close()
