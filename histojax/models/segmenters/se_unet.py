"""USE-Net's network: a U-Net whose way down is a pretrained encoder, with several maps at its end.

Rahmon, Toubal and Palaniappan 2021 as they coded it, with SE-ResNet-50, two heads and
`resizing="align_corners"`: 35,037,186 parameters. B batch, H and W pixels, C channels; level l
lies at 1 / 2^(l + 1) of the size.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from histojax.checks import Rule, check, one_of
from histojax.models import efficientnet, resnet
from histojax.models.layers import Conv, full_precision, kept, submodule
from histojax.models.resizing import pixel_shuffle, upsample
from histojax.models.segmenters import frame
from histojax.models.segmenters.unet import DoubleConv
from histojax.models.vgg import IMAGENET_MEAN, IMAGENET_STD

RESIZINGS = {"half_pixel": "bilinear", "align_corners": "bilinear_align_corners"}
_RULES = {
    "encoder": one_of((*resnet.KINDS, efficientnet.NAME)),
    "resizing": one_of(RESIZINGS),
    "blocks": Rule(
        "has stages without a block: each has at least 1", lambda b: min(b, default=1) >= 1
    ),
    "heads": Rule(
        "has to name at least one map, and none twice",
        lambda heads: bool(heads) and len(set(heads)) == len(heads),
    ),
}


class SEUNet(frame.Windowed):
    """RGB to several logits a pixel at the same size.

    A level of the decoder enlarges twice, concatenates the encoder's map and convolves twice.

    Tiles agree with the whole image only without squeeze-and-excitation, which takes means over the
    window, and without align_corners resizing, which depends on the position in the window.

    Attributes:
      encoder: "se_resnet50", "resnet50", "se_resnet18", "resnet18" or "efficientnet_lite0".
      blocks: of the encoder, see `resnet.ResNet` and `efficientnet.EfficientNet`. The number of
        stages may be other than 4, and that of `decoder_features` with it.
      width, se_reduction, se_bias: of a ResNet.
      decoder_features: channels of the decoder's levels, deepest first, one for each stage and one
        for the full size. Without the last, the decoder ends at half the size and the head's
        pixel shuffle restores the full one.
      stem_skip: channels of two 3x3 convolutions on the image, concatenated at the decoder's level
        of full size; 0 leaves them out, as the source codes it (its figure has a skip there).
      resizing: "half_pixel", or the source's "align_corners", under which tiles are not exact.
      heads: names of the maps, in the order of the logits.
      dropout: rate before the head.
      imagenet_input: normalises the image as pretrained weights expect: by ImageNet's mean and
        deviation, or to -1 ... 1 for EfficientNet-Lite0; the source feeds them [0, 1].
    """

    encoder: str = "se_resnet50"
    blocks: tuple[int, ...] = ()
    width: int = 64
    se_reduction: int = 16
    se_bias: bool = False
    decoder_features: tuple[int, ...] = (256, 128, 64, 32, 16)
    stem_skip: int = 0
    resizing: str = "half_pixel"
    heads: tuple[str, ...] = ("mask", "marker")
    dropout: float = 0.0
    imagenet_input: bool = False

    @property
    def _stages(self) -> tuple[int, ...]:
        if self.blocks:
            return self.blocks
        return efficientnet.BLOCKS if self._light else resnet.kind(self.encoder).blocks

    @property
    def _light(self) -> bool:
        return self.encoder == efficientnet.NAME

    @property
    def _full_size(self) -> bool:
        # Whether the decoder has a level of the image's size.
        return len(self.decoder_features) > self.depth

    @property
    def depth(self) -> int:
        """Number of the deepest level."""
        return len(self._stages)

    @property
    def stride(self) -> int:
        return 2 ** (self.depth + 1)

    def _field(self, pixel: int) -> tuple[int, int]:
        # Of the convolutions, as squeeze-and-excitation sees the whole window. Both resizings read
        # the same two pixels.
        low = high = pixel if self._full_size else pixel // 2
        low, high = low - 1, high + 1
        image = (pixel, pixel)
        if self._full_size:
            low, high = low - 2, high + 2
            if self.stem_skip:
                image = (low - 2, high + 2)
            low, high = (low - 1) // 2, (high + 1) // 2
        needed = []
        for _ in range(self.depth):
            low, high = low - 2, high + 2
            needed.append((low, high))
            low, high = (low - 1) // 2, (high + 1) // 2
        needed.append((low, high))
        if self._light:
            low, high = efficientnet.field(self._stages, needed)
        else:
            low, high = resnet.field(self._stages, resnet.kind(self.encoder).bottleneck, needed)
        return min(low, image[0]), max(high, image[1])

    @nn.nowrap
    def encoder_module(self) -> resnet.ResNet | efficientnet.EfficientNet:
        """The encoder by itself; its variables lie under "trunk" of this network's."""
        if self._light:
            return submodule(self, efficientnet.EfficientNet)
        return submodule(self, resnet.ResNet, kind=self.encoder)

    def setup(self) -> None:
        check(vars(self), _RULES, error=ValueError)
        if len(self.decoder_features) not in (self.depth, self.depth + 1):
            raise ValueError(
                f"decoder_features={self.decoder_features} has to have {self.depth + 1} widths for "
                f"an encoder of {self.depth} stages, or {self.depth} to end at half the size"
            )
        if self.stem_skip < 0 or (self.stem_skip and not self._full_size):
            raise ValueError(
                f"stem_skip={self.stem_skip} has to be 0, or above 0 with a level of full size: "
                f"{self.depth + 1} decoder_features"
            )
        self.trunk = self.encoder_module()
        names = [f"decoder_{n}" for n in reversed(range(self.depth))]
        if self._full_size:
            names.append("decoder_full")
        double = functools.partial(submodule, self, DoubleConv, norm="batch")
        self.decoder = [
            double(features=width, use_bias=True, name=name)
            for width, name in zip(self.decoder_features, names, strict=True)
        ]
        if self.stem_skip:
            self.image_skip = double(features=self.stem_skip)
        self.drop = nn.Dropout(self.dropout)
        self.head = Conv(len(self.heads) * (1 if self._full_size else 4), dtype=self.wide)

    def encode(self, x: jax.Array, *, train: bool) -> dict[str, jax.Array]:
        """The encoder's feature maps, "level0" (the stem's) ... "level<stages>", as in `UNetFrame`.

        "level0" is (B, H / 2, W / 2, width), "level<l>" (B, H / 2^(l + 1), W / 2^(l + 1),
        width 2^(l - 1)), four times the channels from level1 on in a ResNet-50; for other channels
        see `efficientnet.EfficientNet`.
        """
        frame.check_size(x, self.stride)
        maps = self.trunk(self._pixels(x), train=train)
        return {f"level{n}": found for n, found in enumerate(maps)}

    def _pixels(self, x: jax.Array) -> jax.Array:
        if self.imagenet_input:
            light = efficientnet.MEAN, efficientnet.STD
            mean, std = light if self._light else (IMAGENET_MEAN, IMAGENET_STD)
            x = (x - jnp.array(mean, x.dtype)) / jnp.array(std, x.dtype)
        return x.astype(self.dtype)

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Logits (B, H, W, len(heads)), float32, of images; see `encode`."""
        levels = self.encode(x, train=train)
        skips = [[levels[f"level{n}"]] for n in reversed(range(self.depth))]
        if self._full_size:
            image = self._pixels(x)
            skips.append([self.image_skip(image, train=train)] if self.stem_skip else [])
        y = levels[f"level{self.depth}"]
        for block, skip in zip(self.decoder, skips, strict=True):
            y = upsample(y, 2, RESIZINGS[self.resizing])
            y = kept(block(jnp.concatenate([y, *skip], -1), train=train))
        logits = self.head(self.drop(full_precision(y), deterministic=not train))
        return logits if self._full_size else pixel_shuffle(logits, 2)
