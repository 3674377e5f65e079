"""A source whose records hold the targets of a nuclei network, made of their instances."""

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from histojax.checks import check, check_names, flag, one_of, whole
from histojax.data.augmentation import nearest
from histojax.data.sources.base import Record, Source, WrappedSource
from histojax.data.sources.record_cache import RecordCache
from histojax.errors import UserError
from histojax.nuclei import targets
from histojax.tissue import rendering

# The maps that networks find, and the built-in model's tissue around the same nuclei.
MAPS = ("marker", "contour", "distance")
TISSUE = "tissue"
FIELDS = (*MAPS, TISSUE)
_NO_LABELS = ("distance", TISSUE)
_RULES = {
    "marker": one_of(("shape", "center")),
    "center_radius": whole(0, of="a whole number of px"),
    "contour_width": whole(1, of="a whole number of px"),
    "physical": flag(),
    "legacy": flag(),
}


class TargetSource(WrappedSource):
    """Adds targets to the records of a source that holds instances.

    "marker" and "contour" are uint8 {0, 1} (H, W), "distance" is uint8 (H, W), 255 at the deepest,
    "tissue" is uint8 (H, W, 3), one image for each name. They are those of whole images, and kept.

    Args:
        fields: which of `FIELDS` to add.
        config: `config.data.targets`; UserError for a bad value. "physical" scales the shape
            marker's areas and radii, px at 0.25 um per px, to the images' own scale. "legacy" takes
            from mask, marker and contour the rim that USE-Net's code drops.
    """

    def __init__(self, source: Source, fields: Sequence[str], config: Mapping[str, Any]):
        super().__init__(source)
        self._fields = tuple(fields)
        self._config = dict(config)
        check_names(self._config, _RULES, "config.data.targets.")
        check(self._config, _RULES, "config.data.targets.")
        self._cache = RecordCache(2**30)  # bytes, in each process

    def __getitem__(self, index: int) -> Record:
        record = self._source[index]
        # By name, because a mixture holds an image many times.
        return record | self._cache.get_or_make(record["name"], lambda: self._targets(record))

    def _targets(self, record: Record) -> Record:
        if "instances" not in record:
            raise UserError(
                f"image {record['name']!r} has no instances, and the network learns "
                f"{' and '.join(self._fields) or 'a mask'} of them: give label images "
                "(instances/), not masks"
            )
        made = {field: self._make(field, record) for field in self._fields}
        if self._config["legacy"]:
            masks = {"mask": record["instances"], **made}
            made |= {f: legacy_labels(mask) for f, mask in masks.items() if f not in _NO_LABELS}
        return made

    def _make(self, field: str, record: Record) -> np.ndarray:
        config, instances = self._config, record["instances"]
        if field == TISSUE:
            number = zlib.crc32(record["name"].encode())
            return rendering.tissue_of(instances, 0, number)
        if field == "contour":
            return targets.contours(instances, width=config["contour_width"])
        if field == "distance":
            return np.round(255 * targets.distances(instances)).astype(np.uint8)
        if config["marker"] == "center":
            found = targets.center_markers(instances, radius=config["center_radius"])
        else:
            mpp = self.mpp if config["physical"] else None
            found = targets.shape_markers(instances, mpp=mpp)
        return (found > 0).astype(np.uint8)


def legacy_labels(mask: np.ndarray) -> np.ndarray:
    """A mask as USE-Net's code resizes it, from 1000 px to 992, at its own size; uint8 {0, 1}.

    It loses half a pixel all around, a tenth of the area of nuclei at 40x.
    """
    height, width = mask.shape
    size = round(0.992 * height), round(0.992 * width)
    return nearest(targets.resized_mask(mask, size, legacy_labels=True), height, width)
