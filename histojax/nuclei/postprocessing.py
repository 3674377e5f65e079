"""Post-processing: how a network's maps become nuclei, by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

import numpy as np

from histojax.errors import UserError
from histojax.nuclei.components import label_mask
from histojax.nuclei.targets import shape_markers
from histojax.nuclei.usenet import USENetParameters
from histojax.nuclei.watershed import InstanceParameters, Maps


class Parameters(Protocol):
    """What a post-processor is set to: a frozen dataclass whose fields all have defaults."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def mask_threshold(self) -> float:
        """The probability from which there is mask."""
        ...

    def label(self, maps: Maps, *, mpp: float | None = None) -> np.ndarray:
        """The nuclei of whole maps, "mask" and "marker" among them; see `label`."""
        ...


# watershed takes images of any size; usenet is as published, for whole images only.
POSTPROCESSORS: dict[str, type[Parameters]] = {
    "watershed": InstanceParameters,
    "usenet": USENetParameters,
}
# The maps that post-processors read; a network may have others.
MAPS = ("mask", "marker", "contour", "distance")


def read_parameters(kind: str, values: Mapping[str, Any]) -> Parameters:
    """The parameters of a post-processor by name; those left out have their defaults.

    Raises:
        UserError: an unknown name or parameter, or a value that breaks its rule.
    """
    if kind not in POSTPROCESSORS:
        raise UserError(
            f"instances.kind={kind!r} is not known; choose one of {', '.join(POSTPROCESSORS)}"
        )
    known = [field.name for field in dataclasses.fields(POSTPROCESSORS[kind])]
    for name in values:
        if name not in known:
            raise UserError(
                f"post-processing {kind!r} has no parameter {name!r}: choose out of "
                f"{', '.join(known)}"
            )
    return POSTPROCESSORS[kind](**values)


def kind_of(parameters: Parameters) -> str:
    """The name of a post-processor by its parameters."""
    return next(name for name, kind in POSTPROCESSORS.items() if type(parameters) is kind)


def label(maps: Maps, parameters: Parameters, *, mpp: float | None = None) -> np.ndarray:
    """The nuclei of the whole maps of an image.

    Args:
        maps: "mask", "marker" and what else the parameters ask for, (H, W) in [0, 1]; others are
            ignored. A missing "marker" is made of the mask's components, each eroded by its size.
        parameters: of the post-processor.
        mpp: um per px, None where unknown; usenet's areas are in px at any scale.

    Returns:
        int32 (H, W): 0 background, 1..n in raster order of each nucleus's first pixel.

    Raises:
        ValueError, UserError: as the post-processor.
    """
    maps = {name: maps[name] for name in MAPS if name in maps}
    if "marker" not in maps:
        components = label_mask(maps["mask"] >= parameters.mask_threshold)
        maps["marker"] = shape_markers(components) > 0
    return parameters.label(maps, mpp=mpp)
