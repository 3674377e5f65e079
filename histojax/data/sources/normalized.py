"""A data source whose images are stain-normalised as they are read."""

import functools

from histojax.data.sources.base import Record, Source, WrappedSource
from histojax.data.sources.record_cache import ComputedOnce, RecordCache
from histojax.stain.normalization import Fit, Method, fit, normalize


class NormalizedSource(WrappedSource):
    """A source with its images recoloured; all other fields pass through.

    "hr" and "lr" are each normalised by a fit of their own, made of the whole image when it is
    first read and kept (8 numbers an image). An image that cannot be fitted keeps its colours; each
    process warns of it once. A pickled source keeps its fits and drops its images.
    """

    def __init__(self, source: Source, method: Method, target: Fit, *, cache_bytes: int = 2**31):
        """`target` is a fit of `method`, the new colours; `cache_bytes` bounds what is kept."""
        super().__init__(source)
        self.method, self.target = method, target
        self._cache = RecordCache(cache_bytes)
        # By name: a mixture holds an image several times.
        self._fits: ComputedOnce[Fit | None] = ComputedOnce()

    def __getitem__(self, index: int) -> Record:
        index = range(len(self))[index]
        return self._cache.get_or_make(index, lambda: self._normalized(self._source[index]))

    def _normalized(self, record: Record) -> Record:
        name = record["name"]
        record = dict(record)
        for role, label in (("hr", name), ("lr", f"{name} (lr)")):
            if role in record:
                compute = functools.partial(fit, record[role], self.method, name=label)
                own = self._fits.get((name, role), compute)
                record[role] = normalize(record[role], own, self.target)
        return record
