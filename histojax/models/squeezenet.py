"""SqueezeNet 1.1 without its classifier, as a small feature network (Iandola et al. 2016)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from histojax.models.layers import Conv, max_pool

# Fire module: (squeeze, expand) channels; those in POOLED follow a max pooling.
FIRES = {
    "fire2": (16, 64),
    "fire3": (16, 64),
    "fire4": (32, 128),
    "fire5": (32, 128),
    "fire6": (48, 192),
    "fire7": (48, 192),
    "fire8": (64, 256),
    "fire9": (64, 256),
}
POOLED = ("fire2", "fire4", "fire6")
TAPS = ("conv1", *FIRES)
# Grey levels, blue-green-red: the mean that the Caffe model and its Keras conversion subtract.
BGR_MEAN = (104.006, 116.669, 122.679)


class SqueezeNet(nn.Module):
    """Feature maps of SqueezeNet 1.1 with the unpadded borders of its Keras conversion.

    The Keras weights were converted from Caffe and see blue-green-red grey levels less their
    mean; red-green-blue input in [0, 1] is brought to that form inside.

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
          taps: names among "conv1" and "fire2" ... "fire9" (all after their ReLU).
          train: without effect; the call is that of every network.

        Returns:
          {tap: (B, h, w, C) float32}.

        Raises:
          ValueError: a tap that there is not, or an image too small for the deepest one.
        """
        del train
        unknown = [tap for tap in taps if tap not in TAPS]
        if unknown or not taps:
            raise ValueError(
                f"taps {unknown or taps!r} of SqueezeNet 1.1: choose from {', '.join(TAPS)}"
            )
        deepest = max(TAPS.index(tap) for tap in taps)
        least = 3
        for _ in [name for name in TAPS[: deepest + 1] if name in POOLED]:
            least = 2 * least + 1
        if min(x.shape[1:3]) < least:
            raise ValueError(
                f"an image of {x.shape[1]} x {x.shape[2]} pixels is too small for "
                f"{TAPS[deepest]} of SqueezeNet 1.1: it needs {least} x {least} or more"
            )
        found = {}
        x = (255 * x[..., ::-1] - jnp.array(BGR_MEAN, x.dtype)).astype(self.dtype)
        conv1 = nn.Conv(64, (3, 3), strides=2, padding="VALID", dtype=self.dtype, name="conv1")
        found["conv1"] = x = nn.relu(conv1(x))
        for name in TAPS[1 : deepest + 1]:
            if name in POOLED:
                x = max_pool(x, 3, 2)
            found[name] = x = Fire(*FIRES[name], dtype=self.dtype, name=name)(x)
        return {tap: found[tap].astype(jnp.float32) for tap in taps}


class Fire(nn.Module):
    """1x1 to `squeeze` channels, then 1x1 and 3x3 to `expand` channels each, side by side."""

    squeeze: int
    expand: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(Conv(self.squeeze, 1, dtype=self.dtype, name="squeeze1x1")(x))
        one = Conv(self.expand, 1, dtype=self.dtype, name="expand1x1")(x)
        three = Conv(self.expand, 3, dtype=self.dtype, name="expand3x3")(x)
        return nn.relu(jnp.concatenate([one, three], -1))
