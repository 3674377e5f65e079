"""SqueezeNet 1.1 without its classifier, as a small feature network (Iandola et al. 2016)."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from histojax.models.layers import Conv, deepest_tap, max_pool

# Fire module: (squeeze, expand) channels, from (16, 64) to (64, 256); those in POOLED follow a max
# pooling.
FIRES = {f"fire{n}": (16 * (n // 2), 64 * (n // 2)) for n in range(2, 10)}
POOLED = ("fire2", "fire4", "fire6")
TAPS = ("conv1", *FIRES)
# Least sides, px: 3 for the first convolution, and a pixel more than twice as many a pooling.
_SIDES = [2 ** (2 + sum(p in TAPS[: n + 1] for p in POOLED)) - 1 for n in range(len(TAPS))]
# Grey levels, blue-green-red: the mean that Caffe models and their Keras conversions subtract.
BGR_MEAN = (104.006, 116.669, 122.679)


class SqueezeNet(nn.Module):
    """Feature maps of SqueezeNet 1.1 with the unpadded borders of its Keras conversion.

    The Keras weights were converted from Caffe and see blue-green-red grey levels less their mean;
    red-green-blue input in [0, 1] is brought to that form inside. `dtype` is that of computation;
    parameters and feature maps are float32.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, taps: Sequence[str] = TAPS[-1:], *, train: bool = False
    ) -> dict[str, jax.Array]:
        """As `VGG19`, with the taps "conv1" and "fire2" ... "fire9" (all after their ReLU)."""
        del train
        deepest = deepest_tap("SqueezeNet 1.1", x, taps, TAPS, _SIDES)
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
