"""Batch normalisation (Ioffe and Szegedy 2015, algorithm 1) whose gradient is written out.

Autodiff of `flax.linen.BatchNorm` keeps its input for the gradient once more, in float32, and
walks over it more often.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

Moments = tuple[jax.Array, jax.Array]


class BatchNorm(nn.Module):
    """Normalises each channel of (..., C); variables as `flax.linen.BatchNorm`, in float32.

    Attributes:
      use_running_average: normalises by the tracked moments, and not by those of the batch.
      momentum: share of the tracked moments that stays in a step.
      epsilon: added to the variance.
      axis_name: device axis over which the batch's moments are averaged.
      dtype: of the result; moments are taken in float32 or, of float64, in that.
    """

    use_running_average: bool
    momentum: float
    epsilon: float
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape, ones, zeros = x.shape[-1:], nn.initializers.ones, nn.initializers.zeros
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        scale = self.param("scale", ones, shape, jnp.float32)
        bias = self.param("bias", zeros, shape, jnp.float32)
        if self.use_running_average:
            return _scaled(x, scale, bias, (mean.value, var.value), self.epsilon).astype(self.dtype)
        axis_name = None if self.is_initializing() else self.axis_name
        y, moments = _normalized(x, scale, bias, self.epsilon, axis_name)
        if not self.is_initializing():
            for tracked, found in zip((mean, var), moments, strict=True):
                found = (1 - self.momentum) * lax.stop_gradient(found)
                tracked.value = self.momentum * tracked.value + found
        return y.astype(self.dtype)


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _scaled(
    x: jax.Array, scale: jax.Array, bias: jax.Array, moments: Moments, epsilon: float
) -> jax.Array:
    mean, var = moments
    return (_wide(x) - mean) * (lax.rsqrt(var + epsilon) * scale) + bias


def _moments(x: jax.Array, axis_name: str | None) -> Moments:
    axes = tuple(range(x.ndim - 1))
    wide = _wide(x)
    both = jnp.stack([wide.mean(axes), lax.square(wide).mean(axes)])
    if axis_name is not None:
        both = lax.pmean(both, axis_name)
    mean, squares = both
    return mean, jnp.maximum(squares - lax.square(mean), 0)


def _normalize(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float, axis_name: str | None
) -> tuple[jax.Array, Moments]:
    """x normalised by its own moments, and these, whose own gradient is not taken."""
    moments = _moments(x, axis_name)
    return _scaled(x, scale, bias, moments, epsilon).astype(x.dtype), moments


_normalized = jax.custom_vjp(_normalize, nondiff_argnums=(3, 4))


def _forward(x, scale, bias, epsilon, axis_name):
    # Not by _normalized, through which a gradient of the gradient would not see the moments move.
    y, moments = _normalize(x, scale, bias, epsilon, axis_name)
    return (y, moments), (x, scale, moments)


def _backward(epsilon, axis_name, residuals, gradients):
    x, scale, (mean, var) = residuals
    g, inverse, axes = _wide(gradients[0]), lax.rsqrt(var + epsilon), tuple(range(x.ndim - 1))
    centered = _wide(x) - mean
    sums = jnp.stack([g.sum(axes), (g * centered).sum(axes) * inverse])
    count = x.size // x.shape[-1]
    own_bias, own_scale = sums
    if axis_name is not None:
        sums = lax.psum(sums, axis_name)
        count = count * lax.axis_size(axis_name)
    # The moments move with x: what of g lies along 1 and along x is taken off.
    along_one, along_x = sums / count
    dx = scale * inverse * (g - along_one - centered * (inverse * along_x))
    return dx.astype(x.dtype), own_scale.astype(scale.dtype), own_bias.astype(scale.dtype)


_normalized.defvjp(_forward, _backward)
