"""What U-Nets share whatever their blocks: the way down, and how far a pixel sees.

B batch, H and W pixels, C channels; level l of a network lies at 1 / (s 2^l) of the size, s the
stem's stride.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from histojax.models.layers import max_pool, pixel_unshuffle


def halo(stride: int, field: Callable[[int], tuple[int, int]]) -> int:
    """Receptive-field radius in input pixels, worst over the phases, rounded up to the stride.

    Args:
      stride: total stride of the network, px.
      field: output pixel -> first and last input pixel that it depends on.
    """
    radius = 0
    for pixel in range(stride):
        low, high = field(pixel)
        radius = max(radius, pixel - low, high - pixel)
    return -(-radius // stride) * stride


def check_size(x: jax.Array, stride: int) -> None:
    """Refuses images (B, H, W, C) that a network of that total stride cannot take.

    Raises:
      ValueError: H or W is not a multiple of `stride`.
    """
    _, h, w, _ = x.shape
    if h % stride or w % stride:
        raise ValueError(
            f"an image of {h} x {w} pixels does not fit the network's stride: "
            f"both sides must be multiples of {stride}"
        )


def encode(
    x: jax.Array,
    levels: Sequence[Iterable[nn.Module]],
    drop: nn.Dropout,
    *,
    stride: int,
    stem_stride: int,
    dtype: jnp.dtype,
    train: bool,
) -> dict[str, jax.Array]:
    """The way down: each level's blocks, with 2x2 max pooling before all but the first.

    Args:
      x: (B, H, W, 3), float in [0, 1]; H and W multiples of `stride`.
      levels: each level's blocks, finest first; called with `train`.
      drop: acts at the end of the two deepest levels, where `train`.
      stride: total stride of the network, px.
      stem_stride: s; above 1, s x s pixels are laid into channels first.
      dtype: computation dtype.
      train: whether dropout acts and batch statistics are used and updated.

    Returns:
      {"level<l>": (B, H / (s 2^l), W / (s 2^l), C)}.

    Raises:
      ValueError: H or W is not a multiple of `stride`.
    """
    check_size(x, stride)
    # Zero mean for the first kernels; padding then stands for mid grey.
    x = (2 * x - 1).astype(dtype)
    if stem_stride > 1:
        x = pixel_unshuffle(x, stem_stride)
    maps = {}
    for n, blocks in enumerate(levels):
        if n:
            x = max_pool(x, 2, 2)
        for block in blocks:
            x = block(x, train=train)
        if n >= len(levels) - 2:
            x = drop(x, deterministic=not train)
        maps[f"level{n}"] = x
    return maps
