"""The generator that Juhong et al. coded in 2021, before their SRGAN-ResNeXt of 2023.

SRGAN's with one convolution a block, nearest-neighbour upsampling and Keras' batch normalisation.
B batch, H and W low-resolution pixels, r the scale factor.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from histojax.checks import check, one_of
from histojax.models.generators.frame import UPSAMPLING_STEPS, halo
from histojax.models.layers import Conv, full_precision, normalize
from histojax.models.resizing import nearest_upsample

_RULES = {"scale": one_of(UPSAMPLING_STEPS)}


class SingleConvBlock(nn.Module):
    """x + f(x), f = one 3x3 convolution, ReLU, norm."""

    bn_axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        # The bias stays: the activation lies between it and the norm.
        y = nn.relu(Conv(x.shape[-1], 3, dtype=self.dtype, name="conv")(x))
        return x + normalize(self, "keras_batch", y, "norm", train=train)


class Juhong2021(nn.Module):
    """Low-resolution RGB to RGB at r times the size.

    Attributes:
      blocks: number of residual blocks.
      features: channels of the trunk.
      scale: r, one of 2, 3, 4, 8.
      bn_axis_name: device axis over which batch statistics are averaged.
      dtype: computation dtype; parameters and output are float32.
    """

    blocks: int = 16
    features: int = 64
    scale: int = 4
    bn_axis_name: str | None = None
    dtype: Any = jnp.float32

    @property
    def stride(self) -> int:
        """Input pixels to which window origins must be aligned: 1, it is fully convolutional."""
        return 1

    @property
    def halo(self) -> int:
        """Receptive-field radius in low-resolution pixels, worst case over the output's phases."""
        check(vars(self), _RULES, error=ValueError)
        return halo(self.scale, self._field)

    def _field(self, pixel: int) -> tuple[int, int]:
        low, high = pixel - 4, pixel + 4
        for r in reversed(UPSAMPLING_STEPS[self.scale]):
            low, high = (low - 1) // r, (high + 1) // r
        radius = self.blocks + 1 + 4
        return low - radius, high + radius

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Enhances images.

        Args:
          x: (B, H, W, 3), float in [0, 1].
          train: whether BatchNorm uses and updates batch statistics ("batch_stats").

        Returns:
          (B, r H, r W, 3) float32 in [0, 1].

        Raises:
          ValueError: a scale that is not offered.
        """
        check(vars(self), _RULES, error=ValueError)
        x = x.astype(self.dtype)
        x = head = nn.relu(Conv(self.features, 9, dtype=self.dtype, name="head")(x))
        for i in range(self.blocks):
            x = SingleConvBlock(self.bn_axis_name, self.dtype, name=f"block_{i}")(x, train=train)
        x = Conv(self.features, 3, dtype=self.dtype, name="trunk")(x)
        x = head + normalize(self, "keras_batch", x, "trunk_norm", train=train)
        for i, r in enumerate(UPSAMPLING_STEPS[self.scale]):
            x = Conv(256, 3, dtype=self.dtype, name=f"upsample_{i}")(nearest_upsample(x, r))
            x = nn.relu(x)
        x = Conv(3, 9, dtype=self.dtype, name="tail")(x)
        return (jnp.tanh(full_precision(x)) + 1) / 2
