"""Depthwise convolution, one kernel a channel, in the backend's form.

B batch, H and W pixels, C channels, k the kernel's odd side, s the stride. Padding is TensorFlow's
SAME: k - s pixels in all, and the odd one after the image.
"""

import functools
import itertools
from collections.abc import Iterator

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from histojax.models.convolutions import DIMENSIONS, replicated_kernel, resolve
from histojax.models.layers import Network

FORMS = ("auto", "grouped", "shifted")


def form_of(backend: str) -> str:
    """The form on a backend: "grouped" (XLA's feature_group_count) or "shifted".

    "shifted" sums k * k products of a shifted image with a weight a channel. On one CPU core all
    layers of EfficientNet-Lite0, 128 px and batch 4, take 7 ms forward where XLA takes 400 ms. In
    the worst layer (144 channels, 5 x 5, stride 2) the input gradient takes 0.4 ms, where autodiff
    takes 39 to 55, and the weight gradient 2.9 ms in place of 12. GPU and TPU are not measured.
    """
    return "shifted" if backend == "cpu" else "grouped"


def convolve(x: jax.Array, kernel: jax.Array, stride: int = 1, *, form: str = "auto") -> jax.Array:
    """(B, H, W, C) and a kernel (k, k, 1, C) give (B, H / s, W / s, C).

    `form` is one of FORMS, for benchmarks and tests; all compute the same sums.

    Raises:
        ValueError: an unknown form, or s does not divide H and W.
    """
    if x.shape[1] % stride or x.shape[2] % stride:
        raise ValueError(
            f"stride {stride} does not divide the image's sides {x.shape[1:3]}: crop it"
        )
    if resolve(form, FORMS, form_of) == "grouped":
        return lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            "SAME",
            dimension_numbers=DIMENSIONS,
            feature_group_count=x.shape[-1],
        )
    return _shifted(x, replicated_kernel(x, kernel), stride)


def _before(side: int, stride: int) -> int:
    return (side - stride) // 2


def _views(x: jax.Array, side: int, stride: int) -> Iterator[tuple[int, int, jax.Array]]:
    """(i, j, what the kernel's place (i, j) is multiplied with, (B, H / s, W / s, C))."""
    before, (b, height, width, c) = _before(side, stride), x.shape
    margin = (before, side - stride - before)
    x = jnp.pad(x, [(0, 0), margin, margin, (0, 0)])
    for i, j in itertools.product(range(side), repeat=2):
        end = (b, i + height - stride + 1, j + width - stride + 1, c)
        yield i, j, lax.slice(x, (0, i, j, 0), end, (1, stride, stride, 1))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _shifted(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    views = _views(x, kernel.shape[0], stride)
    return functools.reduce(jnp.add, (view * kernel[i, j, 0] for i, j, view in views))


def _forward(x, kernel, stride):
    return _shifted(x, kernel, stride), (x, kernel)


def _backward(stride, residuals, g):
    x, kernel = residuals
    # Along rows first: one sum over all pixels takes up to five times as long.
    views = _views(x, kernel.shape[0], stride)
    sums = [(view * g).sum((0, 1)).sum(0) for _, _, view in views]
    return _image_gradient(g, kernel, stride), jnp.stack(sums).reshape(kernel.shape)


def _image_gradient(g: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    # Autodiff adds k * k padded images, up to 100 times slower. Pixel s a + p of the image was
    # multiplied with place i for the output a + (p + before - i) / s, where that is whole.
    side, (b, height, width, c) = kernel.shape[0], g.shape
    before = _before(side, stride)
    padded = jnp.pad(g, [(0, 0), (side, side), (side, side), (0, 0)])

    def phase(p: int, q: int) -> jax.Array:
        terms = []
        for i, j in itertools.product(range(side), repeat=2):
            (down, odd), (right, odder) = (divmod(n + before, stride) for n in (p - i, q - j))
            if not odd and not odder:
                top, left = side + down, side + right
                view = padded[:, top : top + height, left : left + width]
                terms.append(view * kernel[i, j, 0])
        return functools.reduce(jnp.add, terms)

    rows = [jnp.stack([phase(p, q) for q in range(stride)], 3) for p in range(stride)]
    return jnp.stack(rows, 2).reshape(b, height * stride, width * stride, c)


_shifted.defvjp(_forward, _backward)


class DepthwiseConv(Network):
    """`convolve` without a bias, its parameter "kernel" as in `flax.linen.Conv`."""

    kernel_size: int = 3
    stride: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.kernel_size, self.kernel_size, 1, x.shape[-1])
        # A channel reads k * k values and answers as many.
        init = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
        kernel = self.param("kernel", init, shape, jnp.float32)
        return convolve(x.astype(self.dtype), kernel.astype(self.dtype), self.stride)
