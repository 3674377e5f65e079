"""Generator and segmenter trained together: low-resolution image in, enhanced image and mask out.

The segmentation loss is taken on the generator's output and flows through it, so that the generator
learns to draw for the segmenter, and the segmenter learns to read the generator's images.

    python -m histojax.stages.joint --config=configs/joint.py
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import ClassVar

import jax
from ml_collections import ConfigDict

from histojax import cli
from histojax.components import content, gan, optimizers, scoring
from histojax.components.images import by_head, targets, unit
from histojax.components.state import State, Tree, apply, step_key
from histojax.stages import segmentation
from histojax.stages.base import Arrays, Batch, Capability, common_fields
from histojax.stages.generator import build_generator
from histojax.stages.srgan import Adversarial


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Joint(segmentation.FindsNuclei, Adversarial):
    """The stage; see `histojax.stages.base` for its members.

    `mask_weight` is of the mask loss on the enhanced image, `real_mask_weight` of that on the real
    one, which keeps the segmenter's skill; 0 leaves it out.
    """

    mask_loss: segmentation.MaskLoss
    mask_weight: float
    real_mask_weight: float

    capabilities: ClassVar[frozenset[Capability]] = frozenset({"enhance", "segment"})
    readers: ClassVar[tuple[str, ...]] = ("segmenter",)

    @property
    def fields(self) -> tuple[str, ...]:
        return ("lr", "hr", *self.segmenter.heads)

    def objective(
        self, state: State, batch: Batch, sr: jax.Array, params: Tree, axis_name: str | None
    ) -> tuple[jax.Array, tuple[dict[str, Tree], dict[str, jax.Array]]]:
        loss, (_, terms) = super().objective(state, batch, sr, params, axis_name)
        maps = targets(batch, self.segmenter.heads, self.dtype)
        segmenter = self.segmenter.clone(bn_axis_name=axis_name)
        read = functools.partial(
            apply,
            segmenter,
            params["segmenter"],
            state.statistics["segmenter"],
            key=step_key(state, axis_name),
        )
        if self.real_mask_weight > 0:
            # The statistics are dropped: the running ones are used afterwards, and have to
            # describe the enhanced images that the segmenter will read (without their anchor,
            # which moves colors by a level or two).
            # Both readings at once would keep twice a segmenter's activations.
            logits, _ = read(unit(batch["hr"], self.dtype), remat=True)
            terms["loss_mask_real"] = self.mask_loss(logits, maps)
            loss = loss + self.real_mask_weight * terms["loss_mask_real"]
        logits, stats = read(sr, remat=self.remat)
        terms["loss_mask"] = self.mask_loss(logits, maps)
        terms["accuracy"] = segmentation.pixel_accuracy(logits, maps)
        loss = loss + self.mask_weight * terms["loss_mask"]
        return loss, ({"segmenter": stats}, terms)

    def predict(self, state: State, image: jax.Array) -> dict[str, jax.Array]:
        sr = self.enhance(state, image)
        return {"sr": sr, **by_head(self.segment(state, sr), self.segmenter.heads)}

    def evaluate(self, outputs: Arrays, batch: Arrays) -> scoring.Sums:
        return {**super().evaluate(outputs, batch), **self.score(outputs, batch)}


def build_stage(config: ConfigDict, initial: Mapping[str, Tree]) -> Joint:
    """As `histojax.stages.build_stage`."""
    common = common_fields(config, initial)
    segmenter = segmentation.build_segmenter(config)
    critic = gan.build_critic(config)
    trained = ("generator", "segmenter", *(() if critic is None else ("discriminator",)))
    made, learn_from_step = optimizers.optimizers(config, trained)
    return Joint(
        **common,
        generator=build_generator(config),
        segmenter=segmenter,
        critic=critic,
        optimizers=made,
        content=content.build_content(config.loss, segmenter, initial),
        mask_loss=segmentation.build_mask_loss(config.loss),
        mask_weight=config.loss.mask_weight,
        real_mask_weight=config.loss.real_mask_weight,
        threshold=config.threshold,
        instances=segmentation.build_instances(config, segmenter.heads),
        learn_from_step=learn_from_step,
    )


if __name__ == "__main__":
    cli.run_stage("joint")
