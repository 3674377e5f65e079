"""SRResNet, the generator of SRGAN (Ledig et al. 2017, figure 4): the baseline of ResNeXt."""

from __future__ import annotations

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from histojax.models.generators.frame import SuperResolution, last_init
from histojax.models.layers import Conv, activate, normalize


class ResidualBlock(nn.Module):
    """x + s f(x), f = two 3x3 convolutions. Attributes as in `SuperResolution`."""

    activation: str = "prelu"
    norm: str = "batch"
    residual_scale: float = 1.0
    bn_axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        y = x
        for i, init in enumerate((nn.initializers.lecun_normal(), last_init(self.norm))):
            y = Conv(
                x.shape[-1],
                3,
                use_bias=self.norm != "batch",
                kernel_init=init,
                dtype=self.dtype,
                name=f"conv_{i}",
            )(y)
            y = normalize(self, self.norm, y, f"norm_{i}", train=train)
            if i == 0:
                y = activate(self.activation, y, name="act")
        return x + self.residual_scale * y


class SRResNet(SuperResolution):
    """Low-resolution RGB to RGB at r times the size; fields as in `SuperResolution`."""

    block_radius: ClassVar[int] = 2

    @nn.nowrap
    def block(self, name: str) -> ResidualBlock:
        return ResidualBlock(
            self.activation,
            self.norm,
            self.residual_scale,
            self.bn_axis_name,
            self.dtype,
            name=name,
        )
