"""A data source whose images are stain-normalised as they are read."""

from __future__ import annotations

import functools
import hashlib
import json

from histojax.data.sources.base import Record, Source, WrappedSource
from histojax.data.sources.record_cache import ComputedOnce, RecordCache
from histojax.stain.normalization import Fit, Method, fit, normalize, to_json

# What a warning calls the images of a record.
_LABELS = {"hr": "{}", "lr": "{} (lr)"}


class NormalizedSource(WrappedSource):
    """A source with its images recoloured; all other fields pass through.

    "hr" and, where there is one, "lr" are each normalised by a fit of their own. A fit is made of
    the whole image when it is first read and kept (8 numbers an image). An image that cannot be
    fitted keeps its colours; each process warns of it once. A pickled source keeps its fits and
    drops its images.
    """

    def __init__(self, source: Source, method: Method, target: Fit, *, cache_bytes: int = 2**31):
        """No image of the source is read.

        Args:
            source: the images.
            method: how they are normalised.
            target: the fit, of that method, whose colours they get.
            cache_bytes: bound on the normalised images kept, in each process; a source of files
                keeps its own images too.
        """
        super().__init__(source)
        self.method, self.target = method, target
        self._cache = RecordCache(cache_bytes)
        # By name: a mixture holds an image several times.
        self._fits: ComputedOnce[Fit | None] = ComputedOnce()

    def __getitem__(self, index: int) -> Record:
        index = range(len(self))[index]
        return self._cache.get_or_make(index, lambda: self._normalized(self._source[index]))

    def fingerprint(self) -> str:
        """16 hex digits of SHA-256 over the source's own, the method and the target."""
        parts = [self._source.fingerprint(), repr(self.method), json.dumps(to_json(self.target))]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]

    def _normalized(self, record: Record) -> Record:
        name = record["name"]
        images = {role: record[role] for role in _LABELS if role in record}
        for role, image in images.items():
            label = _LABELS[role].format(name)
            compute = functools.partial(fit, image, self.method, name=label)
            images[role] = normalize(image, self._fits.get((name, role), compute), self.target)
        return {**record, **images}
