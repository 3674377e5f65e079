"""Discriminators that give one judgement of a whole image: SRGAN's, and that of Juhong et al. 2021.

Both are eight 3x3 convolutions, a hidden dense layer and one logit. SRGAN's (Ledig et al. 2017,
figure 4) halves the size at every second convolution and normalises before the leaky ReLU; the
other halves it at every one, so that 256 pixels become one, and normalises after it.
"""

import flax.linen as nn
import jax

from histojax.checks import check, one_of
from histojax.models.layers import Network, full_precision, normalize

_RULES = {
    "halving": one_of(("alternate", "every")),
    "order": one_of(("norm_first", "activation_first")),
    "norm": one_of(("batch", "keras_batch", "none")),
}


class ScalarDiscriminator(Network):
    """Images of one size to one logit each.

    The dense layer reads the whole last map, so the network is tied to its size of image.

    Attributes:
      size: side in pixels of the images that it judges; others are refused.
      widths: channels of the convolutions.
      halving: "alternate" (the second, fourth, ... convolution has stride 2; SRGAN) or "every".
      order: "norm_first" (convolution, norm, leaky ReLU; SRGAN) or "activation_first".
      norm: "batch", "keras_batch" or "none"; the first convolution has none. Where a batch leaves
        one value a channel (one image, and the size halved down to one pixel), that value is its
        own mean: in training, nothing of the image then passes.
      dense: width of the hidden dense layer.
    """

    size: int = 256
    widths: tuple[int, ...] = (64, 64, 128, 128, 256, 256, 512, 512)
    halving: str = "alternate"
    order: str = "norm_first"
    norm: str = "batch"
    dense: int = 1024

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Images (B, size, size, C) in [0, 1] to logits (B, 1, 1, 1) float32.

        `train`: whether batch statistics are used and updated.

        Raises:
            ValueError: an image of another size or a value that is not offered.
        """
        check(vars(self), _RULES, error=ValueError)
        if x.shape[1:3] != (self.size, self.size):
            raise ValueError(
                f"an image of {x.shape[1]} x {x.shape[2]} pixels does not fit a scalar "
                f"discriminator of size={self.size}, which judges images of that size alone"
            )
        x = (2 * x - 1).astype(self.dtype)
        for i, width in enumerate(self.widths):
            normalized = i > 0 and self.norm != "none"
            norm_first = self.order == "norm_first"
            x = nn.Conv(
                width,
                (3, 3),
                strides=2 if self.halving == "every" or i % 2 else 1,
                # A norm right behind it cancels a bias.
                use_bias=not (normalized and norm_first),
                kernel_init=nn.initializers.he_normal(),
                dtype=self.dtype,
                name=f"conv_{i}",
            )(x)
            if not norm_first:
                x = nn.leaky_relu(x, 0.2)
            if normalized:
                x = normalize(self, self.norm, x, f"norm_{i}", train=train)
            if norm_first:
                x = nn.leaky_relu(x, 0.2)
        x = x.reshape(x.shape[0], 1, 1, -1)
        x = nn.leaky_relu(nn.Dense(self.dense, dtype=self.dtype, name="dense")(x), 0.2)
        return nn.Dense(1, dtype=self.wide, name="logit")(full_precision(x))
