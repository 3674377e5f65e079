"""Distance between images in the feature space of a network."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from histojax.losses.pixel import absolute

KINDS = ("l1", "mse", "raw_mse")


def feature_loss(
    *,
    prediction: Mapping[str, jax.Array],
    target: Mapping[str, jax.Array],
    weights: Mapping[str, float],
    kind: str = "l1",
) -> jax.Array:
    """Weighted difference of feature maps, one value per image, shape (B,).

    Each layer's difference is divided by the mean magnitude of the target's features of that
    layer, so that weights mean the same whatever network the features come from. "raw_mse" is not
    divided.

    Args:
        prediction: layer name -> (B, h, w, C) features of the generated image.
        target: the same of the real image; no gradient flows into it.
        weights: layer name -> weight; these layers are compared.
        form: "l1", "mse" or "raw_mse".

    Raises:
        ValueError: for another form.

    Source: Johnson et al. 2016, eq. 2; Ledig et al. 2017, eq. 5 is "raw_mse".
    """
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r} is not one of {', '.join(KINDS)}")
    total = jnp.zeros(())
    for layer, weight in weights.items():
        real = jax.lax.stop_gradient(target[layer].astype(_at_least_float32(target[layer])))
        difference = prediction[layer].astype(real.dtype) - real
        axes = tuple(range(1, real.ndim))
        if kind == "l1":
            distance = jnp.mean(absolute(difference), axes)
            size = jnp.mean(jnp.abs(real), axes)
        else:
            distance = jnp.mean(jnp.square(difference), axes)
            size = jnp.mean(jnp.square(real), axes)
        total = total + weight * distance / (1.0 if kind == "raw_mse" else size + 1e-8)
    return total


def _at_least_float32(x: jax.Array) -> jnp.dtype:
    return jnp.promote_types(x.dtype, jnp.float32)
