"""Distances between images, pixel by pixel: L1, squared error and Charbonnier."""

import jax
import jax.numpy as jnp


def absolute(x: jax.Array) -> jax.Array:
    """|x| with the gradient 0 at 0, where that of jnp.abs is 1 and would move equal pixels."""
    return x * jnp.sign(x)


def l1(*, prediction: jax.Array, target: jax.Array) -> jax.Array:
    """Absolute difference of (B, H, W, C) images in [0, 1], same shape."""
    return absolute(prediction - target)


def mse(*, prediction: jax.Array, target: jax.Array) -> jax.Array:
    """Squared difference of (B, H, W, C) images in [0, 1], same shape."""
    return jnp.square(prediction - target)


def charbonnier(*, prediction: jax.Array, target: jax.Array, epsilon: float = 1e-3) -> jax.Array:
    """Smooth L1, sqrt(d^2 + epsilon^2), of (B, H, W, C) images in [0, 1], same shape.

    Source: Charbonnier et al. 1994; its use in super-resolution is Lai et al. 2017, eq. 3.
    """
    return jnp.sqrt(jnp.square(prediction - target) + epsilon**2)


KINDS = {"l1": l1, "mse": mse, "charbonnier": charbonnier}
