"""Generators, by the name that `generator.kind` of a config gives them; the first is the default.

A generator is a linen module with the fields `scale`, `bn_axis_name` and `dtype`, the properties
`stride` and `halo`, and a call from (B, H, W, 3) in [0, 1] to (B, r H, r W, 3).
"""

from flax import linen as nn

from histojax.models.generators.juhong2021 import Juhong2021
from histojax.models.generators.resnext import ResNeXt
from histojax.models.generators.srresnet import SRResNet

GENERATORS: dict[str, type[nn.Module]] = {
    "resnext": ResNeXt,
    "srresnet": SRResNet,
    "juhong2021": Juhong2021,
}
