"""Stain normalisation as a run's config asks for it, the same for training and for use."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from histojax import checks
from histojax.data.sources.base import Record, Source, WrappedSource
from histojax.data.sources.record_cache import ComputedOnce, RecordCache
from histojax.errors import UserError
from histojax.imaging.tiling import RegionReader
from histojax.stain.normalization import METHODS, Fit, Method, fit, from_json, normalize
from histojax.stain.reading import NormalizedReader
from histojax.stain.targets import target_fit


class NormalizedSource(WrappedSource):
    """A source with its images recoloured as they are read; all other fields pass through.

    "hr" and "lr" are each normalised by a fit of their own, made once and kept. An image without a
    fit keeps its colours; each process warns of it once. A pickled source keeps its fits and drops
    its images.
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


@dataclasses.dataclass(frozen=True)
class StainMatching:
    """How a run normalises its images: each image, or slide, by a fit of its own."""

    method: Method
    target: Fit

    def to_json(self) -> dict[str, Any]:
        """The target's fit, for a checkpoint: its image need not be there at use."""
        return dataclasses.asdict(self.target)

    def source(self, source: Source) -> NormalizedSource:
        """A source whose images are normalised as they are read."""
        return NormalizedSource(source, self.method, self.target)

    def image(self, image: np.ndarray, *, name: str = "an image") -> np.ndarray:
        """A whole image, uint8 (H, W, 3), normalised."""
        return normalize(image, fit([image], self.method, name=name), self.target)

    def reader(self, reader: RegionReader, *, name: str) -> NormalizedReader:
        """A whole image or slide behind a reader, normalised region by region."""
        return NormalizedReader(reader, self.method, self.target, name=name)


def check(config: ConfigDict) -> Method | None:
    """The method of a config, None where it is off; UserError for a run that enhances."""
    name = config.data.stain.method
    checks.check({"method": name}, {"method": checks.one_of(("none", *METHODS))}, "data.stain.")
    if name == "none":
        return None
    if config.stage not in ("segmentation", "pyramid"):
        raise UserError(
            f"data.stain.method={name!r} recolours what a network of nuclei reads, and a "
            f"{config.stage} run is to keep the colours of its images: set it to 'none'"
        )
    return Method(name, config.data.stain.sparsity)


def build(config: ConfigDict, meta: Mapping[str, Any] | None = None) -> StainMatching | None:
    """What group `data.stain` asks for; None where it is off. UserError for a target without a fit.

    `meta` of a run's checkpoint holds the target's fit.
    """
    if (method := check(config)) is None:
        return None
    kept = (meta or {}).get("stain_target")
    target = from_json(kept) if kept else target_fit(config.data.stain.target, method)
    return StainMatching(method, target)
