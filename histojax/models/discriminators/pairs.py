"""The pyramid's discriminator: judges images together with masks (Wang et al. 2018, pix2pixHD)."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from histojax.models.discriminators.patch import PatchDiscriminator


class PairDiscriminator(nn.Module):
    """Judges images together with masks, at their size and at smaller ones (pix2pixHD).

    Attributes:
      sizes: number of sizes, each half of the one before, each with a network of its own.
      widths, norm, spectral_norm, bn_axis_name, dtype: of `PatchDiscriminator`.
    """

    sizes: int = 2
    widths: tuple[int, ...] = (64, 128, 256, 512)
    norm: str = "instance"
    spectral_norm: bool = False
    bn_axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, image: jax.Array, mask: jax.Array, *, train: bool, features: bool = False
    ) -> list[jax.Array] | tuple[list[jax.Array], list[list[jax.Array]]]:
        """Judges pairs.

        Args:
          image: (B, H, W, 3), about [0, 1].
          mask: (B, H, W, C) in [0, 1], one-hot or probabilities; differentiated like the image.
          train: whether power iterations are advanced.
          features: whether the hidden activations are returned too.

        Returns:
          Logits (B, h, w, 1) float32 of each size, or (logits, hidden activations of each size).
        """
        pair = jnp.concatenate([image, mask.astype(image.dtype)], -1)
        logits, hidden = [], []
        for n in range(self.sizes):
            if n > 0:
                # A border pixel is the mean of what there is, as in the source.
                pair = nn.avg_pool(
                    pair, (3, 3), (2, 2), padding=((1, 1), (1, 1)), count_include_pad=False
                )
            judge = PatchDiscriminator(
                self.widths,
                self.norm,
                self.spectral_norm,
                self.bn_axis_name,
                self.dtype,
                name=f"size_{n}",
            )
            found, maps = judge(pair, train=train, features=True)
            logits.append(found)
            hidden.append(maps)
        return (logits, hidden) if features else logits
