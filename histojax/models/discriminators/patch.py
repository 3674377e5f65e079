"""The 70x70 PatchGAN: judges every overlapping patch of an image as real or generated.

Isola et al. 2017 (pix2pix, section 6.1.2: C64-C128-C256-C512 and a convolution to one channel).
"""

import flax.linen as nn
import jax

from histojax.models.layers import Network, full_precision, normalize

PADDING = ((1, 1), (1, 1))


class PatchDiscriminator(Network):
    """Images to a map of logits, one for each receptive field of 70 x 70 pixels.

    4x4 convolutions padded by 1 on every side, as in PyTorch; all but the last two have stride 2.
    Channels beyond RGB (a mask to be judged together with the image) are accepted.

    Attributes:
      widths: channels of the convolutions before the last; four give the 70-pixel field.
      norm: "instance", "batch" or "none"; the first and the last convolution have none.
      spectral_norm: divides every kernel by its largest singular value (Miyato et al. 2018); the
        power iteration's vectors are the collection "spectral", advanced when train is true.
    """

    widths: tuple[int, ...] = (64, 128, 256, 512)
    norm: str = "instance"
    spectral_norm: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool, features: bool = False
    ) -> jax.Array | tuple[jax.Array, list[jax.Array]]:
        """Images (B, H, W, C) in [0, 1] to logits (B, h, w, 1) float32.

        `train`: whether batch statistics and power iterations are advanced. With `features` the
        activations of the hidden layers, [(B, h_i, w_i, C_i), ...], are returned too.

        Raises:
            ValueError: the image is so small that no logit is left, of which no mean can be taken.
        """
        # The last two convolutions take a pixel each.
        least = 3 * 2 ** (len(self.widths) - 1)
        if min(x.shape[1:3]) < least:
            raise ValueError(
                f"images of {x.shape[1]} x {x.shape[2]} px leave a discriminator of "
                f"{len(self.widths)} widths no patch: it needs {least} x {least} px or more"
            )
        hidden = []
        x = (2 * x - 1).astype(self.dtype)
        last = len(self.widths)
        for i, width in enumerate((*self.widths, 1)):
            normalized = 0 < i < last and self.norm != "none"
            conv = nn.Conv(
                width,
                (4, 4),
                strides=2 if i < last - 1 else 1,
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
            if i < last:
                x = nn.leaky_relu(x, 0.2)
                hidden.append(x)
        logits = full_precision(x)
        return (logits, hidden) if features else logits
