"""An image and its low-resolution counterpart, always alike for the same image and seed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from histojax.data import degradation


def image_pair(
    sample: Mapping[str, Any], recipe: degradation.Degradation, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """(hr, lr, annotation or None) of a sample.

    Args:
        sample: a source's record.
        recipe: makes the low-resolution image, with parameters drawn from (seed, name), of a sample
            without an lr image of its own.
        seed: of a run.

    Returns:
        hr: uint8 (H, W, 3), cut to multiples of the scale r.
        lr: uint8 (H / r, W / r, 3).
        annotation: instances, int32 (H, W), or of a sample without them its mask's classes.
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
