"""VGG19's convolutional part as a feature network.

Simonyan & Zisserman 2015, table 1, column E.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from histojax.models.layers import Conv, max_pool

BLOCKS = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))
LAYERS = tuple(f"{b}_{i}" for b, (_, n) in enumerate(BLOCKS, 1) for i in range(1, n + 1))
TAPS = tuple(f"{kind}{layer}" for layer in LAYERS for kind in ("conv", "relu"))
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class VGG19(nn.Module):
    """Feature maps of VGG19; ImageNet's mean and deviation are taken off inside.

    Attributes:
      dtype: computation dtype; parameters and feature maps are float32.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, taps: Sequence[str] = TAPS[-1:], *, train: bool = False
    ) -> dict[str, jax.Array]:
        """Computes the named feature maps, and no layer beyond the deepest of them.

        Args:
          x: (B, H, W, 3), RGB in [0, 1].
          taps: names among "relu1_1" ... "relu5_4", or "conv1_1" ... before the ReLU.
          train: without effect; the call is that of every network.

        Returns:
          {tap: (B, h, w, C) float32}; block b is at 1 / 2^(b - 1) of the size, rounded down.

        Raises:
          ValueError: a tap that there is not, or an image too small for the deepest one.
        """
        del train
        unknown = [tap for tap in taps if tap not in TAPS]
        if unknown or not taps:
            raise ValueError(f"taps {unknown or taps!r} of VGG19: choose from {', '.join(TAPS)}")
        deepest = max(TAPS.index(tap) for tap in taps)
        least = 2 ** (int(TAPS[deepest][4]) - 1)
        if min(x.shape[1:3]) < least:
            raise ValueError(
                f"an image of {x.shape[1]} x {x.shape[2]} pixels is too small for "
                f"{TAPS[deepest]} of VGG19: it needs {least} x {least} or more"
            )
        found = {}
        x = (x - jnp.array(IMAGENET_MEAN, x.dtype)) / jnp.array(IMAGENET_STD, x.dtype)
        x = x.astype(self.dtype)
        for index, layer in enumerate(LAYERS[: deepest // 2 + 1]):
            if index and layer.endswith("_1"):
                x = max_pool(x, 2, 2)
            x = Conv(BLOCKS[int(layer[0]) - 1][0], dtype=self.dtype, name=f"conv{layer}")(x)
            if f"conv{layer}" in taps:
                found[f"conv{layer}"] = x.astype(jnp.float32)
            x = nn.relu(x)
            if f"relu{layer}" in taps:
                found[f"relu{layer}"] = x.astype(jnp.float32)
        return {tap: found[tap] for tap in taps}
