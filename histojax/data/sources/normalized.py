"""A data source whose images are stain-normalised as they are read."""

from __future__ import annotations

import hashlib
import json
import threading
from typing import Any

from histojax.data.sources.base import Source
from histojax.data.sources.record_cache import RecordCache
from histojax.stain.normalization import Fit, Method, fit, normalize, to_json

_IMAGES = ("hr", "lr")


class NormalizedSource:
    """A source with its images recoloured; `sources.Source` is the contract.

    "hr" and, where there is one, "lr" are each normalised by a fit of their own, made of the whole
    image when it is first read and kept, 8 numbers by image. All else passes through. An image that
    cannot be fitted keeps its colours, and is warned of once by each process. Normalised images are
    kept, the most recently used ones, up to cache_bytes; a source of files under this one keeps its
    own too, so give it less.

    A pickled source takes its fits along and none of its images.
    """

    def __init__(
        self,
        source: Source,
        method: Method,
        target: Fit,
        *,
        cache_bytes: int = 2**31,
    ):
        """No image of the source is read.

        Args:
          source: a `histojax.data.sources.Source`.
          method: how its images are normalised.
          target: the fit, of that method, of what they are to look like.
          cache_bytes: bound on the normalised images kept, in each process.
        """
        self.source, self.method = source, method
        self.target = target
        self.names, self.groups = source.names, source.groups
        self.mpp, self.classes = source.mpp, source.classes
        self._cache = RecordCache(cache_bytes)
        # By name: a mixture holds an image several times.
        self._fits: dict[tuple[str, str], Fit | None] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]
        kept = self._cache.get(index)
        if kept is not None:
            return kept
        record = dict(self.source[index])
        for role in _IMAGES:
            if role in record:
                record[role] = normalize(record[role], self._fit(record, role), self.target)
                record[role].flags.writeable = False
        self._cache.keep(index, record)
        return dict(record)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def __repr__(self) -> str:
        return f"NormalizedSource({self.source!r}, {self.method})"

    def fingerprint(self) -> str:
        """Returns 16 hex digits of SHA-256 over the source's own, the method and the target."""
        parts = [self.source.fingerprint(), repr(self.method), json.dumps(to_json(self.target))]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]

    def _fit(self, record: dict[str, Any], role: str) -> Fit | None:
        key = record["name"], role
        # One thread fits an image, so that it is warned of once.
        with self._lock:
            if key not in self._fits:
                name = record["name"] if role == "hr" else f"{record['name']} ({role})"
                self._fits[key] = fit(record[role], self.method, name=name)
            return self._fits[key]
