"""VGG19's convolutional part, and VGG16's first three blocks, as feature networks.

Simonyan & Zisserman 2015, table 1, columns E and D, which are alike up to conv3_3.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from histojax.models.layers import Conv, deepest_tap, max_pool
from histojax.models.squeezenet import BGR_MEAN

BLOCKS = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))
LAYERS = tuple(f"{b}_{i}" for b, (_, n) in enumerate(BLOCKS, 1) for i in range(1, n + 1))
TAPS = tuple(f"{kind}{layer}" for layer in LAYERS for kind in ("conv", "relu"))
TAPS16 = TAPS[: TAPS.index("relu3_3") + 1]
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class VGG19(nn.Module):
    """Feature maps of VGG19; ImageNet's mean and deviation are taken off inside.

    `dtype` is that of computation; parameters and feature maps are float32.
    """

    dtype: Any = jnp.float32

    known: ClassVar[Sequence[str]] = TAPS

    @staticmethod
    def standardized(x: jax.Array) -> jax.Array:
        """The image as the weights expect it."""
        return (x - jnp.array(IMAGENET_MEAN, x.dtype)) / jnp.array(IMAGENET_STD, x.dtype)

    @nn.compact
    def __call__(
        self, x: jax.Array, taps: Sequence[str] | None = None, *, train: bool = False
    ) -> dict[str, jax.Array]:
        """{tap: (B, h, w, C) float32} of RGB (B, H, W, 3) in [0, 1]; no deeper layers run.

        Taps are "relu1_1" ... "relu5_4", by default the last, or "conv1_1" ... before the ReLU;
        block b is at 1 / 2^(b - 1) of the size, rounded down. `train` is without effect.

        Raises:
            ValueError: a tap that there is not, or an image too small for the deepest one.
        """
        del train
        taps, known = self.known[-1:] if taps is None else taps, self.known
        sides = [2 ** (int(tap[4]) - 1) for tap in known]
        deepest = deepest_tap(type(self).__name__, x, taps, known, sides)
        found = {}
        x = self.standardized(x).astype(self.dtype)
        for index, layer in enumerate(LAYERS[: deepest // 2 + 1]):
            if index and layer.endswith("_1"):
                x = max_pool(x, 2, 2)
            x = Conv(BLOCKS[int(layer[0]) - 1][0], dtype=self.dtype, name=f"conv{layer}")(x)
            found[f"conv{layer}"] = x
            found[f"relu{layer}"] = x = nn.relu(x)
        return {tap: found[tap].astype(jnp.float32) for tap in taps}


class VGG16(VGG19):
    """Feature maps of VGG16 up to "relu3_3", whose weights see grey levels as SqueezeNet's do."""

    known: ClassVar[Sequence[str]] = TAPS16

    @staticmethod
    def standardized(x: jax.Array) -> jax.Array:
        return 255 * x[..., ::-1] - jnp.array(BGR_MEAN, x.dtype)
