"""The SRGAN-ResNeXt generator: enhances an image r times through aggregated residual blocks.

Juhong et al. 2023 (Biomed. Opt. Express 14:18), after SRGAN's generator with the blocks of ResNeXt
(Xie et al. 2017, figure 3c). Every choice that the publication leaves open is a field.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from histojax.models.generators.frame import SuperResolution, last_init
from histojax.models.layers import Conv, activate, normalize


class ResNeXtBlock(nn.Module):
    """x + s f(x), f = 1x1 to `width`, grouped 3x3, 1x1 back; normalised, no activation at the end.

    Attributes:
      width: channels of the grouped convolution (ResNeXt's "32x4d": 128 in 32 groups).
      cardinality: number of groups.
      residual_scale: s.
    """

    width: int = 128
    cardinality: int = 32
    activation: str = "prelu"
    norm: str = "batch"
    residual_scale: float = 1.0
    bn_axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        bias = self.norm != "batch"

        def norm_act(y: jax.Array, name: str) -> jax.Array:
            y = normalize(self, self.norm, y, f"{name}_norm", train=train)
            return activate(self.activation, y, name=f"{name}_act")

        y = Conv(self.width, 1, use_bias=bias, dtype=self.dtype, name="reduce")(x)
        y = norm_act(y, "reduce")
        y = Conv(
            self.width, groups=self.cardinality, use_bias=bias, dtype=self.dtype, name="grouped"
        )(y)
        y = norm_act(y, "grouped")
        y = Conv(
            x.shape[-1],
            1,
            use_bias=bias,
            kernel_init=last_init(self.norm),
            dtype=self.dtype,
            name="expand",
        )(y)
        y = normalize(self, self.norm, y, "expand_norm", train=train)
        return x + self.residual_scale * y


class ResNeXt(SuperResolution):
    """Low-resolution RGB to RGB at r times the size, through ResNeXt's blocks.

    Attributes:
      width, cardinality: see `ResNeXtBlock`; all others are those of `SuperResolution`.
    """

    width: int = 128
    cardinality: int = 32

    @nn.nowrap
    def block(self, name: str) -> ResNeXtBlock:
        return ResNeXtBlock(
            self.width,
            self.cardinality,
            self.activation,
            self.norm,
            self.residual_scale,
            self.bn_axis_name,
            self.dtype,
            name=name,
        )
