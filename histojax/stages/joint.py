"""Generator and segmenter trained together: low-resolution image in, enhanced image and mask out.

The segmentation loss is taken on the generator's output and flows through it, so that the generator
learns to draw for the segmenter, and the segmenter learns to read the generator's images.

    python -m histojax.stages.joint --config=configs/joint.py
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from histojax import cli
from histojax.components import content, gan, networks, optimizers, scoring
from histojax.components.images import by_head, probabilities, targets
from histojax.components.state import State, apply
from histojax.nuclei import postprocessing
from histojax.stages import segmentation
from histojax.stages.base import Batch, Capability
from histojax.stages.generator import build_generator
from histojax.stages.srgan import Adversarial

Tree = Any


@dataclasses.dataclass(frozen=True, eq=False)
class Joint(segmentation.FindsNuclei, Adversarial):
    """The stage; see `histojax.stages.base` for its members.

    Attributes:
        mask_weight: of the mask loss on the enhanced image.
        real_mask_weight: of the mask loss on the real high-resolution image, which keeps the
            segmenter's skill; 0 leaves it out.
        learn_from_step: network -> step at which it starts to learn; a network that never learns
            has no optimiser.
    """

    segmenter: Any
    mask_loss: segmentation.MaskLoss
    mask_weight: float
    real_mask_weight: float
    threshold: float
    instances: postprocessing.Parameters | None

    capabilities: ClassVar[frozenset[Capability]] = frozenset({"enhance", "segment"})
    averaged: ClassVar[tuple[str, ...]] = ("generator", "segmenter")
    readers: ClassVar[tuple[str, ...]] = ("segmenter",)

    @property
    def fields(self) -> tuple[str, ...]:
        return ("lr", "hr", *self.segmenter.heads)

    def objective(
        self,
        state: State,
        batch: Batch,
        sr: jax.Array,
        hr: jax.Array,
        params: Mapping[str, Tree],
        *,
        key: jax.Array,
        axis_name: str | None,
    ) -> tuple[jax.Array, tuple[dict[str, Tree], dict[str, jax.Array]]]:
        loss, (_, terms) = super().objective(
            state, batch, sr, hr, params, key=key, axis_name=axis_name
        )
        maps = targets(batch, self.segmenter.heads, self.dtype)
        segmenter = self.segmenter.clone(bn_axis_name=axis_name)
        own, start = params["segmenter"], state.statistics["segmenter"]
        if self.real_mask_weight > 0:
            # The statistics are dropped: the running ones are used afterwards, and have to
            # describe the enhanced images that the segmenter will read.
            logits, _ = apply(segmenter, own, start, hr, key=key)
            terms["loss_mask_real"] = self.mask_loss(logits, maps)
            loss = loss + self.real_mask_weight * terms["loss_mask_real"]
        logits, stats = apply(segmenter, own, start, sr, key=key)
        terms["loss_mask"] = self.mask_loss(logits, maps)
        terms["accuracy"] = segmentation.pixel_accuracy(logits, maps)
        loss = loss + self.mask_weight * terms["loss_mask"]
        return loss, ({"segmenter": stats}, terms)

    def segment(self, state: State, image: jax.Array) -> jax.Array:
        return probabilities(self.segmenter, state, image, self.dtype)

    def predict(self, state: State, image: jax.Array) -> dict[str, jax.Array]:
        sr = self.enhance(state, image)
        return {"sr": sr, **by_head(self.segment(state, sr), self.segmenter.heads)}

    def evaluate(
        self, outputs: Mapping[str, np.ndarray], batch: Mapping[str, np.ndarray]
    ) -> scoring.Sums:
        return {
            **super().evaluate(outputs, batch),
            **segmentation.score(outputs, batch, self.threshold, self.instances),
        }


def build_stage(config: ConfigDict, initial: Mapping[str, Tree]) -> Joint:
    """The stage that a config describes; `initial` are variables of earlier runs, by network.

    Raises:
        UserError: for a config value that cannot be used.
    """
    dtype = networks.compute_dtype(config)
    segmenter = segmentation.build_segmenter(config, dtype)
    critic = gan.build_critic(config, dtype=dtype)
    trained = ("generator", "segmenter", *(() if critic is None else ("discriminator",)))
    made, learn_from_step = optimizers.optimizers(config, trained)
    return Joint(
        generator=build_generator(config, dtype),
        segmenter=segmenter,
        critic=critic,
        optimizers=made,
        content=content.build_content(config.loss, segmenter, initial),
        mask_loss=segmentation.build_mask_loss(config.loss),
        mask_weight=config.loss.mask_weight,
        real_mask_weight=config.loss.real_mask_weight,
        threshold=config.threshold,
        instances=segmentation.build_instances(config, segmenter.heads),
        ema_decay=config.ema_decay,
        initial=initial,
        learn_from_step=learn_from_step,
        dtype=jnp.promote_types(dtype, jnp.float32),
    )


if __name__ == "__main__":
    cli.run_stage("joint")
