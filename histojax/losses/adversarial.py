"""Adversarial losses, each as the pair (discriminator's, generator's), one value per judged patch.

`real` and `fake` are the discriminator's logits, (B, h, w, 1), for real and generated images.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.nn import sigmoid, softplus

Loss = Callable[..., jax.Array]


def bce_discriminator(*, real: jax.Array, fake: jax.Array) -> jax.Array:
    """Cross-entropy of calling real 1 and fake 0 (Goodfellow et al. 2014, eq. 1)."""
    return softplus(-real) + softplus(fake)


def bce_generator(*, fake: jax.Array, **_: Any) -> jax.Array:
    """Non-saturating form: cross-entropy of fakes being called 1."""
    return softplus(-fake)


def lsgan_discriminator(*, real: jax.Array, fake: jax.Array) -> jax.Array:
    """Half the squared distance to 1 for real and 0 for fake (Mao et al. 2017, eq. 2)."""
    return 0.5 * (jnp.square(real - 1.0) + jnp.square(fake))


def lsgan_generator(*, fake: jax.Array, **_: Any) -> jax.Array:
    """Half the squared distance of fakes to 1."""
    return 0.5 * jnp.square(fake - 1.0)


def hinge_discriminator(*, real: jax.Array, fake: jax.Array) -> jax.Array:
    """Margin of 1 on both sides (Lim and Ye 2017; Miyato et al. 2018, eq. 16)."""
    return jax.nn.relu(1.0 - real) + jax.nn.relu(1.0 + fake)


def hinge_generator(*, fake: jax.Array, **_: Any) -> jax.Array:
    """The negated judgement of fakes (Miyato et al. 2018, eq. 17)."""
    return -fake


def brier_discriminator(*, real: jax.Array, fake: jax.Array) -> jax.Array:
    """Half the squared error of the probability that an image is real (Brier 1950, eq. 2).

    Least squares after a sigmoid, in place of LSGAN's on the logits; as in Juhong et al. 2021.
    """
    return 0.5 * (jnp.square(1.0 - sigmoid(real)) + jnp.square(sigmoid(fake)))


def relativistic_discriminator(
    *, real: jax.Array, fake: jax.Array, axis_name: str | None = None
) -> jax.Array:
    """Relativistic average form: real against the mean fake, fake against the mean real.

    Source: Jolicoeur-Martineau 2018, eq. 8 and 9; used for images by ESRGAN (Wang et al. 2018).
    Averaged over `axis_name`, the loss does not depend on how many devices share the batch.
    """
    return softplus(-(real - _mean(fake, axis_name))) + softplus(fake - _mean(real, axis_name))


def relativistic_pairwise_discriminator(*, real: jax.Array, fake: jax.Array) -> jax.Array:
    """Plain relativistic form: every patch against the one generated in its place.

    Jolicoeur-Martineau 2018, section 4.1 (RSGAN), draws pairs at random; here a real patch and its
    enhanced version make the pair.
    """
    return softplus(fake - real)


def exchanged(discriminator: Loss) -> Loss:
    """The generator's relativistic loss: the discriminator's, with the roles exchanged."""

    def generator(*, real: jax.Array, fake: jax.Array, **options: Any) -> jax.Array:
        return discriminator(real=fake, fake=real, **options)

    return generator


def _mean(x: jax.Array, axis_name: str | None) -> jax.Array:
    mean = jnp.mean(x)
    return mean if axis_name is None else lax.pmean(mean, axis_name)


KINDS: dict[str, tuple[Loss, Loss]] = {
    "bce": (bce_discriminator, bce_generator),
    "brier": (brier_discriminator, bce_generator),
    "lsgan": (lsgan_discriminator, lsgan_generator),
    "hinge": (hinge_discriminator, hinge_generator),
    "relativistic": (relativistic_discriminator, exchanged(relativistic_discriminator)),
    "relativistic_pairwise": (
        relativistic_pairwise_discriminator,
        exchanged(relativistic_pairwise_discriminator),
    ),
}
