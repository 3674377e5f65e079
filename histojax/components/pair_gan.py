"""What generator and segmentor of a pyramid learn from the discriminator of pairs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from histojax.components import build
from histojax.errors import UserError
from histojax.losses import adversarial
from histojax.losses.pixel import absolute
from histojax.models.layers import full_precision


@dataclasses.dataclass(frozen=True)
class Contest:
    """What generator and segmentor learn from the discriminator.

    Attributes:
      kind: key of losses.adversarial.KINDS.
      weight: of its judgement of images in the generator's loss.
      matching_weight: of the difference of its hidden activations, generated against real.
      moments_weight: of the difference of each label's mean colour and its deviation; of ground
        and nuclei where tissue is started from.
      added_weight: of what a generator adds to what it is given, mean absolute value: the
        self-regularisation of Shrivastava et al. 2017 (CVPR, section 2.1), which compares images
        in pixels too, here at every scale by itself.
      mask_adversarial_weight, mask_matching_weight: the same of predicted masks, in the
        segmentor's.
    """

    kind: str
    weight: float
    matching_weight: float
    moments_weight: float
    added_weight: float
    mask_adversarial_weight: float
    mask_matching_weight: float


def matching(
    found: Sequence[Sequence[jax.Array]], wanted: Sequence[Sequence[jax.Array]]
) -> jax.Array:
    """Mean absolute difference of hidden activations, summed over layers, averaged over sizes, ().

    pix2pixHD's feature matching (Wang et al. 2018, eq. 4) with the weights of its code for four
    layers.
    """
    each = [
        sum(jnp.mean(absolute(full_precision(f - w))) for f, w in zip(size, other, strict=True))
        for size, other in zip(found, wanted, strict=True)
    ]
    return jnp.mean(jnp.stack(each))


def build_contest(config: ConfigDict) -> Contest:
    """The contest of config group `loss`.

    Raises:
        UserError: for a form that is not known or a weight below 0.
    """
    group = config.adversarial
    build.choice(group.kind, adversarial.KINDS, "loss.adversarial.kind")
    if group.weight < 0:
        raise UserError(f"loss.adversarial.weight={group.weight} has to be 0 or more")
    names = (
        "matching_weight",
        "moments_weight",
        "added_weight",
        "mask_adversarial_weight",
        "mask_matching_weight",
    )
    weights = {name: config.get(name, 0.0) for name in names}  # older runs lack the newest
    for name, weight in weights.items():
        if weight < 0:
            raise UserError(f"loss.{name}={weight} has to be 0 or more")
    return Contest(group.kind, group.weight, **weights)
