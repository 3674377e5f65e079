"""The frame of U-Nets, whatever their blocks: the way down, the way up, how far a pixel sees.

B batch, H and W pixels, C channels; level l of a network lies at 1 / (s 2^l) of the size, s the
stem's stride.
"""

from collections.abc import Callable, Mapping
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from histojax.checks import Rule, check
from histojax.models.layers import Conv, Network, full_precision, kept, max_pool
from histojax.models.resizing import pixel_shuffle, pixel_unshuffle


def halo(stride: int, field: Callable[[int], tuple[int, int]]) -> int:
    """Receptive-field radius in input pixels, worst over the phases, rounded up to the stride.

    `field` gives the first and last input pixel that an output pixel depends on.
    """
    fields = [(pixel, *field(pixel)) for pixel in range(stride)]
    radius = max(0, *(max(pixel - low, high - pixel) for pixel, low, high in fields))
    return -(-radius // stride) * stride


def check_size(x: jax.Array, stride: int) -> None:
    """Refuses images (B, H, W, C) whose sides are not multiples of a network's total stride."""
    _, h, w, _ = x.shape
    if h % stride or w % stride:
        raise ValueError(
            f"an image of {h} x {w} pixels does not fit the network's stride: "
            f"both sides must be multiples of {stride}"
        )


class Windowed(Network):
    """A network that runs over an image window by window."""

    @property
    def stride(self) -> int:
        """Input pixels to which image sizes and window origins must be aligned."""
        raise NotImplementedError

    @property
    def halo(self) -> int:
        """Receptive-field radius in input pixels, worst over the phases, rounded up to stride."""
        return halo(self.stride, self._field)

    def _field(self, pixel: int) -> tuple[int, int]:
        """First and last input pixel that an output pixel depends on, walked from the end."""
        raise NotImplementedError


class UNetFrame(Windowed):
    """RGB to logits at the same size; subclasses give blocks, enlargement and fields' rules.

    Attributes:
      features: channels of level 0; level l has features * 2^l.
      depth: number of poolings; 4 gives the U-Net's 64 ... 1024 channels.
      norm: after the convolutions of the levels.
      dropout: rate at the end of the two deepest encoder levels.
      heads: names of the maps, in the order of the logits.
      stem_stride: 1, or 2: level 0 works at half the resolution on 2x2 pixels laid into channels,
        and a 3x3 head with a pixel shuffle restores the full size; about a quarter of the work.
    """

    features: int = 64
    depth: int = 4
    norm: str = "batch"
    dropout: float = 0.0
    heads: tuple[str, ...] = ("mask",)
    stem_stride: int = 1

    rules: ClassVar[Mapping[str, Rule]]

    @nn.nowrap
    def level(self, features: int, name: str) -> list[nn.Module]:
        """The blocks of a level, called with `train`."""
        raise NotImplementedError

    @nn.nowrap
    def up_layer(self, features: int, name: str) -> nn.Module:
        """The convolution that enlarges a level's map to that of the level above."""
        raise NotImplementedError

    def enlarge(self, y: jax.Array, n: int) -> jax.Array:
        """The map of level n + 1 at the size and channels of level n."""
        raise NotImplementedError

    def before_logits(self, y: jax.Array) -> jax.Array:
        """What lies between the last level and the head."""
        return y

    @nn.nowrap
    def reach(self) -> tuple[int, int, tuple[int, int]]:
        """Radius of head and of a level in its pixels; pixels that `enlarge` reads before and after
        a pixel, at the finer level."""
        raise NotImplementedError

    @property
    def stride(self) -> int:
        return self.stem_stride * 2**self.depth

    def _field(self, pixel: int) -> tuple[int, int]:
        head, level, (before, after) = self.reach()
        low = high = pixel // self.stem_stride
        low, high = low - head, high + head
        skips = []
        for _ in range(self.depth):
            low, high = low - level, high + level
            skips.append((low, high))
            low, high = (low - before) // 2, (high + after) // 2
        low, high = low - level, high + level
        for skip_low, skip_high in reversed(skips):
            low, high = min(2 * low, skip_low), max(2 * high + 1, skip_high)
            low, high = low - level, high + level
        return low * self.stem_stride, (high + 1) * self.stem_stride - 1

    def setup(self) -> None:
        check(vars(self), self.rules, error=ValueError)
        widths = [self.features * 2**n for n in range(self.depth + 1)]
        self.encoder = [self.level(w, f"encoder_{n}") for n, w in enumerate(widths)]
        self.decoder = [self.level(w, f"decoder_{n}") for n, w in enumerate(widths[:-1])]
        self.up = [self.up_layer(w, f"up_{n}") for n, w in enumerate(widths[:-1])]
        self.drop = nn.Dropout(self.dropout)
        maps, side = len(self.heads) * self.stem_stride**2, 1 if self.stem_stride == 1 else 3
        self.head = Conv(maps, side, dtype=self.wide, name="head")

    def encode(self, x: jax.Array, *, train: bool) -> dict[str, jax.Array]:
        """The encoder's feature maps, {"level<l>": (B, H / (s 2^l), W / (s 2^l), features 2^l)}.

        Args:
          x: (B, H, W, 3), float in [0, 1]; H and W multiples of `stride`, or a ValueError.
          train: whether dropout acts (rng "dropout") and batch statistics are used and updated.
        """
        check_size(x, self.stride)
        # Zero mean for the first kernels; padding then stands for mid grey.
        x = (2 * x - 1).astype(self.dtype)
        x = pixel_unshuffle(x, self.stem_stride) if self.stem_stride > 1 else x
        maps = {}
        for n, blocks in enumerate(self.encoder):
            if n:
                x = max_pool(x, 2, 2)
            for block in blocks:
                x = kept(block(x, train=train))
            if n >= self.depth - 1:
                x = self.drop(x, deterministic=not train)
            maps[f"level{n}"] = x
        return maps

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Logits (B, H, W, len(heads)), float32, of images; see `encode`."""
        levels = self.encode(x, train=train)
        y = levels[f"level{self.depth}"]
        for n in reversed(range(self.depth)):
            y = jnp.concatenate([levels[f"level{n}"], self.enlarge(y, n)], -1)
            for block in self.decoder[n]:
                y = kept(block(y, train=train))
        logits = self.head(self.before_logits(full_precision(y)))
        return pixel_shuffle(logits, self.stem_stride) if self.stem_stride > 1 else logits
