"""Stain jitter in the stains of the image itself, rather than in those of a textbook.

Where the fixed vectors of `histojax.data.stain` miss the stains of an image, scaling one of them
changes hues that no staining gives. In the image's own stains, both scales leave the image's hues
between its two stains, and what the two do not explain is left alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from histojax.data import stain
from histojax.data.stain_normalization import StainFit


def sample_parameters(
    fit: StainFit, stain_sigma: float, stain_bias: float, rng: Any
) -> dict[str, Any]:
    """Draws one image's jitter, after Tellez et al. (IEEE Trans. Med. Imaging 37, 2018).

    Args:
      fit: of the image.
      stain_sigma: s of the scale alpha ~ U(1 - s, 1 + s) of each stain, 0 <= s < 1.
      stain_bias: b of the bias beta ~ U(-b, b) of each, as a share of its maximum.
      rng: np.random.Generator, or a JAX key inside a jitted function.

    Returns:
      {"alpha": float32 (3,), "beta": float32 (3,)} for `jitter`, the third of each without effect.
    """
    drawn = stain.sample_parameters(stain_sigma, stain_bias, rng)
    ours = np.array([1, 1, 0], np.float32)
    alpha = 1 + (drawn["alpha"] - 1) * ours
    return {"alpha": alpha, "beta": drawn["beta"] * np.array([*fit.maxima, 0], np.float32)}


def jitter(rgb: Any, fit: StainFit, parameters: dict[str, Any]) -> Any:
    """Scales and shifts the concentrations of an image's own stains; see `stain.jitter`.

    Args:
      rgb: (H, W, 3) uint8, or float in [0, 1]; the image of the fit or a part of it.
      fit: of the whole image.
      parameters: as `sample_parameters` draws them.

    Returns:
      The jittered image, (H, W, 3) of the dtype given (uint8 is rounded; float is float32).
    """
    return stain.jitter(rgb, parameters, fit.basis())
