"""Convolutions at stride 1 in the form, and with the gradient, that is fastest on a backend.

B batch, H and W pixels, C channels. Kernels are (kh, kw, C_in / groups, C_out) in every form, the
layout of `flax.linen.Conv`, so that trees are interchangeable.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

DIMENSIONS = ("NHWC", "HWIO", "NHWC")
GROUPED_FORMS = ("auto", "grouped", "batched", "block_diagonal")
WEIGHT_GRADIENTS = ("auto", "xla", "rearranged")
NARROW_CHANNELS = 4
MIRRORED_WEIGHTS = 2**18
SMALL = 2**20
STRIP = 8  # rows
BLOCK = 1024  # px


def grouped_conv_form(backend: str) -> str:
    """The form of a grouped convolution on a backend, as `jax.default_backend()` names it.

    On CPU, XLA's weight gradient with feature_group_count is about 100 times slower than that of
    the dense convolution it replaces. A product for each group takes half the time of dense kernels
    over 32 channels. The choice for GPU and TPU has not been measured.
    """
    return "batched" if backend == "cpu" else "grouped"


def weight_gradient_form(backend: str) -> str:
    """The form of a convolution's weight gradient on a backend.

    "rearranged" computes XLA's sums in an order that is faster on CPU: 2 to 10 times for 1x1
    kernels, 10 times for a 9x9 kernel to RGB (4 times forward), 1.2 to 1.8 times for 3x3 kernels
    that narrow. The choice for GPU and TPU has not been measured.
    """
    return "rearranged" if backend == "cpu" else "xla"


def resolve(form: str, allowed: tuple[str, ...], choose: Callable[[str], str]) -> str:
    """A form of `allowed`, chosen by the backend where it is "auto"; ValueError: another."""
    if form not in allowed:
        raise ValueError(f"form {form!r} is not one of {', '.join(allowed)}")
    return choose(jax.default_backend()) if form == "auto" else form


def _same_convolution(x: jax.Array, kernel: jax.Array, groups: int = 1) -> jax.Array:
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=DIMENSIONS, feature_group_count=groups
    )


@jax.custom_vjp
def _rearranged_convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
    side, c_out = kernel.shape[0], kernel.shape[3]
    if side == 1 or c_out >= NARROW_CHANNELS:
        return _same_convolution(x, kernel)
    # XLA spends as long on 3 channels as on 16. All rows of the kernel at once, whose results are
    # shifted and summed: 80 ms in place of 320 for 64 -> 3 channels, 9x9 at 192 px.
    rows = jnp.moveaxis(kernel, 0, 2).reshape(1, *kernel.shape[1:3], -1)
    y = _valid_convolution(_padded(x, kernel), rows)
    return _rows_summed(y, side, x.shape[1], axis=1)


def _rows_summed(y: jax.Array, side: int, height: int, *, axis: int) -> jax.Array:
    # Rows of a kernel, side by side in the channels, each shifted to where it belongs. A slice,
    # because ONNX has no indexing by sizes that are free.
    parts = enumerate(jnp.split(y, side, -1))
    shifted = [lax.slice_in_dim(part, n, n + height, axis=axis) for n, part in parts]
    return functools.reduce(jnp.add, shifted)


def _rearranged_forward(x, kernel):
    return _rearranged_convolution(x, kernel), (x, kernel)


def _rearranged_backward(residuals, g):
    x, kernel = residuals
    (dx,) = jax.vjp(lambda x: _same_convolution(x, kernel), x)[1](g)
    side, (c_in, c_out) = kernel.shape[0], kernel.shape[2:]
    if side == 1:
        return dx, _product(x, g)[None, None]
    # The correlation of x with g is that of g with x, mirrored. XLA is faster with the narrower
    # first: 97 ms in place of 162 for 384 -> 64 channels, 3x3 at 64 px. A large kernel costs more
    # to mirror than that saves.
    form = _by_correlation
    if min(c_in, c_out) < NARROW_CHANNELS:
        form = _by_strips
    elif side * max(x.size, g.size) <= SMALL:
        form = _by_rows
    if c_in <= c_out or c_in * c_out > MIRRORED_WEIGHTS:
        return dx, form(x, g, kernel)
    return dx, jnp.swapaxes(form(g, x, jnp.swapaxes(kernel, 2, 3))[::-1, ::-1], 2, 3)


def _product(x: jax.Array, g: jax.Array) -> jax.Array:
    """Sums of x times g over all pixels, (C_in, C_out)."""
    # One product over all pixels leaves the cache: 22 ms in place of 74 for 128 -> 16 channels at
    # 256 px. It is fastest with the narrower first.
    pixels = x.size // x.shape[-1]
    # The partial sums are no larger than both factors.
    most = min(pixels // BLOCK, (x.size + g.size) // (x.shape[-1] * g.shape[-1]))
    count = _parts(pixels, most)
    x, g = x.reshape(count, -1, x.shape[-1]), g.reshape(count, -1, g.shape[-1])
    if x.shape[-1] <= g.shape[-1]:
        return jnp.einsum("npi,npo->nio", x, g).sum(0)
    return jnp.einsum("npi,npo->noi", x, g).sum(0).T


def _parts(pixels: int, most: int) -> int:
    """The largest number of equal parts, `most` at most."""
    return next(n for n in range(max(most, 1), 0, -1) if pixels % n == 0)


def _padded(x: jax.Array, kernel: jax.Array) -> jax.Array:
    radius = kernel.shape[0] // 2
    return jnp.pad(x, [(0, 0), (radius, radius), (radius, radius), (0, 0)])


def _valid_convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=DIMENSIONS)


def _by_correlation(x: jax.Array, g: jax.Array, kernel: jax.Array) -> jax.Array:
    """The kernel's gradient as XLA has it."""
    return jax.vjp(lambda k: _same_convolution(x, k), kernel)[1](g)[0]


def _by_rows(x: jax.Array, g: jax.Array, kernel: jax.Array) -> jax.Array:
    # Products need all columns of the kernel beside each other. While these stay in the cache they
    # take half the time: 3.6 ms in place of 6.8 for 32 -> 32 channels, 3x3 at 48 px.
    padded, (height, width) = _padded(x, kernel), g.shape[1:3]
    columns = [padded[:, :, n : n + width] for n in range(kernel.shape[1])]
    beside = jnp.concatenate(columns, -1)
    rows = [_product(beside[:, n : n + height], g) for n in range(kernel.shape[0])]
    return jnp.stack(rows).reshape(kernel.shape)


def _by_strips(x: jax.Array, g: jax.Array, kernel: jax.Array) -> jax.Array:
    # Whole images leave the cache: 64 -> 3 channels, 9x9 at 192 px take four times as long.
    def strip(rows: jax.Array, g: jax.Array) -> jax.Array:
        return jax.vjp(lambda k: _valid_convolution(rows, k), kernel)[1](g)[0]

    padded, more = _padded(x, kernel), kernel.shape[0] - 1
    starts = range(0, g.shape[1], STRIP)
    strips = [strip(padded[:, n : n + STRIP + more], g[:, n : n + STRIP]) for n in starts]
    return functools.reduce(jnp.add, strips)


_rearranged_convolution.defvjp(_rearranged_forward, _rearranged_backward)


def _varying_axes(x: jax.Array) -> frozenset[str]:
    kind = getattr(jax.typeof(x), "mat", None)
    return frozenset(getattr(kind, "varying", ()))


def replicated_kernel(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The kernel, varying over the devices that x varies over, for a custom gradient.

    Under shard_map a replicated kernel meets a varying batch. A custom gradient needs the cast,
    whose transpose is the sum over devices that autodiff would have inserted.
    """
    varying = _varying_axes(x) - _varying_axes(kernel)
    return lax.pcast(kernel, tuple(varying), to="varying") if varying else kernel


def convolve(x: jax.Array, kernel: jax.Array, *, form: str = "auto") -> jax.Array:
    """Convolution at stride 1 with zero padding that keeps the size, in the dtype of x.

    (B, H, W, C_in) and an odd kernel (kh, kw, C_in, C_out) give (B, H, W, C_out). `form` is one of
    WEIGHT_GRADIENTS, for benchmarks; all compute the same sums.
    """
    if resolve(form, WEIGHT_GRADIENTS, weight_gradient_form) == "xla":
        return _same_convolution(x, kernel)
    return _rearranged_convolution(x, replicated_kernel(x, kernel))


def grouped_convolve(
    x: jax.Array, kernel: jax.Array, groups: int, *, form: str = "auto"
) -> jax.Array:
    """Grouped convolution at stride 1 with zero padding that keeps the size, in the dtype of x.

    Output channels o C_out / groups ... of an odd kernel (kh, kw, C_in / groups, C_out) see input
    group o of x (B, H, W, C_in). `form` is for benchmarks: "grouped" (XLA's feature_group_count),
    "block_diagonal" (one dense kernel), "batched" (products of all groups), or "auto" (see
    `grouped_conv_form`). All compute the same function.
    """
    form = resolve(form, GROUPED_FORMS, grouped_conv_form)
    if form == "grouped":
        return _same_convolution(x, kernel, groups)
    if form == "batched":
        return _batched_convolution(x, replicated_kernel(x, kernel))
    blocks = kernel.reshape(*kernel.shape[:3], groups, -1)
    eye = jnp.eye(groups, dtype=kernel.dtype)
    dense = jnp.einsum("yxcgo,gn->yxgcno", blocks, eye)
    return convolve(x, dense.reshape(*kernel.shape[:2], x.shape[-1], -1))


@jax.custom_vjp
def _batched_convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
    # With the kernel's columns beside each other in what is read, and its rows in what is written,
    # the factors are wide enough: 14 ms in place of 21 by dense kernels over 32 channels, for 256
    # channels of 32 groups, 3x3, at 4 x 48 x 48 px.
    side, _, c, _ = kernel.shape
    groups = x.shape[-1] // c
    blocks = kernel.reshape(side, side, c, groups, -1)
    rows = blocks.transpose(3, 1, 2, 0, 4).reshape(groups, side * c, -1)
    y = jnp.einsum("gbhwi,gio->gbhwo", _columns(x, kernel), rows)
    return _ungrouped(_rows_summed(y, side, x.shape[1], axis=2))


def _columns(x: jax.Array, kernel: jax.Array) -> jax.Array:
    # (G, B, H + kh - 1, W, kw C_in / G): of each group what the columns of the kernel read.
    padded, width = _padded(x, kernel), x.shape[2]
    shifted = [lax.slice_in_dim(padded, n, n + width, axis=2) for n in range(kernel.shape[1])]
    return jnp.concatenate([_grouped(part, kernel.shape[2]) for part in shifted], -1)


def _grouped(x: jax.Array, channels: int) -> jax.Array:
    return jnp.moveaxis(x.reshape(*x.shape[:3], -1, channels), 3, 0)


def _ungrouped(x: jax.Array) -> jax.Array:
    x = jnp.moveaxis(x, 0, 3)
    return x.reshape(*x.shape[:3], -1)


def _batched_forward(x, kernel):
    return _batched_convolution(x, kernel), (x, kernel)


def _batched_backward(residuals, g):
    x, kernel = residuals
    side, _, c, c_out = kernel.shape
    groups = x.shape[-1] // c
    blocks = kernel[::-1, ::-1].reshape(side, side, c, groups, -1)
    mirrored = blocks.swapaxes(2, 4).reshape(side, side, -1, groups * c)
    columns, more = _columns(x, kernel), side - 1
    rows = _grouped(g, c_out // groups)
    widths = [[(0, 0), (0, 0), (n, more - n), (0, 0), (0, 0)] for n in range(side)]
    rows = jnp.concatenate([jnp.pad(rows, each) for each in widths], -1)
    # By blocks that stay in the cache: 23 ms in place of 49, as above.
    pixels = columns[0, ..., 0].size
    count = _parts(pixels, pixels // BLOCK)
    factors = (f.reshape(groups * count, -1, f.shape[-1]) for f in (columns, rows))
    products = jnp.einsum("npi,npo->nio", *factors).reshape(groups, count, side, c, side, -1)
    own = products.sum(1).transpose(3, 1, 2, 0, 4).reshape(kernel.shape)
    return _batched_convolution(g, mirrored), own


_batched_convolution.defvjp(_batched_forward, _batched_backward)
