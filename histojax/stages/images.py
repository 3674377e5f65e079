"""Between the uint8 images of a batch and the numbers inside a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from histojax.stages.state import State


def unit(image: jax.Array, dtype: jnp.dtype = jnp.float32) -> jax.Array:
    """uint8 (B, H, W, C) as floats in [0, 1]; floats pass through."""
    if jnp.issubdtype(image.dtype, jnp.floating):
        return image
    return image.astype(dtype) / 255


def quantise(image: jax.Array) -> jax.Array:
    """Floats (B, H, W, C), nominally in [0, 1], rounded and clipped to uint8."""
    return jnp.round(jnp.clip(image, 0.0, 1.0) * 255).astype(jnp.uint8)


def targets(
    batch: Mapping[str, jax.Array], heads: Sequence[str], dtype: jnp.dtype = jnp.float32
) -> jax.Array:
    """A batch's maps (B, H, W), a field for each head, as (B, H, W, len(heads)) in [0, 1].

    Any class of a mask above 0 is foreground; a distance is in 255ths.
    """
    maps = [batch[h] / 255 if h == "distance" else batch[h] > 0 for h in heads]
    return jnp.stack([m.astype(dtype) for m in maps], axis=-1)


def by_head(maps: jax.Array, heads: Sequence[str]) -> dict[str, jax.Array]:
    """(..., len(heads)) as {head: (..., 1)}."""
    return {head: maps[..., i : i + 1] for i, head in enumerate(heads)}


def enhanced(
    generator: nn.Module, state: State, lr: jax.Array, dtype: jnp.dtype = jnp.float32
) -> jax.Array:
    """uint8 (B, h, w, 3) -> uint8 (B, r h, r w, 3), by the averaged variables."""
    variables = state.variables("generator", averaged=True)
    return quantise(generator.apply(variables, unit(lr, dtype), train=False))


def probabilities(
    segmenter: nn.Module, state: State, image: jax.Array, dtype: jnp.dtype = jnp.float32
) -> jax.Array:
    """uint8 (B, H, W, 3) -> maps in [0, 1], (B, H, W, len(heads)), by the averaged variables."""
    variables = state.variables("segmenter", averaged=True)
    return jax.nn.sigmoid(segmenter.apply(variables, unit(image, dtype), train=False))
