"""The pyramid's discriminator: judges images together with masks (Wang et al. 2018, pix2pixHD)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from histojax.models.discriminators.patch import PADDING, PatchDiscriminator
from histojax.models.layers import Network, submodule


class PairDiscriminator(Network):
    """Judges images together with masks, at their size and at smaller ones (pix2pixHD).

    Each of the `sizes` is half of the one before and has a network of its own, with the other
    fields of `PatchDiscriminator`.
    """

    sizes: int = 2
    widths: tuple[int, ...] = (64, 128, 256, 512)
    norm: str = "instance"
    spectral_norm: bool = False

    @nn.compact
    def __call__(
        self, image: jax.Array, mask: jax.Array, *, train: bool, features: bool = False
    ) -> list[jax.Array] | tuple[list[jax.Array], list[list[jax.Array]]]:
        """Logits (B, h, w, 1) float32 of each size; with `features`, also its hidden activations.

        `image` is (B, H, W, 3), about [0, 1]; `mask` (B, H, W, C) in [0, 1] is one-hot or
        probabilities, and differentiated too. `train`: whether power iterations are advanced.
        """
        pair = jnp.concatenate([image, mask.astype(image.dtype)], -1)
        logits, hidden = [], []
        for n in range(self.sizes):
            if n > 0:
                # A border pixel is the mean of what there is, as in the source.
                pair = nn.avg_pool(pair, (3, 3), (2, 2), PADDING, count_include_pad=False)
            judge = submodule(self, PatchDiscriminator, name=f"size_{n}")
            found, maps = judge(pair, train=train, features=True)
            logits.append(found)
            hidden.append(maps)
        return (logits, hidden) if features else logits
