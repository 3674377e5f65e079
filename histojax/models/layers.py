"""Layers that several networks share: convolutions in the backend's form, norms, pooling.

B batch, H and W pixels, C channels. Kernels are (kh, kw, C_in / groups, C_out) in every form, the
layout of `flax.linen.Conv`, so that trees are interchangeable.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

DIMENSIONS = ("NHWC", "HWIO", "NHWC")
GROUPED_FORMS = ("auto", "grouped", "merged", "block_diagonal")
WEIGHT_GRADIENTS = ("auto", "xla", "rearranged")
MERGED_CHANNELS = 32
NARROW_CHANNELS = 4

Initializer = Callable[..., jax.Array]


def grouped_conv_form(backend: str) -> str:
    """Chooses the form of a grouped convolution; the one place that does.

    On CPU, XLA's weight gradient with feature_group_count is about 100 times slower than that of
    the dense convolution it replaces, and dense blocks of 32 channels are three times faster
    again than one dense kernel. The choice for GPU and TPU has not been measured.

    Args:
      backend: "cpu", "gpu" or "tpu", as `jax.default_backend()` names it.
    """
    return "merged" if backend == "cpu" else "grouped"


def weight_gradient_form(backend: str) -> str:
    """Chooses the form of a convolution's weight gradient; the one place that does.

    "rearranged" computes XLA's sums in an order that is faster on CPU: about 5 times for 1x1
    kernels, 4 times for a 9x9 kernel to RGB, 2 times for 64 -> 256 channels at 128 x 128 pixels.
    The choice for GPU and TPU has not been measured.
    """
    return "rearranged" if backend == "cpu" else "xla"


def _resolve(form: str, allowed: tuple[str, ...], choose: Callable[[str], str]) -> str:
    if form not in allowed:
        raise ValueError(f"form {form!r} is not one of {', '.join(allowed)}")
    return choose(jax.default_backend()) if form == "auto" else form


def _same_convolution(x: jax.Array, kernel: jax.Array, groups: int = 1) -> jax.Array:
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=DIMENSIONS, feature_group_count=groups
    )


@jax.custom_vjp
def _rearranged_convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return _same_convolution(x, kernel)


def _rearranged_forward(x, kernel):
    return _same_convolution(x, kernel), (x, kernel)


def _rearranged_backward(residuals, g):
    x, kernel = residuals
    (dx,) = jax.vjp(lambda x: _same_convolution(x, kernel), x)[1](g)
    c_in, c_out = kernel.shape[2:]
    if kernel.shape[:2] == (1, 1):
        return dx, jnp.einsum("bhwi,bhwo->io", x, g)[None, None]
    # The correlation of x with g is that of g with x, mirrored. XLA's CPU backend is fastest with
    # the wider of the two first (three times for 56 -> 8 channels), unless one is as narrow as an
    # image: then with that one first.
    narrow = min(c_in, c_out) < NARROW_CHANNELS
    if (c_out < c_in) if narrow else (c_out > c_in):
        mirrored = jnp.swapaxes(kernel, 2, 3)
        (dk,) = jax.vjp(lambda k: _same_convolution(g, k), mirrored)[1](x)
        return dx, jnp.swapaxes(dk[::-1, ::-1], 2, 3)
    (dk,) = jax.vjp(lambda k: _same_convolution(x, k), kernel)[1](g)
    return dx, dk


_rearranged_convolution.defvjp(_rearranged_forward, _rearranged_backward)


def _varying_axes(x: jax.Array) -> frozenset[str]:
    kind = getattr(jax.typeof(x), "mat", None)
    return frozenset(getattr(kind, "varying", ()))


def convolve(x: jax.Array, kernel: jax.Array, *, form: str = "auto") -> jax.Array:
    """Convolution at stride 1 with zero padding that keeps the size.

    Args:
      x: (B, H, W, C_in).
      kernel: (kh, kw, C_in, C_out), kh and kw odd.
      form: of the weight gradient, for benchmarks: "auto" (see `weight_gradient_form`), "xla" or
        "rearranged". They compute the same sums.

    Returns:
      (B, H, W, C_out) in the dtype of x.
    """
    if _resolve(form, WEIGHT_GRADIENTS, weight_gradient_form) == "xla":
        return _same_convolution(x, kernel)
    # Under shard_map a replicated kernel meets a varying batch. A custom gradient needs the cast,
    # whose transpose is the sum over devices that autodiff would have inserted.
    varying = _varying_axes(x) - _varying_axes(kernel)
    if varying:
        kernel = lax.pcast(kernel, tuple(varying), to="varying")
    return _rearranged_convolution(x, kernel)


def merge_groups(kernel: jax.Array, groups: int, merged: int) -> jax.Array:
    """Writes neighbouring groups of a grouped kernel as dense block-diagonal kernels.

    Args:
      kernel: (kh, kw, C_in / groups, C_out).
      groups: groups of the convolution.
      merged: number of dense kernels, a divisor of groups.

    Returns:
      (merged, kh, kw, C_in / merged, C_out / merged), zero off the blocks.
    """
    kh, kw, c_in, c_out = kernel.shape
    inside = groups // merged
    blocks = kernel.reshape(kh, kw, c_in, merged, inside, c_out // groups)
    eye = jnp.eye(inside, dtype=kernel.dtype)
    dense = jnp.einsum("yxcsmo,nm->syxncmo", blocks, eye)
    return dense.reshape(merged, kh, kw, inside * c_in, c_out // merged)


def _merged_count(channels: int, groups: int) -> int:
    # The most dense kernels that hold at least MERGED_CHANNELS input channels each.
    fitting = [
        n for n in range(1, groups + 1) if groups % n == 0 and channels // n >= MERGED_CHANNELS
    ]
    return max(fitting, default=1)


def grouped_convolve(
    x: jax.Array, kernel: jax.Array, groups: int, *, form: str = "auto"
) -> jax.Array:
    """Grouped convolution at stride 1 with zero padding that keeps the size.

    Args:
      x: (B, H, W, C_in).
      kernel: (kh, kw, C_in / groups, C_out).
      groups: number of groups; output channels o C_out/groups ... see input group o.
      form: for benchmarks: "grouped" (XLA's feature_group_count), "block_diagonal" (one dense
        kernel), "merged" (dense kernels over neighbouring groups, at least 32 channels each), or
        "auto" (see `grouped_conv_form`). All compute the same function.

    Returns:
      (B, H, W, C_out) in the dtype of x.
    """
    form = _resolve(form, GROUPED_FORMS, grouped_conv_form)
    if form == "grouped":
        return _same_convolution(x, kernel, groups)
    merged = 1 if form == "block_diagonal" else _merged_count(x.shape[-1], groups)
    parts = zip(jnp.split(x, merged, -1), merge_groups(kernel, groups, merged), strict=True)
    return jnp.concatenate([convolve(part, dense) for part, dense in parts], -1)


class Conv(nn.Module):
    """Convolution at stride 1, zero padding that keeps the size; parameters as `flax.linen.Conv`.

    Attributes:
      features: output channels, a multiple of groups.
      kernel_size: odd side of the kernel.
      use_bias: whether a bias is added.
      dtype: computation dtype; parameters are float32.
      groups: the cardinality (aggregated transformations, Xie et al. 2017, figure 3c).
      form: of a grouped convolution, see `grouped_convolve`.
    """

    features: int
    kernel_size: int = 3
    use_bias: bool = True
    kernel_init: Initializer = nn.initializers.lecun_normal()
    dtype: Any = jnp.float32
    groups: int = 1
    form: str = "auto"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if x.shape[-1] % self.groups or self.features % self.groups:
            raise ValueError(
                f"{x.shape[-1]} -> {self.features} channels do not divide into "
                f"{self.groups} groups: both must be multiples of the cardinality"
            )
        shape = (self.kernel_size, self.kernel_size, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32).astype(self.dtype)
        x = x.astype(self.dtype)
        if self.groups == 1:
            y = convolve(x, kernel)
        else:
            y = grouped_convolve(x, kernel, self.groups, form=self.form)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
            y = y + bias.astype(self.dtype)
        return y


class PReLU(nn.Module):
    """Leaky rectifier with one learned slope a channel, 0.25 at first (He et al. 2015, eq. 1)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        slope = self.param(
            "negative_slope", nn.initializers.constant(0.25), (x.shape[-1],), jnp.float32
        )
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

    Args:
      kind: "batch" (momentum 0.9, epsilon 1e-5), "keras_batch" (momentum 0.8 and Keras' epsilon
        1e-3, as in Juhong et al. 2021), "instance" (no learned scale or offset: nothing to
        synchronise) or "none".
      train: whether the batch's own statistics are used and the running ones updated.
      axis_name: device axis over which the batch statistics are averaged.
    """
    if kind in ("batch", "keras_batch"):
        momentum, epsilon = (0.9, 1e-5) if kind == "batch" else (0.8, 1e-3)
        return nn.BatchNorm(
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
    raise ValueError(f"norm {kind!r} is not one of batch, keras_batch, instance, none")


def normalize(module: Any, kind: str, x: jax.Array, name: str, *, train: bool) -> jax.Array:
    """`norm_layer` with the `bn_axis_name` and `dtype` of a module, inside its compact call."""
    layer = norm_layer(
        kind, train=train, axis_name=module.bn_axis_name, dtype=module.dtype, name=name
    )
    return layer(x)


def max_pool(x: jax.Array, window: int, stride: int, *, padding: int = 0) -> jax.Array:
    """Maximum over square windows, one axis after the other.

    Written as maxima of shifted slices: the gradient of XLA's reduce_window (select_and_scatter)
    takes 20 to 30 times as long on CPU. Where a window's maximum is attained more than once the
    gradient is shared among those pixels.

    Args:
      x: (B, H, W, C).
      window, stride: in pixels.
      padding: pixels of minus infinity on every side.

    Returns:
      (B, (H + 2 padding - window) // stride + 1, ..., C).
    """
    for axis in (1, 2):
        if padding:
            widths = [(0, 0, 0)] * 4
            widths[axis] = (padding, padding, 0)
            x = lax.pad(x, jnp.asarray(-jnp.inf, x.dtype), widths)
        count = (x.shape[axis] - window) // stride + 1
        shifted = [
            lax.slice_in_dim(x, i, i + (count - 1) * stride + 1, stride=stride, axis=axis)
            for i in range(window)
        ]
        x = functools.reduce(jnp.maximum, shifted)
    return x


def full_precision(x: jax.Array) -> jax.Array:
    """x in float32, or in its own dtype where that is wider, for losses."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
