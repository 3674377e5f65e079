"""Inception U-Net: a U-Net whose convolutions are GoogLeNet's parallel branches.

The segmenter of Juhong et al. 2023, whose publication leaves depth, widths and branches open; the
block is that of Szegedy et al. 2015 (figure 2b), the frame that of Ronneberger et al. 2015.
B batch, H and W pixels, C channels; level l of the network lies at 1 / (s 2^l) of the size, s the
stem's stride.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from histojax.models import unet_frame
from histojax.models.layers import (
    Conv,
    full_precision,
    max_pool,
    norm_layer,
    pixel_shuffle,
    upsample,
)


class InceptionBlock(nn.Module):
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
    bn_axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        quarter = self.features // 4

        def conv(y: jax.Array, features: int, kernel: int, name: str) -> jax.Array:
            y = Conv(
                features,
                kernel,
                use_bias=self.norm == "none",
                kernel_init=nn.initializers.he_normal(),
                dtype=self.dtype,
                name=name,
            )(y)
            norm = norm_layer(
                self.norm,
                train=train,
                axis_name=self.bn_axis_name,
                dtype=self.dtype,
                name=f"{name}_norm",
            )
            return norm(y)

        one, three, five = jnp.split(nn.relu(conv(x, 3 * quarter, 1, "reduce")), 3, -1)
        three = nn.relu(conv(three, quarter, 3, "three"))
        if self.five == "5x5":
            five = nn.relu(conv(five, quarter, 5, "five"))
        else:
            five = nn.relu(conv(five, quarter, 3, "five_0"))
            five = nn.relu(conv(five, quarter, 3, "five_1"))
        pooled = max_pool(x, 3, 1, padding=1)
        pooled = nn.relu(conv(pooled, quarter, 1, "pooled"))
        y = jnp.concatenate([one, three, five, pooled], -1)
        if self.fuse:
            y = nn.relu(conv(y, self.features, 1, "fuse"))
        if self.residual:
            if x.shape[-1] != self.features:
                x = conv(x, self.features, 1, "project")
            y = y + x
        return y


class InceptionUNet(nn.Module):
    """RGB to logits at the same size.

    Attributes:
      features: channels of level 0; level l has features * 2^l.
      depth: number of poolings; 4 gives the U-Net's 64 ... 1024.
      blocks_per_level: Inception blocks in each level, in encoder and decoder.
      five, residual, fuse, norm: see `InceptionBlock`; norm is "batch", "none", or "instance",
        which pools over the window: tiles then differ from the whole image.
      upsampling: "transposed" (2x2, stride 2; computed as a 1x1 convolution and a pixel shuffle,
        which is the same operation) or "bilinear" (half-pixel grid, then a 3x3 convolution).
      dropout: rate at the end of the two deepest encoder levels.
      heads: what each of the logits of a pixel is for.
      stem_stride: 1, or 2: level 0 works at half the resolution on 2x2 pixels laid into channels,
        and a 3x3 head with a pixel shuffle restores the full size; about a quarter of the work.
      bn_axis_name: device axis over which batch statistics are averaged.
      dtype: computation dtype; parameters and logits are float32.
    """

    features: int = 64
    depth: int = 4
    blocks_per_level: int = 1
    five: str = "5x5"
    residual: bool = False
    fuse: bool = False
    norm: str = "batch"
    upsampling: str = "transposed"
    dropout: float = 0.0
    heads: tuple[str, ...] = ("mask",)
    stem_stride: int = 1
    bn_axis_name: str | None = None
    dtype: Any = jnp.float32

    @property
    def stride(self) -> int:
        """Input pixels to which image sizes and window origins must be aligned."""
        return self.stem_stride * 2**self.depth

    @property
    def halo(self) -> int:
        """Receptive-field radius in input pixels, worst over the phases, rounded up to stride."""
        return unet_frame.halo(self.stride, self._field)

    def _field(self, pixel: int) -> tuple[int, int]:
        # First and last input pixel that the output pixel depends on, walked from the end.
        level_radius = 2 * self.blocks_per_level
        low = high = pixel // self.stem_stride
        low, high = low - self.stem_stride // 2, high + self.stem_stride // 2
        skips = []
        for _ in range(self.depth):
            low, high = low - level_radius, high + level_radius
            skips.append((low, high))
            if self.upsampling == "bilinear":
                low, high = low - 2, high + 2
            low, high = low // 2, high // 2
        low, high = low - level_radius, high + level_radius
        for skip_low, skip_high in reversed(skips):
            low, high = min(2 * low, skip_low), max(2 * high + 1, skip_high)
            low, high = low - level_radius, high + level_radius
        return low * self.stem_stride, (high + 1) * self.stem_stride - 1

    def setup(self) -> None:
        choices = {
            "five": ("5x5", "3x3x2"),
            "norm": ("batch", "instance", "none"),
            "upsampling": ("transposed", "bilinear"),
            "stem_stride": (1, 2),
        }
        for field, allowed in choices.items():
            value = getattr(self, field)
            if value not in allowed:
                raise ValueError(f"{field}={value!r} is not one of {', '.join(map(str, allowed))}")
        if self.features % 4 or self.features < 4:
            raise ValueError(f"features={self.features} is not a multiple of 4, one a branch")
        if self.depth < 1 or self.blocks_per_level < 1:
            raise ValueError(
                f"depth={self.depth} and blocks_per_level={self.blocks_per_level}: "
                "both must be at least 1"
            )

        def level(features: int, name: str) -> list[InceptionBlock]:
            return [
                InceptionBlock(
                    features=features,
                    five=self.five,
                    residual=self.residual,
                    fuse=self.fuse,
                    norm=self.norm,
                    bn_axis_name=self.bn_axis_name,
                    dtype=self.dtype,
                    name=f"{name}_{i}",
                )
                for i in range(self.blocks_per_level)
            ]

        widths = [self.features * 2**n for n in range(self.depth + 1)]
        self.encoder = [level(w, f"encoder_{n}") for n, w in enumerate(widths)]
        self.decoder = [level(w, f"decoder_{n}") for n, w in enumerate(widths[:-1])]
        transposed = self.upsampling == "transposed"
        self.up = [
            Conv(
                4 * w if transposed else w,
                1 if transposed else 3,
                dtype=self.dtype,
                name=f"up_{n}",
            )
            for n, w in enumerate(widths[:-1])
        ]
        self.drop = nn.Dropout(self.dropout)
        self.head = Conv(
            len(self.heads) * self.stem_stride**2,
            1 if self.stem_stride == 1 else 3,
            dtype=jnp.promote_types(self.dtype, jnp.float32),
            name="head",
        )

    def encode(self, x: jax.Array, *, train: bool) -> dict[str, jax.Array]:
        """The encoder's feature maps, "level0" (finest) ... "level<depth>".

        Args:
          x: (B, H, W, 3), float in [0, 1]; H and W multiples of `stride`.
          train: whether dropout acts and batch statistics are used and updated.

        Returns:
          {"level<l>": (B, H / (s 2^l), W / (s 2^l), features 2^l)}.

        Raises:
          ValueError: H or W is not a multiple of `stride`.
        """
        return unet_frame.encode(
            x,
            self.encoder,
            self.drop,
            stride=self.stride,
            stem_stride=self.stem_stride,
            dtype=self.dtype,
            train=train,
        )

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Segments images.

        Args:
          x: (B, H, W, 3), float in [0, 1]; H and W multiples of `stride`.
          train: whether dropout acts (rng "dropout") and batch statistics are updated.

        Returns:
          Logits (B, H, W, len(heads)), float32.

        Raises:
          ValueError: H or W is not a multiple of `stride`, or a field's value is not offered.
        """
        levels = self.encode(x, train=train)
        y = levels[f"level{self.depth}"]
        for n in reversed(range(self.depth)):
            if self.upsampling == "transposed":
                y = pixel_shuffle(self.up[n](y), 2)
            else:
                y = self.up[n](upsample(y, 2, "bilinear"))
            y = jnp.concatenate([levels[f"level{n}"], y], -1)
            for block in self.decoder[n]:
                y = block(y, train=train)
        logits = self.head(full_precision(y))
        return pixel_shuffle(logits, self.stem_stride) if self.stem_stride > 1 else logits
