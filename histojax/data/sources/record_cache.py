"""Decoded images kept in memory, those used last, up to a bound in bytes."""

from __future__ import annotations

import collections
import threading
from collections.abc import Hashable, Iterator, Mapping
from typing import Any

import numpy as np


def arrays_of(record: Mapping[str, Any]) -> list[np.ndarray]:
    """The arrays among a record's values."""
    return [value for value in record.values() if isinstance(value, np.ndarray)]


class RecordCache:
    """Records by index or name, safe to use from several threads.

    A pickled cache is an empty one with the same bound, because each process decodes for itself.
    """

    def __init__(self, max_bytes: int):
        self._max_bytes = max_bytes
        self._records: collections.OrderedDict[Hashable, dict[str, Any]] = collections.OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[Hashable]:
        """The indices kept, that of the record unused for longest first."""
        with self._lock:
            return iter(list(self._records))

    def get(self, index: Hashable) -> dict[str, Any] | None:
        """A copy of the record (its arrays are shared), or None where it is not kept."""
        with self._lock:
            if index not in self._records:
                return None
            self._records.move_to_end(index)
            return dict(self._records[index])

    def keep(self, index: Hashable, record: dict[str, Any]) -> None:
        """Keeps a record, in the place of those unused for longest; not one beyond the bound."""
        size = _size(record)
        with self._lock:
            if index in self._records or size > self._max_bytes:
                return
            self._records[index] = record
            self._bytes += size
            while self._bytes > self._max_bytes:
                _, oldest = self._records.popitem(last=False)
                self._bytes -= _size(oldest)

    def __reduce__(self) -> tuple[type[RecordCache], tuple[int]]:
        return RecordCache, (self._max_bytes,)


def _size(record: Mapping[str, Any]) -> int:
    return sum(array.nbytes for array in arrays_of(record))
