"""A source whose records hold their image's own stains, in which it is then jittered.

Scaling a fixed vector of `histojax.stain.hed` changes hues in a way that no staining does. Scales
of the image's own stains keep hues between these two, and leave alone what they do not explain.
"""

import logging

import numpy as np

from histojax.data.sources.base import Record, Source, WrappedSource
from histojax.data.sources.record_cache import ComputedOnce
from histojax.stain import hed
from histojax.stain.normalization import Method, StainFit, Unfit, fitted

_log = logging.getLogger(__name__)

# Its stains lie at the extremes of the hues: a pixel in a hundred of MoNuSeg and TNBC lies beyond
# them, and three to six beyond those of a sparse dictionary, which a strong scale bleaches.
_METHOD = Method("macenko")


class PerImageStains(WrappedSource):
    """Adds "stains", float32 (3, 3), to records: `stains_of` the hr image, found once and kept."""

    def __init__(self, source: Source):
        super().__init__(source)
        # By name: a mixture holds an image several times.
        self._stains: ComputedOnce[np.ndarray] = ComputedOnce()

    def __getitem__(self, index: int) -> Record:
        record = self._source[index]
        name = record["name"]
        stains = self._stains.get(name, lambda: stains_of(record["hr"], name=name))
        return {**record, "stains": stains}


def stains_of(image: np.ndarray, *, name: str) -> np.ndarray:
    """The stains of an image, uint8 (H, W, 3), called `name` in a warning: float32 (3, 3).

    Haematoxylin and eosin, as long as the 99th percentile of their concentration, so that a bias is
    a share of that, and their perpendicular. Where none are found, the textbook's, with a warning.
    """
    try:
        fit = fitted([image], _METHOD, name=name)
    except Unfit as reason:
        _log.warning("%s is jittered in the textbook's stains, because %s", name, reason)
        return hed.RGB_FROM_HED.astype(np.float32)
    assert isinstance(fit, StainFit)
    lengths = np.array([*fit.maxima, 1.0])
    return (lengths[:, None] * fit.basis()).astype(np.float32)
