"""Penalties on how steeply a discriminator's judgement changes with the image, one value an image.

A penalty takes `judge`, images (B, H, W, C) in [0, 1] -> logits (B, h, w, 1), and is differentiable
in whatever `judge` closes over. An image's slope is the norm of the gradient of the sum of its
n = h w logits by its pixels, divided by sqrt(n): the root mean square of the slopes of its patches
where these do not overlap, and the published one where n is 1, so that a weight means the same for
any crop and any discriminator. Published weights are for images in [-1, 1], whose slope is half of
that here.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

Judge = Callable[[jax.Array], jax.Array]


def slope(judge: Judge, images: jax.Array) -> jax.Array:
    """The slope of every image, (B,).

    Where a judgement depends on the other images of the batch (BatchNorm), the sum that is
    differentiated is that of the whole batch's logits: an image answers for what it does to all.
    """
    logits, pullback = jax.vjp(judge, images)
    (gradient,) = pullback(jnp.ones_like(logits))
    patches = logits.size // len(images)
    return optax.safe_norm(gradient.reshape(len(images), -1), 0.0, axis=1) / patches**0.5


def r1(*, judge: Judge, real: jax.Array, **_: Any) -> jax.Array:
    """Half the squared slope at real images (Mescheder et al. 2018, eq. 9, without its gamma)."""
    return 0.5 * jnp.square(slope(judge, real))


def one_centered(*, judge: Judge, real: jax.Array, fake: jax.Array, mix: jax.Array) -> jax.Array:
    """Squared distance of the slope to 1 between real and fake (Gulrajani et al. 2017, eq. 3).

    `mix`, (B, 1, 1, 1), is the share of the real image in each mixture. Gulrajani et al. advise
    against BatchNorm in `judge`, section 4.
    """
    return jnp.square(slope(judge, mix * real + (1 - mix) * fake) - 1.0)


def zero_centered(*, judge: Judge, real: jax.Array, fake: jax.Array, mix: jax.Array) -> jax.Array:
    """Squared slope between real and fake images (Thanh-Tung et al. 2019); as `one_centered`."""
    return jnp.square(slope(judge, mix * real + (1 - mix) * fake))


KINDS: dict[str, Callable[..., jax.Array]] = {
    "r1": r1,
    "one_centered": one_centered,
    "zero_centered": zero_centered,
}
