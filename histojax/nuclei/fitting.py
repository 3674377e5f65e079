"""Post-processing parameters fitted to annotated images."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from histojax.errors import UserError
from histojax.nuclei.postprocessing import Parameters
from histojax.nuclei.watershed import Maps

P = TypeVar("P", bound=Parameters)


def fit_thresholds(
    maps: Sequence[Maps],
    truths: Sequence[np.ndarray],
    grid: Mapping[str, Sequence[Any]],
    *,
    start: P,
    label: Callable[[Maps, P], np.ndarray],
    score: Callable[[np.ndarray, np.ndarray], float],
    rounds: int = 3,
) -> tuple[P, list[tuple[P, float]]]:
    """The parameters whose labels score best in the mean over images, one field after the other.

    Each field of the grid in turn goes to its best value with the others held; rounds follow until
    nothing changes. This tries tens of combinations where the whole grid has thousands, and may
    stop where only two fields changed together would do better.

    Args:
        maps: one for each image, as `label` takes them.
        truths: instances of the images, int (H, W).
        grid: fields of the parameters and the values to try.
        start: parameters to begin from (a frozen dataclass).
        label: (maps, parameters) -> instances, such as `instances.label_instances`.
        score: (instances, truth) -> what is to be large, such as AJI.
        rounds: most passes over the fields.

    Returns:
        The best parameters; all that were tried, in order, with their scores.

    Raises:
        UserError: no images, an unknown field, a value out of its range.
    """
    if not len(maps) or len(maps) != len(truths):
        raise UserError(
            f"parameters are fitted on {len(maps)} maps and {len(truths)} annotations: give one of "
            "each for every image, and at least one image"
        )
    known = [field.name for field in dataclasses.fields(start)]
    for name in grid:
        if name not in known:
            raise UserError(f"there is no parameter {name!r} to fit: choose out of {known}")
    scores: dict[P, float] = {}

    def scored(parameters: P) -> float:
        if parameters not in scores:
            pairs = zip(maps, truths, strict=True)
            scores[parameters] = float(
                np.mean([score(label(one, parameters), truth) for one, truth in pairs])
            )
        return scores[parameters]

    best = start
    scored(best)
    for _ in range(rounds):
        before = best
        for name, values in grid.items():
            for value in values:
                tried = dataclasses.replace(best, **{name: value})
                # Of equal scores the earlier stays, so that the result does not wander.
                if scored(tried) > scored(best):
                    best = tried
        if best == before:
            break
    return best, list(scores.items())
