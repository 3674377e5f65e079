"""The frame of super-resolution generators: a head, residual blocks, enlargement and a tail.

SRGAN's generator (Ledig et al. 2017, figure 4), whose blocks differ from network to network.
B batch, H and W low-resolution pixels, C channels, r the scale factor.
"""

from collections.abc import Mapping
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from histojax.checks import Rule, check, number, one_of, whole
from histojax.models.layers import (
    Conv,
    Network,
    activate,
    full_precision,
    kept,
    normalize,
    submodule,
)
from histojax.models.resizing import (
    block_mean,
    gaussian_blur,
    gaussian_radius,
    pixel_shuffle,
    upsample,
)

_SMALL = nn.initializers.variance_scaling(0.01, "fan_in", "truncated_normal")
UPSAMPLING_STEPS = {2: (2,), 3: (3,), 4: (2, 2), 8: (2, 2, 2)}
_ODD = Rule("is even: kernels have odd sides", lambda side: side % 2 == 1)
RULES = {
    "scale": one_of(UPSAMPLING_STEPS),
    "blocks": whole(0),
    "norm": one_of(("batch", "none")),
    "activation": one_of(("prelu", "relu")),
    "upsampling": one_of(("pixel_shuffle", "direct")),
    "skip": one_of(("none", "bicubic")),
    "output": one_of(("tanh", "linear")),
    "phases": one_of(("free", "alike")),
    "anchor": number(0, 16, of="a sigma in px"),
    "head_kernel": _ODD,
    "tail_kernel": _ODD,
}


def last_init(norm: str) -> nn.initializers.Initializer:
    """The initializer of a block's last kernel.

    Without normalisation a block starts close to the identity, or deep trunks run away
    (Wang et al. 2018, section 3.1).
    """
    return _SMALL if norm == "none" else nn.initializers.lecun_normal()


class FullyConvolutional:
    """The stride and the halo of a generator, from its `rules`, its `scale` and its `_field`."""

    rules: ClassVar[Mapping[str, Rule]]
    scale: int

    @property
    def stride(self) -> int:
        """Input pixels to which window origins must be aligned."""
        return 1

    @property
    def halo(self) -> int:
        """Receptive-field radius in low-resolution pixels, worst case over the output's phases."""
        check(vars(self), self.rules, error=ValueError)
        fields = [self._field(phase) for phase in range(self.scale)]
        return max(0, *(-low for low, _ in fields), *(high for _, high in fields))

    def _field(self, pixel: int) -> tuple[int, int]:
        """First and last low-resolution pixel that a high-resolution pixel depends on."""
        raise NotImplementedError


class SuperResolution(FullyConvolutional, Network):
    """Low-resolution RGB to RGB at r times the size; subclasses give the block.

    Attributes:
      blocks, features: number of residual blocks; channels of the trunk.
      activation: "prelu" (SRGAN) or "relu".
      norm: "batch" or "none".
      head_kernel, tail_kernel: sides of the first and the last convolution; "direct" has no tail
        at high resolution and does not use tail_kernel.
      upsampling: "pixel_shuffle" (a 3x3 convolution to 4 x features, pixel shuffle and activation
        for each doubling) or "direct" (one 3x3 convolution to 3 r^2 channels and one pixel
        shuffle: all the work at low resolution).
      phases: whether the r^2 pixels that a pixel shuffle makes of one are "free", or answer a
        constant "alike": free ones leave a grid of r px where an image is flat.
      scale: r, one of 2, 3, 4, 8.
      skip: "none", or "bicubic": the network predicts what bicubic interpolation lacks. Its last
        kernel then starts at zero, so an untrained network is bicubic interpolation.
      output: "tanh" (mapped to [0, 1] as (tanh + 1) / 2; with a skip, the residual itself is
        tanh) or "linear".
      residual_scale: factor of a block's branch; below 1 it steadies deep networks without norm.
      anchor: sigma of a Gaussian, low-resolution px: what it keeps of the input is kept in the
        output, which cannot drift in color or brightness. 0, and in training: nothing is.
    """

    blocks: int = 16
    features: int = 64
    activation: str = "prelu"
    norm: str = "batch"
    head_kernel: int = 9
    tail_kernel: int = 9
    upsampling: str = "pixel_shuffle"
    phases: str = "free"
    scale: int = 4
    skip: str = "none"
    output: str = "tanh"
    residual_scale: float = 1.0
    anchor: float = 0.0

    rules: ClassVar[Mapping[str, Rule]] = RULES
    # The residual block, (B, H, W, features) to the same shape, and its receptive-field radius.
    block: ClassVar[type[nn.Module]]
    block_radius: ClassVar[int] = 1

    def _field(self, pixel: int) -> tuple[int, int]:
        low = high = pixel
        if self.upsampling == "direct":
            low, high = low // self.scale - 1, high // self.scale + 1
        else:
            radius = self.tail_kernel // 2
            low, high = low - radius, high + radius
            for r in reversed(UPSAMPLING_STEPS[self.scale]):
                low, high = low // r - 1, high // r + 1
        radius = self.block_radius * self.blocks + 1 + self.head_kernel // 2
        low, high = low - radius, high + radius
        if self.skip == "bicubic":
            low, high = min(low, -2), max(high, 2)
        return low, high

    @property
    def halo(self) -> int:
        """As of the network, and beyond it what the anchor blurs and enlarges."""
        beyond = 2 * gaussian_radius(self.anchor) + 2 if self.anchor else 0
        return super().halo + beyond

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Enhances images, (B, H, W, 3) in [0, 1] -> (B, r H, r W, 3) float32.

        The output is not clipped, so a skip or a linear output may leave [0, 1]. `train`: whether
        BatchNorm uses and updates batch statistics.

        Raises:
            ValueError: a field breaks its rule.
        """
        check(vars(self), RULES, error=ValueError)
        images = x
        x = x.astype(self.dtype)
        x = Conv(self.features, self.head_kernel, dtype=self.dtype, name="head")(x)
        x = head = kept(activate(self.activation, x, name="head_act"))
        for i in range(self.blocks):
            x = kept(submodule(self, self.block, name=f"block_{i}")(x, train=train))
        bias = self.norm != "batch"
        x = Conv(self.features, 3, use_bias=bias, dtype=self.dtype, name="trunk")(x)
        x = head + normalize(self, self.norm, x, "trunk_norm", train=train)
        y = full_precision(self._enlarge(x))
        if self.output == "tanh":
            y = jnp.tanh(y) if self.skip == "bicubic" else (jnp.tanh(y) + 1) / 2
        if self.skip == "bicubic":
            y = y + upsample(full_precision(images), self.scale, "bicubic")
        if self.anchor and not train:
            # Not in training, which would leave the network's own low frequencies to themselves:
            # that cost 1 dB on 21 tiles of a real field.
            missing = full_precision(images) - block_mean(y, self.scale)
            # Twice: of what the Gaussian passes by a share g, one pass leaves 1 - g, two (1 - g)^2.
            low = gaussian_blur(missing, self.anchor)
            low = low + gaussian_blur(missing - low, self.anchor)
            y = y + upsample(low, self.scale, "bicubic")
        return y

    def _enlarge(self, x: jax.Array) -> jax.Array:
        # Trunk features (B, H, W, C) to the output before its activation, (B, r H, r W, 3).
        init = nn.initializers.zeros if self.skip == "bicubic" else nn.initializers.lecun_normal()
        steps = (self.scale,) if self.upsampling == "direct" else UPSAMPLING_STEPS[self.scale]
        alike = [r * r if self.phases == "alike" else 1 for r in steps]
        if self.upsampling == "direct":
            channels = 3 * self.scale**2
            conv = Conv(channels, kernel_init=init, dtype=self.dtype, alike=alike[0], name="tail")
            return pixel_shuffle(conv(x), self.scale)
        for i, r in enumerate(steps):
            channels = self.features * r * r
            x = Conv(channels, dtype=self.dtype, alike=alike[i], name=f"upsample_{i}")(x)
            x = activate(self.activation, pixel_shuffle(x, r), name=f"upsample_{i}_act")
        return Conv(3, self.tail_kernel, kernel_init=init, dtype=self.dtype, name="tail")(x)
