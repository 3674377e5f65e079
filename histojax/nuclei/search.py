"""A search for the parameters that score best, one field after the other."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

P = TypeVar("P", bound=Any)


def search(
    start: P,
    grid: Mapping[str, Sequence[float]],
    score: Callable[[P], float],
    *,
    rounds: int = 3,
) -> tuple[P, dict[P, float]]:
    """The parameters that score best, and the score of each that was tried, in order.

    Each field of the grid in turn goes to its best value with the others held; rounds follow until
    nothing changes. This tries tens of combinations where the whole grid has thousands, and may
    stop where only two fields changed together would do better. `start` is a frozen dataclass, the
    grid holds values of its fields, and `rounds` bounds the passes over them.
    """
    best, scores = start, {start: score(start)}
    for _ in range(rounds):
        before = best
        for name, values in grid.items():
            for value in values:
                tried = dataclasses.replace(best, **{name: value})
                if tried not in scores:
                    scores[tried] = score(tried)
                # Of equal scores the earlier stays, so that the result does not wander.
                if scores[tried] > scores[best]:
                    best = tried
        if best == before:
            break
    return best, scores
