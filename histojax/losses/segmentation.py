"""Losses of a predicted mask against the annotated one, besides optax's cross-entropy."""

import jax
import jax.numpy as jnp


def squared_error(*, logits: jax.Array, mask: jax.Array) -> jax.Array:
    """Squared error per pixel of sigmoid(logits) (B, H, W, C) against a mask in {0, 1}."""
    return jnp.square(jax.nn.sigmoid(logits) - mask)


def soft_dice(
    *, logits: jax.Array, mask: jax.Array, smooth: float = 1.0, squared: bool = False
) -> jax.Array:
    """1 - soft Dice of sigmoid(logits) per image and channel, shape (B, C).

    (2 sum(p m) + s) / (sum(p) + sum(m) + s), or with squared terms in the denominator
    (Milletari et al. 2016, eq. 5). With `smooth`, s, an empty prediction of an empty mask costs 0.
    """
    probability = jax.nn.sigmoid(logits)
    axes = (1, 2)
    overlap = jnp.sum(probability * mask, axes)
    measure = jnp.square if squared else lambda x: x
    size = jnp.sum(measure(probability), axes) + jnp.sum(measure(mask), axes)
    return 1.0 - (2.0 * overlap + smooth) / (size + smooth)
