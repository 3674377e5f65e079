"""The SRGAN-ResNeXt generator: enhances an image r times through aggregated residual blocks.

Juhong et al. 2023 (Biomed. Opt. Express 14:18), after SRGAN's generator with the blocks of ResNeXt
(Xie et al. 2017, figure 3c). Every choice that the publication leaves open is a field.
"""

import functools
from typing import ClassVar

import flax.linen as nn
import jax

from histojax.models.generators.frame import SuperResolution, last_init
from histojax.models.layers import Conv, Network, activate, normalize


class ResNeXtBlock(Network):
    """x + s f(x), f = 1x1 to `width`, grouped 3x3, 1x1 back; normalised, no activation at the end.

    The grouped convolution has `width` channels in `cardinality` groups (ResNeXt's "32x4d": 128 in
    32); s is `residual_scale`.
    """

    width: int = 128
    cardinality: int = 32
    activation: str = "prelu"
    norm: str = "batch"
    residual_scale: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        conv = functools.partial(Conv, use_bias=self.norm != "batch", dtype=self.dtype)

        def norm_act(y: jax.Array, name: str) -> jax.Array:
            y = normalize(self, self.norm, y, f"{name}_norm", train=train)
            return activate(self.activation, y, name=f"{name}_act")

        y = norm_act(conv(self.width, 1, name="reduce")(x), "reduce")
        y = norm_act(conv(self.width, groups=self.cardinality, name="grouped")(y), "grouped")
        y = conv(x.shape[-1], 1, kernel_init=last_init(self.norm), name="expand")(y)
        y = normalize(self, self.norm, y, "expand_norm", train=train)
        return x + self.residual_scale * y


class ResNeXt(SuperResolution):
    """Low-resolution RGB to RGB at r times the size; fields of the block and `SuperResolution`."""

    width: int = 128
    cardinality: int = 32

    block: ClassVar[type[nn.Module]] = ResNeXtBlock
