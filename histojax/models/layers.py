"""Layers that several networks share: convolutions, norms, pooling; B, H, W and C as everywhere."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from histojax.models.batch_norm import BatchNorm
from histojax.models.convolutions import convolve, grouped_convolve

# Momentum and epsilon: PyTorch's, those of Juhong et al. 2021, and EfficientNet's.
BATCH_NORMS = {"batch": (0.9, 1e-5), "keras_batch": (0.8, 1e-3), "tf_batch": (0.99, 1e-3)}

# torchvision's and EfficientNet's initialisation of convolutions.
HE_FAN_OUT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")

# The name of what is kept of a network where the rest is computed again.
KEPT = "kept"

Initializer = Callable[..., jax.Array]


class Network(nn.Module, kw_only=True):
    """What networks and their blocks share.

    Attributes:
      bn_axis_name: device axis over which batch statistics are averaged.
      dtype: computation dtype; parameters, and the outputs of networks, are float32.
    """

    bn_axis_name: str | None = None
    dtype: Any = jnp.float32

    @property
    def wide(self) -> Any:
        """The dtype of logits: `dtype`, and float32 at least."""
        return jnp.promote_types(self.dtype, jnp.float32)


class Conv(nn.Module):
    """Convolution at stride 1, zero padding that keeps the size; parameters as `flax.linen.Conv`.

    The kernel's side is odd, and parameters are float32. `features` are a multiple of `groups`, the
    cardinality (aggregated transformations, Xie et al. 2017, figure 3c). Every `alike` neighbouring
    output channels, such as the phases of a pixel shuffle, answer a constant input alike.
    """

    features: int
    kernel_size: int = 3
    use_bias: bool = True
    kernel_init: Initializer = nn.initializers.lecun_normal()
    dtype: Any = jnp.float32
    groups: int = 1
    alike: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if x.shape[-1] % self.groups or self.features % self.groups:
            raise ValueError(
                f"{x.shape[-1]} -> {self.features} channels do not divide into "
                f"{self.groups} groups: both must be multiples of the cardinality"
            )
        shape = (self.kernel_size, self.kernel_size, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        if self.alike > 1:
            answer = kernel.mean((0, 1))
            kernel = kernel - answer + _shared(answer, self.alike)
        kernel = kernel.astype(self.dtype)
        x = x.astype(self.dtype)
        y = convolve(x, kernel) if self.groups == 1 else grouped_convolve(x, kernel, self.groups)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
            if self.alike > 1:
                bias = _shared(bias, self.alike)
            y = y + bias.astype(self.dtype)
        return y


def _shared(x: jax.Array, count: int) -> jax.Array:
    # (..., C) with the mean of every `count` neighbours in their place.
    return jnp.repeat(x.reshape(*x.shape[:-1], -1, count).mean(-1), count, -1)


class PReLU(nn.Module):
    """Leaky rectifier with one learned slope a channel, 0.25 at first (He et al. 2015, eq. 1)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = nn.initializers.constant(0.25)
        slope = self.param("negative_slope", init, (x.shape[-1],), jnp.float32)
        return jnp.where(x >= 0, x, slope.astype(x.dtype) * x)


def activate(kind: str, x: jax.Array, *, name: str | None = None) -> jax.Array:
    """Applies "relu" or "prelu" inside a compact module; `name` names the slopes' scope."""
    if kind == "relu":
        return nn.relu(x)
    if kind == "prelu":
        return PReLU(name=name)(x)
    raise ValueError(f"activation {kind!r} is not one of relu, prelu")


def norm_layer(
    kind: str,
    *,
    train: bool,
    axis_name: str | None = None,
    dtype: Any = jnp.float32,
    name: str | None = None,
) -> Callable[[jax.Array], jax.Array]:
    """A normalisation by name, ready to be applied to (B, H, W, C).

    Momentum and epsilon of batch normalisation are those of BATCH_NORMS; "instance" has no learned
    scale or offset; "none" does nothing. In training the batch's own statistics, averaged over
    `axis_name`, are used and tracked.
    """
    if kind in BATCH_NORMS:
        momentum, epsilon = BATCH_NORMS[kind]
        return BatchNorm(
            use_running_average=not train,
            momentum=momentum,
            epsilon=epsilon,
            axis_name=axis_name if train else None,
            dtype=dtype,
            name=name,
        )
    if kind == "instance":
        return nn.InstanceNorm(
            epsilon=1e-5, use_bias=False, use_scale=False, dtype=dtype, name=name
        )
    if kind == "none":
        return lambda x: x
    raise ValueError(f"norm {kind!r} is not one of {', '.join(BATCH_NORMS)}, instance, none")


def normalize(module: Network, kind: str, x: jax.Array, name: str, *, train: bool) -> jax.Array:
    """`norm_layer` with the fields of a module, inside its compact call."""
    axis_name, dtype = module.bn_axis_name, module.dtype
    return norm_layer(kind, train=train, axis_name=axis_name, dtype=dtype, name=name)(x)


def max_pool(x: jax.Array, window: int, stride: int, *, padding: int = 0) -> jax.Array:
    """Maximum over square windows of (B, H, W, C), padded with minus infinity.

    A side n becomes (n + 2 padding - window) // stride + 1. Written as maxima of shifted slices:
    the gradient of XLA's reduce_window (select_and_scatter) takes 20 to 30 times as long on CPU.
    Where a window's maximum is attained more than once the gradient is shared among those pixels.
    """
    for axis in (1, 2):
        if padding:
            widths = [(0, 0)] * 4
            widths[axis] = (padding, padding)
            # Fused into the maxima, padding is asked for pixel by pixel, which doubles the time.
            x = lax.optimization_barrier(jnp.pad(x, widths, constant_values=-jnp.inf))
        count = (x.shape[axis] - window) // stride + 1
        shifted = [
            lax.slice_in_dim(x, i, i + (count - 1) * stride + 1, stride=stride, axis=axis)
            for i in range(window)
        ]
        x = functools.reduce(jnp.maximum, shifted)
    return x


def submodule(outer: nn.Module, kind: type[nn.Module], /, **fields: Any) -> Any:
    """A module of a kind with the fields that it shares with `outer`, and with `fields`."""
    own, shared = ({f.name for f in dataclasses.fields(m)} for m in (kind, outer))
    names = (own & shared) - {"parent", "name"}
    return kind(**{**{name: getattr(outer, name) for name in names}, **fields})


def deepest_tap(
    network: str, x: jax.Array, taps: Sequence[str], known: Sequence[str], sides: Sequence[int]
) -> int:
    """Index of the deepest of the taps of a feature network on images (B, H, W, C).

    `sides` are the least sides of images that the known taps need, px. A ValueError refuses a tap
    that is not known, and an image that is too small.
    """
    unknown = [tap for tap in taps if tap not in known]
    if unknown or not taps:
        raise ValueError(f"taps {unknown or taps!r} of {network}: choose from {', '.join(known)}")
    deepest = max(map(known.index, taps))
    if min(x.shape[1:3]) < sides[deepest]:
        raise ValueError(
            f"an image of {x.shape[1]} x {x.shape[2]} pixels is too small for {known[deepest]} of "
            f"{network}: it needs {sides[deepest]} x {sides[deepest]} or more"
        )
    return deepest


def kept(x: jax.Array) -> jax.Array:
    """The same, marked as what a step in less memory keeps of a network; see `state.apply`."""
    return checkpoint_name(x, KEPT)


def full_precision(x: jax.Array) -> jax.Array:
    """x in float32, or in its own dtype where that is wider, for losses."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
