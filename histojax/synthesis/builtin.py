"""The built-in model's tissue around the nuclei of a mask."""

from __future__ import annotations

import dataclasses

import numpy as np
import scipy.ndimage

from histojax.errors import UserError
from histojax.tissue import rendering

Seed = tuple[int, ...]
# Longest side, px: drawing takes some 100 bytes for each px of the square.
_LONGEST = 8192


def draw(mask: np.ndarray, seed: Seed) -> np.ndarray:
    """Tissue for a label image (H, W), uint8 (H, W, 3), as a function of the seed."""
    number = int(np.random.SeedSequence(seed).generate_state(1)[0])
    return rendering.tissue_of(mask, 0, number, patches_per_patient=1)


def check_separate(mask: np.ndarray, *, name: str) -> None:
    """Checks that each nucleus of a label image has a label of its own.

    Raises:
        UserError: for a binary mask of several nuclei.
    """
    if len(np.unique(mask)) == 2 and scipy.ndimage.label(mask)[1] > 1:
        raise UserError(
            f"the mask {name} has one label for several nuclei, and each needs its own: give a "
            "label image"
        )


def check_longest(mask: np.ndarray, *, name: str) -> None:
    """Checks that the tissue for a mask, which is drawn as a whole square, fits in memory.

    Raises:
        UserError: for a mask whose longer side is too long.
    """
    if max(mask.shape) > _LONGEST:
        raise UserError(
            f"the mask {name} has {mask.shape[0]} x {mask.shape[1]} px, and the built-in model "
            f"draws a whole square of up to {_LONGEST} px on each side: cut it, or use a pyramid "
            "with pyramid.base='colors'"
        )


@dataclasses.dataclass(frozen=True)
class BuiltinTissue:
    """Makes images for masks as `tissue.Synthesizer` does, without a run.

    Attributes:
        mpp: micrometres per pixel of the masks, None where unknown.
    """

    mpp: float | None
    classes = None

    def check(self, mask: np.ndarray, *, name: str) -> None:
        """Checks that tissue can be drawn around a label image.

        Raises:
            UserError: for a mask without nuclei, too small or too large, or with several nuclei
                under one label.
        """
        if not mask.any():
            raise UserError(f"the mask {name} is empty: give one with nuclei in it")
        check_separate(mask, name=name)
        if min(mask.shape) < rendering.SMALLEST:
            raise UserError(
                f"the mask {name} has {mask.shape[0]} x {mask.shape[1]} px, and tissue is drawn "
                f"from {rendering.SMALLEST} px on each side on: give a larger one"
            )
        check_longest(mask, name=name)

    def strips(self, mask: np.ndarray, seed: Seed) -> list[np.ndarray]:
        """The whole image, uint8 (H, W, 3), in one strip; each seed is its own patient."""
        return [draw(mask, seed)]
