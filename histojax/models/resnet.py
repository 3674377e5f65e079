"""ResNet encoders in torchvision's form, with or without squeeze-and-excitation.

He et al. 2016 (table 1, figure 5) with the stride in the 3x3 convolution of a bottleneck, as
torchvision and timm have it; squeeze-and-excitation after Hu et al. 2018 (eq. 2-4). B batch, H and
W pixels, C channels; map l of an encoder lies at 1 / 2^(l + 1) of the size.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from histojax.checks import check, one_of
from histojax.models.layers import HE_FAN_OUT, Conv, Network, kept, max_pool, normalize, submodule


class Kind(NamedTuple):
    """A kind of ResNet, with the blocks of each stage.

    A bottleneck is 1x1, 3x3, 1x1 with four times the channels at the end; other blocks are two 3x3.
    Squeeze-and-excitation weighs the channels of a block before its sum.
    """

    bottleneck: bool
    squeeze_excitation: bool
    blocks: tuple[int, ...]


KINDS = {
    "resnet18": Kind(False, False, (2, 2, 2, 2)),
    "se_resnet18": Kind(False, True, (2, 2, 2, 2)),
    "resnet50": Kind(True, False, (3, 4, 6, 3)),
    "se_resnet50": Kind(True, True, (3, 4, 6, 3)),
}


def kind(name: str) -> Kind:
    """The kind of a name; ValueError for an unknown one."""
    check({"encoder": name}, {"encoder": one_of(KINDS)}, error=ValueError)
    return KINDS[name]


def field(
    blocks: Sequence[int], bottleneck: bool, needed: Sequence[tuple[int, int]]
) -> tuple[int, int]:
    """First and last input pixel behind intervals of an encoder's maps, along one axis.

    `blocks` and `bottleneck` are those of `Kind`; `needed` holds the first and last pixel of each
    map, finest first, one map more than stages. Squeeze-and-excitation, which sees everything, is
    left out of account.
    """
    low, high = needed[-1]
    for stage in reversed(range(len(blocks))):
        for block in reversed(range(blocks[stage])):
            if not bottleneck:
                low, high = low - 1, high + 1
            stride = _stride(stage, block)
            low, high = stride * low - 1, stride * high + 1
        if stage == 0:
            low, high = 2 * low - 1, 2 * high + 1
        low, high = min(low, needed[stage][0]), max(high, needed[stage][1])
    return 2 * low - 3, 2 * high + 3


def _stride(stage: int, block: int) -> int:
    # The first stage follows a pooling, and keeps its size.
    return 2 if stage > 0 and block == 0 else 1


def _conv(x: jax.Array, features: int, kernel: int, stride: int, dtype: Any, name: str):
    # SAME pads (0, 1) at stride 2 on even sides, where PyTorch pads alike on both.
    options = dict(use_bias=False, kernel_init=HE_FAN_OUT, dtype=dtype, name=name)
    if stride == 1 or kernel == 1:
        return Conv(features, kernel, **options)(x[:, ::stride, ::stride])
    conv = nn.Conv(features, (kernel, kernel), strides=stride, padding=kernel // 2, **options)
    return conv(x)


class SqueezeExcitation(Network):
    """Weighs channels by their means over the window (Hu et al. 2018, eq. 2-4).

    The hidden layer has one channel for every `reduction` channels. timm has biases in both layers;
    Hu et al. and USE-Net's source have none.
    """

    reduction: int = 16
    use_bias: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def layer(features: int, name: str) -> Conv:
            return Conv(features, 1, self.use_bias, dtype=self.dtype, name=name)

        channels = x.shape[-1]
        mean = jnp.mean(x, (1, 2), keepdims=True)
        hidden = nn.relu(layer(max(channels // self.reduction, 1), "fc1")(mean))
        return x * nn.sigmoid(layer(channels, "fc2")(hidden))


class Block(Network):
    """A residual block; the shortcut is a 1x1 convolution where size or channels change.

    `features` are the channels inside, of which a bottleneck puts out four times as many, and
    `stride` is that of the first 3x3 convolution. Others are as in `Kind` and `ResNet`.
    """

    features: int
    stride: int
    bottleneck: bool
    squeeze_excitation: bool
    se_reduction: int = 16
    se_bias: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        def conv_norm(x: jax.Array, shape: tuple[int, int, int], conv: str, norm: str) -> jax.Array:
            x = _conv(x, *shape, self.dtype, conv)
            return normalize(self, "batch", x, norm, train=train)

        width, out = self.features, self.features * (4 if self.bottleneck else 1)
        # (channels, kernel, stride) of each.
        convolutions = [(width, 3, self.stride), (out, 3, 1)]
        if self.bottleneck:
            convolutions = [(width, 1, 1), (width, 3, self.stride), (out, 1, 1)]
        y = x
        for i, shape in enumerate(convolutions, 1):
            y = conv_norm(y if i == 1 else nn.relu(y), shape, f"conv{i}", f"bn{i}")
        if self.squeeze_excitation:
            y = SqueezeExcitation(self.se_reduction, self.se_bias, dtype=self.dtype, name="se")(y)
        if self.stride > 1 or x.shape[-1] != out:
            x = conv_norm(x, (out, 1, self.stride), "downsample_conv", "downsample_bn")
        return nn.relu(y + x)


class ResNet(Network):
    """An image's feature maps, without pooling over the image and classifier.

    `kind` is a name of `KINDS`; `blocks` are those of each stage, by default the kind's, and their
    number is that of stages. The stem and the first stage's 3x3 convolutions have `width` channels;
    each stage doubles them. For `se_reduction` and `se_bias` see `SqueezeExcitation`.
    """

    kind: str = "resnet50"
    blocks: tuple[int, ...] = ()
    width: int = 64
    se_reduction: int = 16
    se_bias: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> list[jax.Array]:
        """The maps of the stem and of every stage, finest first; ValueError for an unknown kind.

        H and W of x (B, H, W, 3) are multiples of 2^(stages + 1). The stem's map is (B, H / 2,
        W / 2, width), that of stage s from 0 (B, H / 2^(s + 2), W / 2^(s + 2), width 2^s), in a
        bottleneck with four times the channels.
        """
        which = kind(self.kind)
        x = _conv(x, self.width, 7, 2, self.dtype, "conv1")
        x = kept(nn.relu(normalize(self, "batch", x, "bn1", train=train)))
        maps = [x]
        x = max_pool(x, 3, 2, padding=1)
        for stage, count in enumerate(self.blocks or which.blocks):
            for block in range(count):
                layer = submodule(
                    self,
                    Block,
                    features=self.width * 2**stage,
                    stride=_stride(stage, block),
                    bottleneck=which.bottleneck,
                    squeeze_excitation=which.squeeze_excitation,
                    name=f"layer{stage + 1}_{block}",
                )
                x = kept(layer(x, train=train))
            maps.append(x)
        return maps
