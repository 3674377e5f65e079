"""The scale of an image by the size of its nuclei."""

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Estimate:
    """The median diameter of an image's nuclei, px.

    Attributes:
        diameter: None where there is none to tell.
        low, high: its spread.
        nuclei: how many it was estimated from.
        sure: whether to rely on it.
        reason: why or why not, a clause.
    """

    diameter: float | None
    low: float
    high: float
    nuclei: int
    sure: bool
    reason: str


def agreed(estimates: Sequence[Estimate]) -> Estimate | None:
    """One estimate for several images, None where they do not agree."""
    return None
