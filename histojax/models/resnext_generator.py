"""The SRGAN-ResNeXt generator: enhances an image r times through aggregated residual blocks.

Juhong et al. 2023 (Biomed. Opt. Express 14:18), after SRGAN's generator (Ledig et al. 2017,
figure 4) with the blocks of ResNeXt (Xie et al. 2017, figure 3c). What the publication leaves
open is a field. B batch, H and W low-resolution pixels, C channels, r the scale factor.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from histojax.models.layers import (
    Conv,
    GroupedConv,
    activate,
    full_precision,
    nearest_upsample,
    norm_layer,
    pixel_shuffle,
    upsample,
)

_SMALL = nn.initializers.variance_scaling(0.01, "fan_in", "truncated_normal")
UPSAMPLING_STEPS = {2: (2,), 3: (3,), 4: (2, 2), 8: (2, 2, 2)}


class ResNeXtBlock(nn.Module):
    """x + s f(x), f = 1x1 to `width`, grouped 3x3, 1x1 back; normalised, no activation at the end.

    Attributes:
      width: channels of the grouped convolution (ResNeXt's "32x4d": 128 in 32 groups).
      cardinality: number of groups.
      residual_scale: s; below 1 it steadies deep networks without normalisation.
      grouped_form: see `layers.grouped_convolve`.
    """

    width: int = 128
    cardinality: int = 32
    activation: str = "prelu"
    norm: str = "batch"
    residual_scale: float = 1.0
    grouped_form: str = "auto"
    bn_axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        bias = self.norm != "batch"

        def normalize(y: jax.Array, name: str) -> jax.Array:
            layer = norm_layer(
                self.norm, train=train, axis_name=self.bn_axis_name, dtype=self.dtype, name=name
            )
            return layer(y)

        y = Conv(self.width, 1, use_bias=bias, dtype=self.dtype, name="reduce")(x)
        y = activate(self.activation, normalize(y, "reduce_norm"), name="reduce_act")
        y = GroupedConv(
            self.width,
            self.cardinality,
            use_bias=bias,
            form=self.grouped_form,
            dtype=self.dtype,
            name="grouped",
        )(y)
        y = activate(self.activation, normalize(y, "grouped_norm"), name="grouped_act")
        y = Conv(
            x.shape[-1],
            1,
            use_bias=bias,
            kernel_init=_last_init(self.norm),
            dtype=self.dtype,
            name="expand",
        )(y)
        y = normalize(y, "expand_norm")
        return x + self.residual_scale * y


class ResidualBlock(nn.Module):
    """x + s f(x), f = two 3x3 convolutions: SRResNet's block, to compare ResNeXt's with.

    Source: Ledig et al. 2017, figure 4. Attributes as in `ResNeXtBlock`.
    """

    activation: str = "prelu"
    norm: str = "batch"
    residual_scale: float = 1.0
    bn_axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        y = x
        for i, init in enumerate((nn.initializers.lecun_normal(), _last_init(self.norm))):
            y = Conv(
                x.shape[-1],
                3,
                use_bias=self.norm != "batch",
                kernel_init=init,
                dtype=self.dtype,
                name=f"conv_{i}",
            )(y)
            y = norm_layer(
                self.norm,
                train=train,
                axis_name=self.bn_axis_name,
                dtype=self.dtype,
                name=f"norm_{i}",
            )(y)
            if i == 0:
                y = activate(self.activation, y, name="act")
        return x + self.residual_scale * y


class SingleConvBlock(nn.Module):
    """x + s f(x), f = one 3x3 convolution, activation, norm: the block of Juhong et al. 2021.

    Attributes as in `ResNeXtBlock`.
    """

    activation: str = "relu"
    norm: str = "keras_batch"
    residual_scale: float = 1.0
    bn_axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        # The bias stays: the activation lies between it and the norm.
        y = Conv(x.shape[-1], 3, kernel_init=_last_init(self.norm), dtype=self.dtype, name="conv")(
            x
        )
        y = norm_layer(
            self.norm, train=train, axis_name=self.bn_axis_name, dtype=self.dtype, name="norm"
        )(activate(self.activation, y, name="act"))
        return x + self.residual_scale * y


def _last_init(norm: str) -> nn.initializers.Initializer:
    """Without normalisation a block starts close to the identity, or deep trunks run away
    (Wang et al. 2018, section 3.1)."""
    return _SMALL if norm == "none" else nn.initializers.lecun_normal()


BLOCKS = {"resnext": ResNeXtBlock, "residual": ResidualBlock, "single": SingleConvBlock}


class ResNeXtGenerator(nn.Module):
    """Low-resolution RGB to RGB at r times the size.

    Attributes:
      blocks: number of residual blocks.
      block: "resnext"; or "residual" for the plain block of SRResNet and "single" for the one
        convolution of Juhong et al. 2021, which have no use for width and cardinality.
      features: channels of the trunk.
      width, cardinality, residual_scale: see `ResNeXtBlock`.
      activation: "prelu" (SRGAN) or "relu".
      norm: "batch", "keras_batch" (see `layers.norm_layer`; convolutions keep their biases) or
        "none".
      head_kernel, tail_kernel: sides of the first and the last convolution; "direct" has no tail
        at high resolution and does not use tail_kernel.
      upsampling: "pixel_shuffle" (a 3x3 convolution to 4 x features, pixel shuffle and activation
        for each doubling), "nearest256" (nearest neighbour, a 3x3 convolution to 256 channels and
        ReLU for each doubling) or "direct" (one 3x3 convolution to 3 r^2 channels at low
        resolution and one pixel shuffle: all the work at low resolution).
      scale: r, one of 2, 3, 4, 8.
      skip: "none", or "bicubic": the network predicts what bicubic interpolation lacks. Its last
        kernel then starts at zero, so an untrained network is bicubic interpolation.
      output: "tanh" (mapped to [0, 1] as (tanh + 1) / 2; with a skip, the residual itself is
        tanh) or "linear".
      bn_axis_name: device axis over which batch statistics are averaged.
      dtype: computation dtype; parameters and output are float32.
    """

    blocks: int = 16
    block: str = "resnext"
    features: int = 64
    width: int = 128
    cardinality: int = 32
    activation: str = "prelu"
    norm: str = "batch"
    head_kernel: int = 9
    tail_kernel: int = 9
    upsampling: str = "pixel_shuffle"
    scale: int = 4
    skip: str = "none"
    output: str = "tanh"
    residual_scale: float = 1.0
    grouped_form: str = "auto"
    bn_axis_name: str | None = None
    dtype: Any = jnp.float32

    @property
    def stride(self) -> int:
        """Input pixels to which window origins must be aligned: 1, it is fully convolutional."""
        return 1

    @property
    def halo(self) -> int:
        """Receptive-field radius in low-resolution pixels, worst case over the output's phases."""
        self._check()
        reach = 0
        for phase in range(self.scale):
            low, high = self._field(phase)
            reach = max(reach, -low, high)
        return reach

    def _field(self, pixel: int) -> tuple[int, int]:
        # First and last low-resolution pixel that the high-resolution pixel depends on.
        low = high = pixel
        if self.upsampling == "direct":
            low, high = low // self.scale - 1, high // self.scale + 1
        else:
            radius = self.tail_kernel // 2
            low, high = low - radius, high + radius
            for r in reversed(UPSAMPLING_STEPS[self.scale]):
                if self.upsampling == "pixel_shuffle":
                    low, high = low // r - 1, high // r + 1
                else:
                    low, high = (low - 1) // r, (high + 1) // r
        per_block = 2 if self.block == "residual" else 1
        radius = per_block * self.blocks + 1 + self.head_kernel // 2
        low, high = low - radius, high + radius
        if self.skip == "bicubic":
            low, high = min(low, -2), max(high, 2)
        return low, high

    def _check(self) -> None:
        choices = {
            "scale": tuple(UPSAMPLING_STEPS),
            "block": tuple(BLOCKS),
            "norm": ("batch", "keras_batch", "none"),
            "activation": ("prelu", "relu"),
            "upsampling": ("pixel_shuffle", "nearest256", "direct"),
            "skip": ("none", "bicubic"),
            "output": ("tanh", "linear"),
        }
        for field, allowed in choices.items():
            value = getattr(self, field)
            if value not in allowed:
                raise ValueError(f"{field}={value!r} is not one of {', '.join(map(str, allowed))}")
        for field in ("head_kernel", "tail_kernel"):
            if getattr(self, field) % 2 == 0:
                raise ValueError(f"{field}={getattr(self, field)} is even: kernels have odd sides")

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Enhances images.

        Args:
          x: (B, H, W, 3), float in [0, 1].
          train: whether BatchNorm uses and updates batch statistics ("batch_stats").

        Returns:
          (B, r H, r W, 3) float32; not clipped, so a skip or a linear output may leave [0, 1].

        Raises:
          ValueError: a field has a value that is not offered.
        """
        self._check()
        images = x
        x = x.astype(self.dtype)
        x = Conv(self.features, self.head_kernel, dtype=self.dtype, name="head")(x)
        x = head = activate(self.activation, x, name="head_act")
        for i in range(self.blocks):
            x = self._block(f"block_{i}")(x, train=train)
        bias = self.norm != "batch"
        x = Conv(self.features, 3, use_bias=bias, dtype=self.dtype, name="trunk")(x)
        x = head + norm_layer(
            self.norm, train=train, axis_name=self.bn_axis_name, dtype=self.dtype, name="trunk_norm"
        )(x)
        y = full_precision(self._upsample(x))
        if self.output == "tanh":
            y = jnp.tanh(y) if self.skip == "bicubic" else (jnp.tanh(y) + 1) / 2
        if self.skip == "bicubic":
            y = y + upsample(full_precision(images), self.scale, "bicubic")
        return y

    def _block(self, name: str) -> nn.Module:
        shared = {
            "activation": self.activation,
            "norm": self.norm,
            "residual_scale": self.residual_scale,
            "bn_axis_name": self.bn_axis_name,
            "dtype": self.dtype,
            "name": name,
        }
        if self.block == "resnext":
            shared |= {
                "width": self.width,
                "cardinality": self.cardinality,
                "grouped_form": self.grouped_form,
            }
        return BLOCKS[self.block](**shared)

    def _upsample(self, x: jax.Array) -> jax.Array:
        """Trunk features (B, H, W, C) to the output before its activation, (B, r H, r W, 3)."""
        last_init = (
            nn.initializers.zeros if self.skip == "bicubic" else nn.initializers.lecun_normal()
        )
        if self.upsampling == "direct":
            channels = 3 * self.scale**2
            x = Conv(channels, 3, kernel_init=last_init, dtype=self.dtype, name="tail")(x)
            return pixel_shuffle(x, self.scale)
        for i, r in enumerate(UPSAMPLING_STEPS[self.scale]):
            name = f"upsample_{i}"
            if self.upsampling == "pixel_shuffle":
                x = Conv(self.features * r * r, 3, dtype=self.dtype, name=name)(x)
                x = activate(self.activation, pixel_shuffle(x, r), name=f"{name}_act")
            else:
                x = nearest_upsample(x, r)
                x = nn.relu(Conv(256, 3, dtype=self.dtype, name=name)(x))
        return Conv(3, self.tail_kernel, kernel_init=last_init, dtype=self.dtype, name="tail")(x)
