"""Discriminators, by the name that `discriminator.kind` of a config gives them; first: default.

A discriminator is a linen module with the fields `bn_axis_name` and `dtype` and a call from
(B, H, W, 3) in [0, 1] to logits (B, h, w, 1). The pyramid stage has its own, `pairs`.
"""

from flax import linen as nn

from histojax.models.discriminators.patch import PatchDiscriminator
from histojax.models.discriminators.scalar import ScalarDiscriminator

DISCRIMINATORS: dict[str, type[nn.Module]] = {
    "patch": PatchDiscriminator,
    "scalar": ScalarDiscriminator,
}
