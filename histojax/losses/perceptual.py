"""Distance between images in the feature space of a network."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from histojax.losses.pixel import absolute
from histojax.models.layers import full_precision

# (measure of a difference, whether it is divided by the measure of the target's features).
KINDS: dict[str, tuple[Callable[[jax.Array], jax.Array], bool]] = {
    "l1": (absolute, True),
    "mse": (jnp.square, True),
    "raw_mse": (jnp.square, False),
}


def feature_loss(
    *,
    prediction: Mapping[str, jax.Array],
    target: Mapping[str, jax.Array],
    weights: Mapping[str, float],
    kind: str = "l1",
) -> jax.Array:
    """Weighted difference of feature maps (B, h, w, C) by layer, one value per image, shape (B,).

    Each layer's difference is divided by the mean magnitude of the target's features of that
    layer, so that weights mean the same whatever network the features come from. "raw_mse" is not
    divided. The layers of `weights` are compared; no gradient flows into the target. Source:
    Johnson et al. 2016, eq. 2; Ledig et al. 2017, eq. 5 is "raw_mse".
    """
    measure, relative = KINDS[kind]
    total = jnp.zeros(())
    for layer, weight in weights.items():
        real = jax.lax.stop_gradient(full_precision(target[layer]))
        difference = prediction[layer].astype(real.dtype) - real
        axes = tuple(range(1, real.ndim))
        distance = jnp.mean(measure(difference), axes)
        size = jnp.mean(measure(real), axes) + 1e-8 if relative else 1.0
        total = total + weight * distance / size
    return total
