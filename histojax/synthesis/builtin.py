"""The built-in model's tissue around the nuclei of a mask."""

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
    return rendering.tissue_of(mask, 0, number)


def check_mask(
    mask: np.ndarray, name: str, reason: str, least: int, *, nuclei: bool = True, whole: bool = True
) -> None:
    """Checks that tissue can be made for a label image.

    Args:
        mask: integer (H, W).
        name: of the mask, for the refusal.
        reason: said before "`least` px" of shorter sides, such as "the pyramid is trained on".
        least: shortest side, px.
        nuclei: whether each nucleus needs a label of its own.
        whole: whether tissue is drawn whole, in memory.

    Raises:
        UserError: for a mask without labels, too small or too large, or with several nuclei under
            one label.
    """
    size = f"the mask {name} has {mask.shape[0]} x {mask.shape[1]} px"
    if not mask.any():
        raise UserError(f"the mask {name} is empty: give one with nuclei or classes in it")
    if min(mask.shape) < least:
        raise UserError(f"{size}, and {reason} {least} px on each side: give a larger one")
    if whole and max(mask.shape) > _LONGEST:
        raise UserError(
            f"{size}, and the built-in model draws a whole square of up to {_LONGEST} px on each "
            "side: cut it, or use a pyramid with pyramid.base='colors'"
        )
    if nuclei and len(np.unique(mask)) == 2 and scipy.ndimage.label(mask)[1] > 1:
        raise UserError(f"the mask {name} has one label for several nuclei: give each its own")


@dataclasses.dataclass(frozen=True)
class BuiltinTissue:
    """Makes images for masks of `mpp` um per px as `tissue.Synthesizer` does, without a run."""

    mpp: float | None
    classes = None

    def check(self, mask: np.ndarray, *, name: str) -> None:
        """Checks that tissue can be drawn around a label image; raises as `check_mask`."""
        check_mask(mask, name, "tissue is drawn from", rendering.SMALLEST)

    def strips(self, mask: np.ndarray, seed: Seed) -> list[np.ndarray]:
        """The whole image, uint8 (H, W, 3), in one strip; each seed is its own patient."""
        return [draw(mask, seed)]
