"""The plain U-Net: two 3x3 convolutions a level, skips, no branches (Ronneberger et al. 2015).

With its defaults the network of Juhong et al.'s earlier code (2021), 31,032,837 parameters. B
batch, H and W pixels, C channels; level l lies at 1 / (s 2^l) of the size, s the stem's stride.
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
    nearest_upsample,
    norm_layer,
    pixel_shuffle,
)

_HE = nn.initializers.he_normal()


class DoubleConv(nn.Module):
    """Two 3x3 convolutions, each normalised and followed by ReLU.

    Attributes:
      use_bias: biases before the normalisation, which takes them off again, as some published
        networks have them; without normalisation they are there in any case.
    """

    features: int
    norm: str = "none"
    bn_axis_name: str | None = None
    dtype: Any = jnp.float32
    use_bias: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        for i in range(2):
            x = Conv(
                self.features,
                use_bias=self.use_bias or self.norm == "none",
                kernel_init=_HE,
                dtype=self.dtype,
                name=f"conv_{i}",
            )(x)
            norm = norm_layer(
                self.norm,
                train=train,
                axis_name=self.bn_axis_name,
                dtype=self.dtype,
                name=f"norm_{i}",
            )
            x = nn.relu(norm(x))
        return x


class UNet(nn.Module):
    """RGB to logits at the same size.

    A level of the decoder enlarges by nearest neighbour, convolves 2x2 (each pixel with those to
    its right and below), puts the encoder's map beside it and convolves twice.

    Attributes:
      features: channels of level 0; level l has features * 2^l.
      depth: number of poolings; 4 gives 64 ... 1024 channels.
      norm: "none" or "batch", after every 3x3 convolution of the levels.
      dropout: rate at the end of the two deepest encoder levels.
      head_features: channels of a 3x3 convolution with ReLU before the logits; 0 leaves it out.
      heads: what each of the logits of a pixel is for.
      stem_stride: 1, or 2: level 0 works at half the resolution on 2x2 pixels laid into channels,
        and a 3x3 head with a pixel shuffle restores the full size.
      bn_axis_name: device axis over which batch statistics are averaged.
      dtype: computation dtype; parameters and logits are float32.
    """

    features: int = 64
    depth: int = 4
    norm: str = "none"
    dropout: float = 0.5
    head_features: int = 2
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
        head_radius = self.stem_stride // 2 + (1 if self.head_features else 0)
        low = high = pixel // self.stem_stride
        low, high = low - head_radius, high + head_radius
        skips = []
        for _ in range(self.depth):
            low, high = low - 2, high + 2
            skips.append((low, high))
            low, high = low // 2, (high + 1) // 2
        low, high = low - 2, high + 2
        for skip_low, skip_high in reversed(skips):
            low, high = min(2 * low, skip_low), max(2 * high + 1, skip_high)
            low, high = low - 2, high + 2
        return low * self.stem_stride, (high + 1) * self.stem_stride - 1

    def setup(self) -> None:
        for field, allowed in (("norm", ("none", "batch")), ("stem_stride", (1, 2))):
            value = getattr(self, field)
            if value not in allowed:
                raise ValueError(f"{field}={value!r} is not one of {', '.join(map(str, allowed))}")
        for field, least in (("features", 1), ("depth", 1), ("head_features", 0)):
            value = getattr(self, field)
            if value < least:
                raise ValueError(f"{field}={value} must be at least {least}")

        def level(features: int, name: str) -> DoubleConv:
            return DoubleConv(features, self.norm, self.bn_axis_name, self.dtype, name=name)

        widths = [self.features * 2**n for n in range(self.depth + 1)]
        self.encoder = [level(w, f"encoder_{n}") for n, w in enumerate(widths)]
        self.decoder = [level(w, f"decoder_{n}") for n, w in enumerate(widths[:-1])]
        self.up = [
            nn.Conv(w, (2, 2), kernel_init=_HE, dtype=self.dtype, name=f"up_{n}")
            for n, w in enumerate(widths[:-1])
        ]
        self.drop = nn.Dropout(self.dropout)
        wide = jnp.promote_types(self.dtype, jnp.float32)
        if self.head_features:
            self.before_head = Conv(
                self.head_features, kernel_init=_HE, dtype=wide, name="before_head"
            )
        self.head = Conv(
            len(self.heads) * self.stem_stride**2,
            1 if self.stem_stride == 1 else 3,
            dtype=wide,
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
            [[block] for block in self.encoder],
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
            y = nn.relu(self.up[n](nearest_upsample(y, 2)))
            y = self.decoder[n](jnp.concatenate([levels[f"level{n}"], y], -1), train=train)
        y = full_precision(y)
        if self.head_features:
            y = nn.relu(self.before_head(y))
        logits = self.head(y)
        return pixel_shuffle(logits, self.stem_stride) if self.stem_stride > 1 else logits
