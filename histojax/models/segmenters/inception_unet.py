"""Inception U-Net: a U-Net whose convolutions are GoogLeNet's parallel branches.

The segmenter of Juhong et al. 2023, whose publication leaves depth, widths and branches open; the
block is that of Szegedy et al. 2015 (figure 2b), the frame that of Ronneberger et al. 2015.
"""

from collections.abc import Mapping
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from histojax.checks import Rule, one_of, whole
from histojax.models.layers import Conv, Network, max_pool, normalize, submodule
from histojax.models.resizing import pixel_shuffle, upsample
from histojax.models.segmenters.frame import UNetFrame

_RULES = {
    "five": one_of(("5x5", "3x3x2")),
    "norm": one_of(("batch", "instance", "none")),
    "upsampling": one_of(("transposed", "bilinear")),
    "stem_stride": one_of((1, 2)),
    "features": Rule("is not a multiple of 4, one a branch", lambda n: n >= 4 and n % 4 == 0),
    "depth": whole(1),
    "blocks_per_level": whole(1),
}


class InceptionBlock(Network):
    """Four branches of a quarter of the filters each, side by side, normalised, ReLU.

    1x1; 1x1 then 3x3; 1x1 then 5x5 (or two 3x3); 3x3 max pooling then 1x1. The three 1x1 on the
    common input are one convolution.

    Attributes:
      features: output channels, a multiple of 4.
      five: "5x5" or "3x3x2".
      residual: adds the input, through a 1x1 convolution where the channels differ.
      fuse: mixes the branches by a closing 1x1 convolution.
    """

    features: int
    five: str = "5x5"
    residual: bool = False
    fuse: bool = False
    norm: str = "batch"

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        quarter, bias = self.features // 4, self.norm == "none"
        he_normal = nn.initializers.he_normal()

        def conv(y: jax.Array, features: int, kernel: int, name: str) -> jax.Array:
            y = Conv(features, kernel, bias, he_normal, self.dtype, name=name)(y)
            return normalize(self, self.norm, y, f"{name}_norm", train=train)

        one, three, five = jnp.split(nn.relu(conv(x, 3 * quarter, 1, "reduce")), 3, -1)
        three = nn.relu(conv(three, quarter, 3, "three"))
        if self.five == "5x5":
            five = nn.relu(conv(five, quarter, 5, "five"))
        else:
            five = nn.relu(conv(five, quarter, 3, "five_0"))
            five = nn.relu(conv(five, quarter, 3, "five_1"))
        pooled = nn.relu(conv(max_pool(x, 3, 1, padding=1), quarter, 1, "pooled"))
        y = jnp.concatenate([one, three, five, pooled], -1)
        if self.fuse:
            y = nn.relu(conv(y, self.features, 1, "fuse"))
        if self.residual:
            if x.shape[-1] != self.features:
                x = conv(x, self.features, 1, "project")
            y = y + x
        return y


class InceptionUNet(UNetFrame):
    """RGB to logits at the same size.

    Attributes:
      blocks_per_level: Inception blocks in each level, in encoder and decoder.
      five, residual, fuse: see `InceptionBlock`.
      norm: "batch", "none", or "instance", which pools over the window, so that tiles differ from
        the whole image.
      upsampling: "transposed" (2x2, stride 2; computed as a 1x1 convolution and a pixel shuffle,
        which is the same operation) or "bilinear" (half-pixel grid, then a 3x3 convolution).
      All others are those of `UNetFrame`.
    """

    blocks_per_level: int = 1
    five: str = "5x5"
    residual: bool = False
    fuse: bool = False
    upsampling: str = "transposed"

    rules: ClassVar[Mapping[str, Rule]] = _RULES

    @nn.nowrap
    def level(self, features: int, name: str) -> list[nn.Module]:
        names = [f"{name}_{i}" for i in range(self.blocks_per_level)]
        return [submodule(self, InceptionBlock, features=features, name=name) for name in names]

    @nn.nowrap
    def up_layer(self, features: int, name: str) -> nn.Module:
        if self.upsampling == "transposed":
            return Conv(4 * features, 1, dtype=self.dtype, name=name)
        return Conv(features, 3, dtype=self.dtype, name=name)

    @nn.nowrap
    def reach(self) -> tuple[int, int, tuple[int, int]]:
        enlargement = (2, 2) if self.upsampling == "bilinear" else (0, 0)
        return self.stem_stride // 2, 2 * self.blocks_per_level, enlargement

    def enlarge(self, y: jax.Array, n: int) -> jax.Array:
        if self.upsampling == "transposed":
            return pixel_shuffle(self.up[n](y), 2)
        return self.up[n](upsample(y, 2, "bilinear"))
