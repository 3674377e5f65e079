"""The forms of post-processing that a run may have, by name: how its maps become nuclei."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from histojax.errors import UserError
from histojax.nuclei.components import label_mask
from histojax.nuclei.targets import shape_markers
from histojax.nuclei.usenet import USENetParameters, usenet_instances
from histojax.nuclei.watershed import InstanceParameters, Maps, check_maps, label_instances

Parameters = InstanceParameters | USENetParameters
# watershed: any size, the same however the maps are cut; usenet: as published, whole images only.
KINDS = {"watershed": InstanceParameters, "usenet": USENetParameters}
# What they look at; a network may have other maps.
MAPS = ("mask", "marker", "contour", "distance")


def read_parameters(kind: str, values: Mapping[str, Any]) -> Parameters:
    """The parameters of a form by name; those left out have their defaults.

    Raises:
        UserError: an unknown form or parameter, or a value that breaks its rule.
    """
    if kind not in KINDS:
        raise UserError(f"instances.kind={kind!r} is not known; choose one of {', '.join(KINDS)}")
    parameters_type = KINDS[kind]
    known = [field.name for field in dataclasses.fields(parameters_type)]
    for name in values:
        if name not in known:
            raise UserError(
                f"post-processing {kind!r} has no parameter {name!r}: choose out of "
                f"{', '.join(known)}"
            )
    return parameters_type(**values)


def kind_of(parameters: Parameters) -> str:
    """The name of a form by its parameters."""
    return next(
        name for name, parameters_type in KINDS.items() if isinstance(parameters, parameters_type)
    )


def label(maps: Maps, parameters: Parameters, *, mpp: float | None = None) -> np.ndarray:
    """The nuclei of the whole maps of an image.

    Args:
        maps: "mask", "marker" and what else the parameters ask for, (H, W) in [0, 1]; others are
            not looked at. Where there is no "marker", it is made of the mask's components, each
            eroded by its size.
        parameters: of the form to be used.
        mpp: um per px, None where unknown; what is published is in px at any scale.

    Returns:
        int32 (H, W): 0 background, 1..n in raster order of each nucleus's first pixel.

    Raises:
        ValueError, UserError: as the form.
    """
    maps = {name: maps[name] for name in MAPS if name in maps}
    if "marker" not in maps:
        components = label_mask(maps["mask"] >= parameters.mask_threshold)
        maps = {**maps, "marker": shape_markers(components) > 0}
    if isinstance(parameters, USENetParameters):
        check_maps(maps, InstanceParameters())
        return usenet_instances(maps["mask"], maps["marker"], parameters)
    return label_instances(maps, parameters, mpp=mpp)
