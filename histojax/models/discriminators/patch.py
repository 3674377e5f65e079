"""The 70x70 PatchGAN: judges every overlapping patch of an image as real or generated.

Isola et al. 2017 (pix2pix, section 6.1.2: C64-C128-C256-C512 and a convolution to one channel).
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from histojax.models.layers import full_precision, normalize

KERNEL = 4
PADDING = ((1, 1), (1, 1))


class PatchDiscriminator(nn.Module):
    """Images to a map of logits, one for each receptive field of 70 x 70 pixels.

    4x4 convolutions padded by 1 on every side, as in PyTorch; all but the last two have stride 2.
    Channels beyond RGB (a mask to be judged together with the image) are accepted.

    Attributes:
      widths: channels of the convolutions before the last; four give the 70-pixel field.
      norm: "instance", "batch" or "none"; the first and the last convolution have none.
      spectral_norm: divides every kernel by its largest singular value (Miyato et al. 2018); the
        power iteration's vectors are the collection "spectral", advanced when train is true.
      bn_axis_name: device axis over which batch statistics are averaged.
      dtype: computation dtype; parameters and logits are float32.
    """

    widths: tuple[int, ...] = (64, 128, 256, 512)
    norm: str = "instance"
    spectral_norm: bool = False
    bn_axis_name: str | None = None
    dtype: Any = jnp.float32

    @property
    def stride(self) -> int:
        """Input pixels between neighbouring logits."""
        return 2 ** (len(self.widths) - 1)

    @property
    def receptive_field(self) -> int:
        """Side in input pixels of the patch that one logit judges."""
        field = 1
        for stride in reversed(self._strides()):
            field = (field - 1) * stride + KERNEL
        return field

    @property
    def halo(self) -> int:
        """Half the receptive field, rounded up to the stride."""
        radius = (self.receptive_field + 1) // 2
        return -(-radius // self.stride) * self.stride

    def _strides(self) -> list[int]:
        return [2] * (len(self.widths) - 1) + [1, 1]

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool, features: bool = False
    ) -> jax.Array | tuple[jax.Array, list[jax.Array]]:
        """Judges images.

        Args:
          x: (B, H, W, C), float in [0, 1].
          train: whether batch statistics and power iterations are advanced.
          features: whether the activations of the hidden layers are returned too.

        Returns:
          Logits (B, h, w, 1) float32, or (logits, [(B, h_i, w_i, C_i), ...]).
        """
        hidden = []
        x = (2 * x - 1).astype(self.dtype)
        channels = (*self.widths, 1)
        for i, (width, stride) in enumerate(zip(channels, self._strides(), strict=True)):
            first, last = i == 0, i == len(self.widths)
            normalized = not first and not last and self.norm != "none"
            conv = nn.Conv(
                width,
                (KERNEL, KERNEL),
                strides=stride,
                padding=PADDING,
                # Batch and instance statistics cancel a bias in front of them.
                use_bias=not normalized,
                kernel_init=nn.initializers.normal(0.02),
                dtype=self.dtype,
                name=f"conv_{i}",
            )
            if self.spectral_norm:
                spectral = nn.SpectralNorm(conv, collection_name="spectral", name=f"spectral_{i}")
                x = spectral(x, update_stats=train)
            else:
                x = conv(x)
            if normalized:
                x = normalize(self, self.norm, x, f"norm_{i}", train=train)
            if not last:
                x = nn.leaky_relu(x, 0.2)
                hidden.append(x)
        logits = full_precision(x)
        return (logits, hidden) if features else logits
