"""The generator of one scale of the pyramid, which makes an image for a mask.

Li et al. 2022 (Med. Image Anal. 75:102251) as their development code has it: the generator of
pix2pixHD (Wang et al. 2018, section 3.1) fed with the image of the scale below, as in SinGAN
(Shaham et al. 2019, eq. 2). B batch, H and W pixels of this scale, C labels.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from histojax.checks import check, one_of
from histojax.models.layers import Conv, Network, full_precision, kept, normalize, submodule
from histojax.models.resizing import nearest_upsample
from histojax.models.segmenters import frame

_RULES = {"conditioning": one_of(("concat", "spade"))}
_INIT = nn.initializers.normal(0.02)
# Channels of the hidden layer from which SPADE's scale and offset are made, at most.
_SPADE_HIDDEN = 128


class Spade(Network):
    """Normalisation whose scale and offset follow the mask (Park et al. 2019, eq. 1).

    `norm`, "batch" or "none", has no learned scale and offset of its own; `hidden` are the channels
    between the mask and both.
    """

    norm: str = "batch"
    hidden: int = _SPADE_HIDDEN

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array, *, train: bool) -> jax.Array:
        """(B, H, W, features), (B, n H, n W, C) in [0, 1] -> (B, H, W, features)."""
        if self.norm == "batch":
            x = nn.BatchNorm(
                use_running_average=not train,
                momentum=0.9,
                epsilon=1e-5,
                use_bias=False,
                use_scale=False,
                axis_name=self.bn_axis_name if train else None,
                dtype=self.dtype,
                name="norm",
            )(x)
        factor = mask.shape[1] // x.shape[1]
        if factor > 1:
            mask = nn.avg_pool(mask, (factor, factor), (factor, factor))
        shared = nn.relu(Conv(self.hidden, dtype=self.dtype, name="shared")(mask))
        conv = functools.partial(Conv, x.shape[-1], kernel_init=_INIT, dtype=self.dtype)
        return x * (1 + conv(name="scale")(shared)) + conv(name="offset")(shared)


class PyramidGenerator(frame.Windowed):
    """Mask, noise and the image of the scale below to the image of this scale.

    The generator adds half a tanh to the image below, so that a mid-grey image can become any
    other. The sum is not cut to [0, 1]. The collection "noise" holds the "amplitude" of the noise,
    1 at first; the training sets it.

    The source pads by reflection and enlarges by transposed convolutions. This module pads by zero
    and enlarges by nearest neighbour and a convolution of as many parameters, which leaves no
    checkerboard (Odena et al. 2016).

    Attributes:
      features: channels at full size; each of the downsamplings, by 2, doubles them.
      blocks: residual blocks at the smallest size.
      conditioning: "concat", mask and image concatenated, or "spade", which also normalises by it.
      norm: "batch", "instance" (then tiles are not exact) or "none"; "spade" takes batch or none.
      adds_nothing: whether the last kernel is zero at first, so that an untrained generator
        returns the image of the scale below.
    """

    features: int = 64
    downsamplings: int = 3
    blocks: int = 9
    conditioning: str = "concat"
    norm: str = "batch"
    adds_nothing: bool = False

    @property
    def stride(self) -> int:
        return 2**self.downsamplings

    def _field(self, pixel: int) -> tuple[int, int]:
        # What SPADE reads of the mask is counted as if it were read of the features.
        spade = 2 if self.conditioning == "spade" else 0
        low, high = pixel - 3, pixel + 3
        for _ in range(self.downsamplings):
            low, high = (low - spade - 1) // 2, (high + spade + 1) // 2
        radius = self.blocks * 2 * (1 + spade)
        low, high = low - radius, high + radius
        for _ in range(self.downsamplings):
            low, high = 2 * (low - spade) - 1, 2 * (high + spade) + 1
        # A pooled mask brings the pixels of its whole square along.
        square = self.stride - 1 if spade else 0
        return low - spade - square - 3, high + spade + square + 3

    @nn.compact
    def __call__(
        self, below: jax.Array, noise: jax.Array, mask: jax.Array, *, train: bool
    ) -> jax.Array:
        """Generates images (B, H, W, 3), float32, about [0, 1].

        `below` (B, H, W, 3) is the enlarged image of the scale below, at the lowest scale what a
        pyramid starts from; `noise` (B, H, W, 1) has variance 1 and `mask` (B, H, W, C) is one-hot.

        Raises:
            ValueError: H or W is not a multiple of `stride`, or a field's value is not offered.
        """
        check(vars(self), _RULES, error=ValueError)
        if self.conditioning == "spade" and self.norm == "instance":
            raise ValueError("conditioning='spade' normalises by batch or none, not by instance")
        frame.check_size(below, self.stride)
        mask = mask.astype(self.dtype)

        def conv(x: jax.Array, width: int, name: str, *, side: int = 3, stride: int = 1):
            bias = self.norm == "none" or self.conditioning == "spade"
            options = dict(use_bias=bias, kernel_init=_INIT, dtype=self.dtype, name=name)
            if stride == 1:
                return Conv(width, side, **options)(x)
            return nn.Conv(width, (side, side), strides=stride, padding=side // 2, **options)(x)

        def norm(x: jax.Array, name: str) -> jax.Array:
            if self.conditioning == "concat":
                return normalize(self, self.norm, x, name, train=train)
            hidden = min(_SPADE_HIDDEN, 2 * self.features)
            return submodule(self, Spade, hidden=hidden, name=name)(x, mask, train=train)

        amplitude = self.variable("noise", "amplitude", jnp.ones, ())
        noisy = 2 * below - 1 + amplitude.value * noise
        x = jnp.concatenate([noisy, 2 * mask - 1], -1).astype(self.dtype)
        x = kept(nn.relu(norm(conv(x, self.features, "stem", side=7), "stem_norm")))
        width = self.features
        for n in range(self.downsamplings):
            width *= 2
            x = kept(nn.relu(norm(conv(x, width, f"down_{n}", stride=2), f"down_{n}_norm")))
        for n in range(self.blocks):
            y = nn.relu(norm(conv(x, width, f"block_{n}_0"), f"block_{n}_0_norm"))
            x = kept(x + norm(conv(y, width, f"block_{n}_1"), f"block_{n}_1_norm"))
        for n in reversed(range(self.downsamplings)):
            width //= 2
            x = kept(nn.relu(norm(conv(nearest_upsample(x, 2), width, f"up_{n}"), f"up_{n}_norm")))
        last = nn.initializers.zeros if self.adds_nothing else _INIT
        added = Conv(3, 7, kernel_init=last, dtype=self.dtype, name="image")(x)
        return full_precision(below) + 0.5 * jnp.tanh(full_precision(added))
