"""The plain U-Net: two 3x3 convolutions a level, skips, no branches (Ronneberger et al. 2015).

With its defaults it is the network of Juhong et al.'s earlier code (2021), 31,032,837 parameters.
"""

from collections.abc import Mapping
from typing import ClassVar

import flax.linen as nn
import jax

from histojax.checks import Rule, one_of, whole
from histojax.models.layers import Conv, Network, normalize, submodule
from histojax.models.resizing import nearest_upsample
from histojax.models.segmenters.frame import UNetFrame

_HE = nn.initializers.he_normal()
_RULES = {
    "norm": one_of(("none", "batch")),
    "stem_stride": one_of((1, 2)),
    "features": whole(1),
    "depth": whole(1),
    "head_features": whole(0),
}


class DoubleConv(Network):
    """Two 3x3 convolutions, each normalised and followed by ReLU.

    `use_bias`: biases before the normalisation, which cancels them, as some published networks
    have; without normalisation there are always biases.
    """

    features: int
    norm: str = "none"
    use_bias: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        bias = self.use_bias or self.norm == "none"
        for i in range(2):
            x = Conv(self.features, 3, bias, _HE, self.dtype, name=f"conv_{i}")(x)
            x = nn.relu(normalize(self, self.norm, x, f"norm_{i}", train=train))
        return x


class UNet(UNetFrame):
    """RGB to logits at the same size.

    A level of the decoder enlarges by nearest neighbour, convolves 2x2 (each pixel with those to
    its right and below), concatenates the encoder's map and convolves twice.

    Attributes:
      norm: "none" or "batch", after every 3x3 convolution of the levels.
      head_features: channels of a 3x3 convolution with ReLU before the logits; 0 leaves it out.
      All others are those of `UNetFrame`.
    """

    norm: str = "none"
    dropout: float = 0.5
    head_features: int = 2

    rules: ClassVar[Mapping[str, Rule]] = _RULES

    @nn.nowrap
    def level(self, features: int, name: str) -> list[nn.Module]:
        return [submodule(self, DoubleConv, features=features, name=name)]

    @nn.nowrap
    def up_layer(self, features: int, name: str) -> nn.Module:
        return nn.Conv(features, (2, 2), kernel_init=_HE, dtype=self.dtype, name=name)

    @nn.nowrap
    def reach(self) -> tuple[int, int, tuple[int, int]]:
        return self.stem_stride // 2 + (1 if self.head_features else 0), 2, (0, 1)

    def setup(self) -> None:
        super().setup()
        if self.head_features:
            self.before_head = Conv(self.head_features, kernel_init=_HE, dtype=self.wide)

    def enlarge(self, y: jax.Array, n: int) -> jax.Array:
        return nn.relu(self.up[n](nearest_upsample(y, 2)))

    def before_logits(self, y: jax.Array) -> jax.Array:
        return nn.relu(self.before_head(y)) if self.head_features else y
