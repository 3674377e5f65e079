"""Post-processing: how a network's maps become nuclei, by name."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from histojax.checks import check, check_names, one_of
from histojax.nuclei.components import label_mask
from histojax.nuclei.targets import shape_markers
from histojax.nuclei.usenet import USENetParameters
from histojax.nuclei.watershed import InstanceParameters, Maps

Parameters = InstanceParameters | USENetParameters
# watershed takes images of any size; usenet is as published, for whole images only.
POSTPROCESSORS: dict[str, type[Parameters]] = {
    "watershed": InstanceParameters,
    "usenet": USENetParameters,
}
# The maps that post-processors read; a network may have others.
MAPS = ("mask", "marker", "contour", "distance")


def read_parameters(kind: str, values: Mapping[str, Any]) -> Parameters:
    """The parameters of a post-processor by name; those left out have their defaults."""
    check({"kind": kind}, {"kind": one_of(POSTPROCESSORS)}, "instances.")
    known = [field.name for field in dataclasses.fields(POSTPROCESSORS[kind])]
    check_names(values, known, f"instances.{kind}.")
    return POSTPROCESSORS[kind](**values)


def kind_of(parameters: Parameters) -> str:
    """The name of a post-processor by its parameters."""
    return next(name for name, kind in POSTPROCESSORS.items() if type(parameters) is kind)


def label(maps: Maps, parameters: Parameters, *, mpp: float | None = None) -> np.ndarray:
    """The nuclei of an image's whole maps, int32 (H, W): 0 background, 1..n in raster order.

    Maps are "mask", "marker" and what else the parameters ask for, (H, W) in [0, 1]; others are
    ignored. A missing "marker" is made of the mask's components, each eroded by its size. mpp is um
    per px, None where unknown; usenet's areas are in px at any scale.
    """
    maps = {name: maps[name] for name in MAPS if name in maps}
    if "marker" not in maps:
        components = label_mask(maps["mask"] >= parameters.mask_threshold)
        maps["marker"] = shape_markers(components) > 0
    return parameters.label(maps, mpp=mpp)
