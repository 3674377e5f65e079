"""A source whose images tell their own stains, for jitter in them rather than in a textbook's.

Where the fixed vectors of `histojax.stain.hed` miss the stains of an image, scaling one of them
changes hues that no staining gives. In the image's own stains, scales leave hues between the two
stains there, and what the two do not explain is left alone.
"""

from __future__ import annotations

import logging
import threading
from typing import Any

import numpy as np

from histojax.data.sources.base import Source
from histojax.stain import hed
from histojax.stain.normalization import Method, Unfit, fit_sample, sample_tissue

_log = logging.getLogger(__name__)

# Its stains lie at the extremes of the hues: a pixel in a hundred of MoNuSeg and TNBC lies beyond
# them, and three to six beyond those of a sparse dictionary, which a strong scale bleaches.
_METHOD = Method("macenko")


class OwnStains:
    """Adds "stains" to the records of a source: float32 (3, 3), as `stain.jitter` takes them.

    Its rows are haematoxylin, eosin and what is perpendicular to both, the first two as long as the
    99th percentile of their concentration, so that a bias is a share of that. They are found of the
    whole hr image when it is first read, and kept. An image in which they cannot be found is
    jittered in the textbook's haematoxylin and eosin, whose rows are of length 1, and is warned of
    once by each process.
    """

    def __init__(self, source: Source):
        """`source`: the images, a `histojax.data.sources.Source`; none is read."""
        self._source = source
        self.names, self.groups = source.names, source.groups
        self.mpp, self.classes = source.mpp, source.classes
        # By name: a mixture holds an image several times.
        self._stains: dict[str, np.ndarray] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        record = self._source[index]
        name = record["name"]
        # One thread looks at an image, so that it is warned of once.
        with self._lock:
            if name not in self._stains:
                self._stains[name] = own_stains(record["hr"], name=name)
            return {**record, "stains": self._stains[name]}

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def __repr__(self) -> str:
        return f"OwnStains({self._source!r})"

    def fingerprint(self) -> str:
        """That of the source: its images are the same."""
        return self._source.fingerprint()


def own_stains(image: np.ndarray, *, name: str) -> np.ndarray:
    """What `OwnStains` adds for an image, uint8 (H, W, 3); `name` is for the warning."""
    try:
        found = fit_sample(sample_tissue([image]), _METHOD)
    except Unfit as reason:
        _log.warning("%s is jittered in the textbook's stains, because %s", name, reason)
        return hed.RGB_FROM_HED.astype(np.float32)
    lengths = np.array([*found.maxima, 1.0])
    return (lengths[:, None] * found.basis()).astype(np.float32)
