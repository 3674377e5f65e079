"""FC-DenseNet, a U-Net of densely connected blocks (Jegou et al. 2017).

It reads an image with the map of a coarser scale, as the segmenter of Li et al.'s pyramid. With its
defaults and four labels it is the network of their development code. B batch, H and W pixels, C
labels.
"""

import functools
import itertools
import math
from collections.abc import Iterator, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from histojax.models.layers import (
    Conv,
    Network,
    full_precision,
    kept,
    max_pool,
    normalize,
    submodule,
)
from histojax.models.resizing import nearest_upsample
from histojax.models.segmenters import frame

_HE = nn.initializers.he_uniform()


def dropout_factors(
    key: jax.Array, shapes: Sequence[tuple[int, ...]], rate: float
) -> list[jax.Array]:
    """Dropout's factors for arrays of these shapes: 0 or 1 / (1 - rate), float32.

    One draw serves all, 16 bits a number: a draw for each of a network's many layers takes XLA
    longer to compile than the rest of the network. The rate, from 0 to below 1, is rounded to a
    multiple of 2^-16 below 1.
    """
    sizes = [math.prod(shape) for shape in shapes]
    words = jax.random.bits(key, (-(-sum(sizes) // 2),), jnp.uint32)
    drawn = lax.bitcast_convert_type(words, jnp.uint16).reshape(-1)
    dropped = min(round(rate * 2**16), 2**16 - 1)
    factor = jnp.float32(2**16 / (2**16 - dropped))
    parts = jnp.split(drawn, list(itertools.accumulate(sizes)))[: len(shapes)]
    kept = [part.reshape(shape) >= dropped for part, shape in zip(parts, shapes, strict=True)]
    return [jnp.where(each, factor, 0) for each in kept]


class DenseBlock(Network):
    """Layers of BatchNorm, ReLU, 3x3 convolution to `growth` channels and dropout.

    Each of the `layers` reads the channels of all before it.
    """

    layers: int
    growth: int

    @nn.compact
    def __call__(
        self, x: jax.Array, factors: Iterator[jax.Array] | None = None, *, train: bool
    ) -> jax.Array:
        """(B, H, W, features) -> (B, H, W, layers growth): the channels that the block adds.

        `factors` are dropout's, (B, H, W, growth) for each layer; None: no dropout.
        """
        added: list[jax.Array] = []
        for n in range(self.layers):
            y = jnp.concatenate([x, *added], -1)
            y = normalize(self, "batch", y, f"norm_{n}", train=train)
            conv = Conv(self.growth, kernel_init=_HE, dtype=self.dtype, name=f"conv_{n}")
            y = conv(nn.relu(y))
            added.append(y if factors is None else y * next(factors).astype(y.dtype))
        return jnp.concatenate(added, -1)


class DenseUNet(frame.Windowed):
    """Image and the map of the scale below to logits at the same size.

    On the way up a level is enlarged by nearest neighbour and convolved, where the source has a
    transposed convolution of as many parameters.

    Attributes:
      labels: C.
      features: channels of the first convolution.
      growth: channels that each layer adds.
      layers: layers of each dense block on the way down, finest first; those of the way up mirror
        them. Each block is followed by a halving of the size.
      bottom: layers of the block at the smallest size.
      dropout: rate in every layer.
    """

    labels: int
    features: int = 16
    growth: int = 12
    layers: tuple[int, ...] = (4, 5, 7)
    bottom: int = 10
    dropout: float = 0.2

    @property
    def stride(self) -> int:
        return 2 ** len(self.layers)

    def _field(self, pixel: int) -> tuple[int, int]:
        # A level's skip sees less than what comes up from below it.
        low = high = pixel
        for layers in self.layers:
            low, high = (low - layers - 1) // 2, (high + layers + 1) // 2
        low, high = low - self.bottom, high + self.bottom
        for layers in reversed(self.layers):
            low, high = 2 * low - layers, 2 * high + 1 + layers
        return low - 1, high + 1

    def _dropped(self, batch: int, height: int, width: int) -> list[tuple[int, ...]]:
        """Shapes of the maps that dropout acts on, in the order of the layers."""
        shapes: list[tuple[int, ...]] = []
        channels = self.features
        levels = [(batch, height >> n, width >> n) for n in range(len(self.layers) + 1)]
        for level, layers in zip(levels, self.layers, strict=False):
            channels += layers * self.growth
            shapes += [(*level, self.growth)] * layers + [(*level, channels)]
        shapes += [(*levels[-1], self.growth)] * self.bottom
        for level, layers in reversed(list(zip(levels, self.layers, strict=False))):
            shapes += [(*level, self.growth)] * layers
        return shapes

    @nn.compact
    def __call__(self, x: jax.Array, below: jax.Array, *, train: bool) -> jax.Array:
        """Logits (B, H, W, C) float32 of images; dropout acts in training (rng "dropout").

        `below` (B, H, W, C) are enlarged probabilities of the scale below, zeros at the lowest.

        Raises:
            ValueError: H or W is not a multiple of `stride`.
        """
        frame.check_size(x, self.stride)
        factors = None
        if train and self.dropout > 0:
            shapes = self._dropped(*x.shape[:3])
            factors = iter(dropout_factors(self.make_rng("dropout"), shapes, self.dropout))

        def block(x: jax.Array, layers: int, name: str) -> jax.Array:
            return submodule(self, DenseBlock, layers=layers, name=name)(x, factors, train=train)

        conv = functools.partial(Conv, kernel_init=_HE, dtype=self.dtype)
        x = jnp.concatenate([x, below.astype(x.dtype)], -1).astype(self.dtype)
        x = conv(self.features, name="stem")(x)
        skips = []
        for n, layers in enumerate(self.layers):
            x = kept(jnp.concatenate([x, block(x, layers, f"down_{n}")], -1))
            skips.append(x)
            y = normalize(self, "batch", x, f"halve_{n}_norm", train=train)
            y = conv(x.shape[-1], 1, name=f"halve_{n}")(nn.relu(y))
            if factors is not None:
                y = y * next(factors).astype(y.dtype)
            x = max_pool(y, 2, 2)
        x = kept(block(x, self.bottom, "bottom"))
        for n in reversed(range(len(self.layers))):
            y = conv(x.shape[-1], name=f"enlarge_{n}")(nearest_upsample(x, 2))
            y = kept(jnp.concatenate([y, skips[n]], -1))
            x = kept(block(y, self.layers[n], f"up_{n}"))
        # The logits read all channels of the last level.
        x = jnp.concatenate([y, x], -1)
        return full_precision(conv(self.labels, 1, name="logits")(x))
