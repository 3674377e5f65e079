"""Decoded images kept in memory up to a bound in bytes, and values computed once for each image."""

import collections
import threading
from collections.abc import Callable, Hashable, Mapping
from typing import Any, Generic, TypeVar

import numpy as np

Value = TypeVar("Value")


class RecordCache:
    """Records by index or name, the most recently used ones; safe to use from several threads.

    A pickled cache is an empty one with the same bound, because each process decodes for itself.
    """

    def __init__(self, max_bytes: int):
        self._max_bytes = max_bytes
        self._records: collections.OrderedDict[Hashable, dict[str, Any]] = collections.OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get_or_make(self, index: Hashable, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """A copy of the record, made where it is not kept; its arrays are shared and read-only."""
        with self._lock:
            record = self._records.get(index)
            if record is not None:
                self._records.move_to_end(index)
        if record is not None:
            return dict(record)
        record = make()
        for array in _arrays(record):
            array.flags.writeable = False
        with self._lock:
            if index not in self._records and _size(record) <= self._max_bytes:
                self._records[index] = record
                self._bytes += _size(record)
            while self._bytes > self._max_bytes:
                self._bytes -= _size(self._records.popitem(last=False)[1])
        return dict(record)

    def __reduce__(self) -> tuple[type["RecordCache"], tuple[int]]:
        return RecordCache, (self._max_bytes,)


class ComputedOnce(Generic[Value]):
    """Values by key, each computed by one thread; pickled with the values that it holds."""

    def __init__(self, values: dict[Hashable, Value] | None = None):
        self._values = values or {}
        self._lock = threading.Lock()

    def get(self, key: Hashable, compute: Callable[[], Value]) -> Value:
        """The value of a key, computed where it is not there yet."""
        with self._lock:
            if key not in self._values:
                self._values[key] = compute()
            return self._values[key]

    def __reduce__(self) -> tuple[type["ComputedOnce"], tuple[dict[Hashable, Value]]]:
        return ComputedOnce, (self._values,)


def _arrays(record: Mapping[str, Any]) -> list[np.ndarray]:
    return [value for value in record.values() if isinstance(value, np.ndarray)]


def _size(record: Mapping[str, Any]) -> int:
    return sum(array.nbytes for array in _arrays(record))
