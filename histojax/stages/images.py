"""Between the uint8 images of a batch and the numbers inside a step."""

from __future__ import annotations

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


def foreground(mask: jax.Array, dtype: jnp.dtype = jnp.float32) -> jax.Array:
    """A batch's mask (B, H, W), any class above 0, as (B, H, W, 1) of zeros and ones."""
    return (mask > 0).astype(dtype)[..., None]


def enhanced(
    generator: nn.Module, state: State, lr: jax.Array, dtype: jnp.dtype = jnp.float32
) -> jax.Array:
    """uint8 (B, h, w, 3) -> uint8 (B, r h, r w, 3), by the averaged variables."""
    variables = state.variables("generator", averaged=True)
    return quantise(generator.apply(variables, unit(lr, dtype), train=False))


def foreground_probability(
    segmenter: nn.Module, state: State, image: jax.Array, dtype: jnp.dtype = jnp.float32
) -> jax.Array:
    """uint8 (B, H, W, 3) -> probability of a nucleus (B, H, W, 1), by the averaged variables."""
    variables = state.variables("segmenter", averaged=True)
    return jax.nn.sigmoid(segmenter.apply(variables, unit(image, dtype), train=False))
