"""SRResNet, the generator of SRGAN (Ledig et al. 2017, figure 4): the baseline of ResNeXt."""

import functools
from typing import ClassVar

import flax.linen as nn
import jax

from histojax.models.generators.frame import SuperResolution, last_init
from histojax.models.layers import Conv, Network, activate, normalize


class ResidualBlock(Network):
    """x + s f(x), f = two 3x3 convolutions. Attributes as in `SuperResolution`."""

    activation: str = "prelu"
    norm: str = "batch"
    residual_scale: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        bias = self.norm != "batch"
        conv = functools.partial(Conv, x.shape[-1], use_bias=bias, dtype=self.dtype)
        y = normalize(self, self.norm, conv(name="conv_0")(x), "norm_0", train=train)
        y = activate(self.activation, y, name="act")
        y = conv(kernel_init=last_init(self.norm), name="conv_1")(y)
        return x + self.residual_scale * normalize(self, self.norm, y, "norm_1", train=train)


class SRResNet(SuperResolution):
    """Low-resolution RGB to RGB at r times the size; fields as in `SuperResolution`."""

    block: ClassVar[type[nn.Module]] = ResidualBlock
    block_radius: ClassVar[int] = 2
