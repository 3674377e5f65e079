"""Segmenters, by the name that `segmenter.kind` of a config gives them; the first is the default.

A segmenter is a linen module with the fields `heads`, `bn_axis_name` and `dtype`, the properties
`stride`, `halo` and `depth`, a call from (B, H, W, 3) in [0, 1] to logits (B, H, W, heads), and
`encode`, which gives its feature maps by level. The pyramid stage has its own, `dense_unet`.
"""

from flax import linen as nn

from histojax.models.segmenters.inception_unet import InceptionUNet
from histojax.models.segmenters.se_unet import SEUNet
from histojax.models.segmenters.unet import UNet

SEGMENTERS: dict[str, type[nn.Module]] = {
    "inception_unet": InceptionUNet,
    "unet": UNet,
    "se_unet": SEUNet,
}
