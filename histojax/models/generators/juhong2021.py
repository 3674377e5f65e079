"""The generator that Juhong et al. coded in 2021, before their SRGAN-ResNeXt of 2023.

SRGAN's with one convolution a block, nearest-neighbour upsampling and Keras' batch normalisation.
B batch, H and W low-resolution pixels, r the scale factor.
"""

from collections.abc import Mapping
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from histojax.checks import Rule, check, one_of
from histojax.models.generators.frame import UPSAMPLING_STEPS, FullyConvolutional
from histojax.models.layers import Conv, Network, full_precision, normalize, submodule
from histojax.models.resizing import nearest_upsample


class SingleConvBlock(Network):
    """x + f(x), f = one 3x3 convolution, ReLU, norm."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        # The bias stays: the activation lies between it and the norm.
        y = nn.relu(Conv(x.shape[-1], 3, dtype=self.dtype, name="conv")(x))
        return x + normalize(self, "keras_batch", y, "norm", train=train)


class Juhong2021(FullyConvolutional, Network):
    """Low-resolution RGB to RGB at r times the size; fields as in `SuperResolution`."""

    blocks: int = 16
    features: int = 64
    scale: int = 4

    rules: ClassVar[Mapping[str, Rule]] = {"scale": one_of(UPSAMPLING_STEPS)}

    def _field(self, pixel: int) -> tuple[int, int]:
        low, high = pixel - 4, pixel + 4
        for r in reversed(UPSAMPLING_STEPS[self.scale]):
            low, high = (low - 1) // r, (high + 1) // r
        radius = self.blocks + 1 + 4
        return low - radius, high + radius

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """As `SuperResolution`; the output is in [0, 1]."""
        check(vars(self), self.rules, error=ValueError)
        x = x.astype(self.dtype)
        x = head = nn.relu(Conv(self.features, 9, dtype=self.dtype, name="head")(x))
        for i in range(self.blocks):
            x = submodule(self, SingleConvBlock, name=f"block_{i}")(x, train=train)
        x = Conv(self.features, 3, dtype=self.dtype, name="trunk")(x)
        x = head + normalize(self, "keras_batch", x, "trunk_norm", train=train)
        for i, r in enumerate(UPSAMPLING_STEPS[self.scale]):
            x = Conv(256, 3, dtype=self.dtype, name=f"upsample_{i}")(nearest_upsample(x, r))
            x = nn.relu(x)
        x = Conv(3, 9, dtype=self.dtype, name="tail")(x)
        return (jnp.tanh(full_precision(x)) + 1) / 2
