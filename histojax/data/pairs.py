"""An image and its low-resolution counterpart, always alike for the same image and seed."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from histojax.data import degradation


def image_pair(
    sample: Mapping[str, Any], recipe: degradation.Degradation, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """(hr, lr, annotation or None) of a source's record, cut to multiples of the scale r.

    Without an lr image of its own, `recipe` makes it with parameters drawn from (seed, name). The
    annotation is the instances, int32 (H, W), or, of a sample without them, its mask's classes.
    """
    scale = recipe.scale
    height, width = (side - side % scale for side in sample["hr"].shape[:2])
    hr = np.ascontiguousarray(sample["hr"][:height, :width])
    lr = sample.get("lr")
    if lr is None:
        rng = degradation.evaluation_rng(seed, sample["name"])
        shape = (height // scale, width // scale, 3)
        parameters = degradation.sample_parameters(recipe, rng, shape)
        lr = degradation.degrade(hr, recipe, parameters)
    annotation = sample.get("instances", sample.get("mask"))
    if annotation is not None:
        annotation = annotation[:height, :width]
    return hr, np.asarray(lr[: height // scale, : width // scale]), annotation
