"""A source whose images carry what a network of nuclei is trained on beside the mask."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from histojax.data.augmentation import nearest
from histojax.data.sources.base import Source
from histojax.data.sources.record_cache import RecordCache
from histojax.errors import UserError
from histojax.nuclei import targets
from histojax.tissue import rendering

# Batch fields that are made of a whole image's instances: maps that networks find, and the tissue
# of the built-in model around the same nuclei.
MAPS = ("marker", "contour", "distance")
TISSUE = "tissue"
FIELDS = (*MAPS, TISSUE)
MARKERS = ("shape", "center")
_NO_LABELS = ("distance", TISSUE)


class TargetSource:
    """Adds targets to the records of a source that holds instances; see `sources.Source`.

    "marker" and "contour" are uint8 {0, 1} (H, W), "distance" is uint8 (H, W), 255 at the deepest,
    "tissue" is uint8 (H, W, 3), one image for each name, whatever the seed of a run. They are made
    of whole images, so that a crop's targets are those of the whole, and kept.
    """

    def __init__(
        self,
        source: Source,
        fields: Sequence[str],
        config: Mapping[str, Any],
        *,
        cache_bytes: int = 2**30,
    ):
        """
        Args:
          source: the images.
          fields: those of `FIELDS` that are wanted.
          config: `config.data.targets`: marker ("shape" or "center"), center_radius and
            contour_width, px; physical: whether the shape marker's areas and radii, px at 0.25
            um per px, are scaled to the images' own scale where it is known; legacy: whether mask,
            marker and contour lose the rim that USE-Net's code takes from them.
          cache_bytes: bound on the targets that are kept, in each process.

        Raises:
          UserError: for a setting that breaks its rule.
        """
        self._source, self._fields = source, tuple(fields)
        self._config = checked(config)
        self._cache = RecordCache(cache_bytes)
        self.names, self.groups = source.names, source.groups
        self.mpp, self.classes = source.mpp, source.classes

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        record = self._source[index]
        # By name, because a mixture holds an image many times.
        made = self._cache.get(record["name"])
        if made is None:
            if "instances" not in record:
                raise UserError(
                    f"image {record['name']!r} has no instances, of which the "
                    f"{' and '.join(self._fields) or 'mask'} that the network learns is made: give "
                    "label images (instances/), not masks"
                )
            made = {field: self._make(field, record) for field in self._fields}
            if self._config["legacy"]:
                masks = {"mask": record["instances"], **made}
                masks = {field: masks[field] for field in masks if field not in _NO_LABELS}
                made |= {field: legacy_labels(mask) for field, mask in masks.items()}
            self._cache.keep(record["name"], made)
        return {**record, **made}

    def __repr__(self) -> str:
        return f"TargetSource({self._source!r}, {', '.join(self._fields)})"

    def fingerprint(self) -> str:
        """That of the source: targets are told by the config."""
        return self._source.fingerprint()

    def _make(self, field: str, record: Mapping[str, Any]) -> np.ndarray:
        config, instances = self._config, record["instances"]
        if field == TISSUE:
            number = zlib.crc32(record["name"].encode())
            return rendering.tissue_of(instances, 0, number, patches_per_patient=1)
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

    What bilinear resizing leaves below full foreground is lost: half a pixel all around, a tenth of
    the area of nuclei at 40x.
    """
    height, width = mask.shape
    small = targets.resized_mask(
        mask, (round(0.992 * height), round(0.992 * width)), legacy_labels=True
    )
    return nearest(small, height, width)


def checked(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the config as a dict, each checked.

    Raises:
      UserError: for an unknown name, or a value that breaks its rule.
    """
    values = {"marker": "shape", "center_radius": 4, "contour_width": 2}
    values |= {"physical": False, "legacy": False}
    unknown = sorted(set(config) - set(values))
    if unknown:
        raise UserError(
            f"config.data.targets.{unknown[0]} is not known; choose out of {', '.join(values)}"
        )
    values.update(config)
    if values["marker"] not in MARKERS:
        raise UserError(
            f"config.data.targets.marker={values['marker']!r} is not known; choose one of "
            f"{', '.join(MARKERS)}"
        )
    for name, least in (("center_radius", 0), ("contour_width", 1)):
        value = values[name]
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise UserError(
                f"config.data.targets.{name}={value!r} is not a whole number from {least}; give "
                "one, in px"
            )
    for name in ("physical", "legacy"):
        if not isinstance(values[name], bool):
            raise UserError(
                f"config.data.targets.{name}={values[name]!r} is neither True nor False"
            )
    return values
