"""The trunk of ST-LPIPS: an AlexNet that a shift by a pixel changes little (Ghildyal and Liu 2022).

As AlexNet (Krizhevsky 2014), with a first convolution at stride 1 and, for every step down, a
maximum at stride 1 and a binomial blur at stride 2 (Zhang 2019).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from histojax.models.layers import max_pool

# Layer: (channels, kernel, zero padding).
LAYERS = {
    "conv1": (64, 11, 2),
    "conv2": (192, 5, 2),
    "conv3": (384, 3, 1),
    "conv4": (256, 3, 1),
    "conv5": (256, 3, 1),
}
# Of RGB in -1 .. 1, as in LPIPS.
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
# Least side of an image, px: the last blur reflects 2 px, so it needs 3.
SMALLEST = 21


class ShiftTolerantAlexNet(nn.Module):
    """Feature maps of RGB (B, H, W, 3) in [0, 1], sides of `SMALLEST` px or more."""

    @nn.compact
    def __call__(self, x: jax.Array) -> dict[str, jax.Array]:
        """{layer: (B, h, w, C) behind its ReLU}, at 1/2 of the size, 1/4, and three times 1/8."""
        x = (2 * x - 1 - jnp.array(SHIFT, x.dtype)) / jnp.array(SCALE, x.dtype)
        found = {}
        for name, (channels, kernel, padding) in LAYERS.items():
            if name in ("conv2", "conv3"):
                x = _halved(max_pool(x, 3, 1))
            # As the published numbers, also where a backend has a shorter product.
            size, highest = (kernel, kernel), jax.lax.Precision.HIGHEST
            x = nn.Conv(channels, size, padding=padding, precision=highest, name=name)(x)
            if name == "conv1":
                x = _halved(x)
            found[name] = x = nn.relu(x)
        return found


def _halved(x: jax.Array) -> jax.Array:
    """Blurred by (1, 2, 1) / 4 at stride 2 along both axes, 2 px reflected at each border."""
    x = jnp.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect")
    for axis in (1, 2):
        last = x.shape[axis] - 2
        a, b, c = (jax.lax.slice_in_dim(x, i, last + i, stride=2, axis=axis) for i in range(3))
        x = (a + 2 * b + c) / 4
    return x
