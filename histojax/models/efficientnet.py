"""EfficientNet-Lite0 as an encoder: inverted residuals, without squeeze-and-excitation.

Tan and Le 2019 (table 1), in the form for mobile devices of 2020: ReLU6, the stem fixed at 32
channels, padding as in TensorFlow, after the image first. B batch, H and W pixels, C channels; map
l lies at 1 / 2^(l + 1) of the size.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax

from histojax.models.depthwise import DepthwiseConv
from histojax.models.layers import HE_FAN_OUT, Conv, Network, kept, normalize, submodule

NAME = "efficientnet_lite0"
# Of images in [0, 1], all three channels alike: what is taken off, and divided by.
MEAN, STD = 127 / 255, 128 / 255
# (channels, side of the depthwise kernel) of the blocks of each map from level1 on; the first block
# halves the size.
STAGES = (
    ((24, 3),) * 2,
    ((40, 5),) * 2,
    ((80, 3),) * 3 + ((112, 5),) * 3,
    ((192, 5),) * 4 + ((320, 3),),
)
BLOCKS = tuple(map(len, STAGES))


def field(blocks: Sequence[int], needed: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """First and last input pixel behind intervals of the maps, along one axis.

    `needed` holds the first and last pixel of each map, finest first, one map more than `blocks`.
    """
    low, high = needed[-1]
    for stage in reversed(range(len(blocks))):
        for block in reversed(range(blocks[stage])):
            low, high = _behind(low, high, STAGES[stage][block][1], _stride(block))
        low, high = min(low, needed[stage][0]), max(high, needed[stage][1])
    return _behind(*_behind(low, high, 3, 1), 3, 2)


def _behind(low: int, high: int, side: int, stride: int) -> tuple[int, int]:
    before = (side - stride) // 2
    return stride * low - before, stride * high - before + side - 1


def _stride(block: int) -> int:
    return 2 if block == 0 else 1


class InvertedResidual(Network):
    """1x1 to `expand` times the channels, depthwise, 1x1 to `features`; and x, where it fits."""

    features: int
    kernel_size: int = 3
    stride: int = 1
    expand: int = 6

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        def norm(y: jax.Array, name: str) -> jax.Array:
            return normalize(self, "tf_batch", y, name, train=train)

        def pointwise(y: jax.Array, features: int, name: str) -> jax.Array:
            options = dict(use_bias=False, kernel_init=HE_FAN_OUT, dtype=self.dtype, name=name)
            return Conv(features, 1, **options)(y)

        y = x
        if self.expand > 1:
            y = pointwise(y, self.expand * x.shape[-1], "expand_conv")
            y = nn.relu6(norm(y, "bn0"))
        y = submodule(self, DepthwiseConv, name="depthwise_conv")(y)
        y = nn.relu6(norm(y, "bn1"))
        y = norm(pointwise(y, self.features, "project_conv"), "bn2")
        return y + x if y.shape == x.shape else y


class EfficientNet(Network):
    """An image's feature maps, without pooling over the image and classifier.

    `blocks` are those of each stage from level1 on, by default BLOCKS, each at most as many; their
    number is that of stages.
    """

    blocks: tuple[int, ...] = ()

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> list[jax.Array]:
        """The maps of every level, finest first; ValueError: more blocks than there are.

        H and W of x (B, H, W, 3) are multiples of 2^(stages + 1). Level0 is (B, H / 2, W / 2, 16);
        the next have 24, 40, 112 and 320 channels.
        """
        blocks = self.blocks or BLOCKS
        if len(blocks) > len(BLOCKS) or any(n > m for n, m in zip(blocks, BLOCKS, strict=False)):
            raise ValueError(f"blocks={blocks} of {NAME} are more than its {BLOCKS}")
        options = dict(use_bias=False, kernel_init=HE_FAN_OUT, dtype=self.dtype)
        x = nn.Conv(32, (3, 3), strides=2, name="conv_stem", **options)(x)
        x = kept(nn.relu6(normalize(self, "tf_batch", x, "bn0", train=train)))
        x = submodule(self, InvertedResidual, features=16, expand=1, name="stage0_0")(
            x, train=train
        )
        maps = [kept(x)]
        for stage, count in enumerate(blocks):
            for block, (features, side) in enumerate(STAGES[stage][:count]):
                layer = submodule(
                    self,
                    InvertedResidual,
                    features=features,
                    kernel_size=side,
                    stride=_stride(block),
                    name=f"stage{stage + 1}_{block}",
                )
                x = kept(layer(x, train=train))
            maps.append(x)
        return maps
