"""Adversarial training of the generator: feature, adversarial and pixel terms.

python -m histojax.stages.srgan --config=configs/srgan.py
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
from flax import linen as nn
from ml_collections import ConfigDict

from histojax import cli
from histojax.components import content, gan, optimizers, scoring
from histojax.components.images import unit
from histojax.components.state import State, Tree, advance, apply, mean_over, step_key
from histojax.stages import segmentation
from histojax.stages.base import Arrays, Batch, Capability, Stepped, common_fields
from histojax.stages.generator import EnhancesImages, build_generator


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Adversarial(EnhancesImages):
    """A generator trained against a discriminator, perhaps with networks that read its images.

    Both sides learn from the same, not yet updated networks. The generator's gradient is followed
    back from its image, so that one call of the generator serves all losses.
    """

    critic: gan.Critic | None
    learn_from_step: Mapping[str, int]

    # Networks besides the generator that its loss trains.
    readers: ClassVar[tuple[str, ...]] = ()

    @property
    def networks(self) -> dict[str, nn.Module]:
        found = {name: getattr(self, name) for name in ("generator", *self.readers)}
        judge = {} if self.critic is None else {"discriminator": self.critic.discriminator}
        return {**found, **judge}

    def objective(
        self, state: State, batch: Batch, sr: jax.Array, params: Tree, axis_name: str | None
    ) -> tuple[jax.Array, tuple[dict[str, Tree], dict[str, jax.Array]]]:
        """(loss (), (statistics of the readers, the loss's terms)).

        `sr` is the generator's image, (B, H, W, 3) in [0, 1]; `params` are those of the readers.
        """
        hr = unit(batch["hr"], self.dtype)
        loss, terms = self.content.loss(state.frozen, sr, hr)
        if self.critic is not None:
            terms["loss_adversarial"] = self.critic.loss(state, hr, sr, axis_name)
            loss = loss + terms["loss_adversarial"]
        return loss, ({}, terms)

    def train_step(self, state: State, batch: Batch, *, axis_name: str | None = None) -> Stepped:
        lr, hr = unit(batch["lr"], self.dtype), unit(batch["hr"], self.dtype)
        generator = self.generator.clone(bn_axis_name=axis_name)
        key = step_key(state, axis_name)

        def enhance(params: Tree) -> tuple[jax.Array, Tree]:
            return apply(
                generator, params, state.statistics["generator"], lr, key=key, remat=self.remat
            )

        def objective(sr: jax.Array, params: Mapping[str, Tree]) -> tuple[jax.Array, Any]:
            loss, (stats, terms) = self.objective(state, batch, sr, params, axis_name)
            return loss, (stats, {**terms, "loss": loss})

        sr, pullback, stats = jax.vjp(enhance, state.params["generator"], has_aux=True)
        (sensitivity, grads), (statistics, metrics) = jax.grad(
            objective, argnums=(0, 1), has_aux=True
        )(sr, {name: state.params[name] for name in self.readers})
        grads = {"generator": pullback(sensitivity)[0], **grads}
        statistics = {"generator": stats, **statistics}
        grads = {name: grad for name, grad in grads.items() if name in self.optimizers}
        statistics = {name: found for name, found in statistics.items() if name in self.optimizers}
        if self.critic is not None and "discriminator" in self.optimizers:
            grads["discriminator"], statistics["discriminator"], more = self.critic.gradients(
                state, hr, sr, axis_name
            )
            metrics = {**metrics, **more}
        grads, statistics, metrics = mean_over((grads, statistics, metrics), axis_name)
        return advance(
            state,
            self.optimizers,
            grads,
            statistics,
            metrics,
            ema_decay=self.ema_decay,
            learn_from_step=self.learn_from_step,
        )

    def evaluate(self, outputs: Arrays, batch: Arrays) -> scoring.Sums:
        images = (outputs["sr"], batch["hr"], batch["weight"])
        return {
            **scoring.score_images(*images),
            **scoring.score_detail(*images, self.generator.scale),
        }

    def adversarial_from(self) -> int | None:
        return None if self.critic is None else self.critic.adversarial_from(self.learn_from_step)

    def phases(self) -> tuple[tuple[int, str], ...]:
        warmup = 0 if self.critic is None else self.critic.warmup
        return optimizers.phases(self.learn_from_step, self.networks, warmup)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class SRGAN(Adversarial):
    """The stage; see `histojax.stages.base` for its members."""

    capabilities: ClassVar[frozenset[Capability]] = frozenset({"enhance"})
    fields = ("lr", "hr")
    annotations = ()
    # Distortion and likeness to real tissue pull apart here, so no metric of distortion may pick
    # the checkpoint; the last one is the run's result.
    best = ("step", "max")

    def phases(self) -> tuple[tuple[int, str], ...]:
        if self.critic is None:
            return ((0, "generator learns without a discriminator"),)
        return super().phases()


def build_stage(config: ConfigDict, initial: Mapping[str, Tree]) -> SRGAN:
    """As `histojax.stages.build_stage`."""
    common = common_fields(config, initial)
    segmenter = segmentation.build_segmenter(config) if "segmenter" in initial else None
    critic = gan.build_critic(config)
    trained = ("generator",) if critic is None else ("generator", "discriminator")
    made, learn_from_step = optimizers.optimizers(config, trained)
    return SRGAN(
        **common,
        generator=build_generator(config),
        critic=critic,
        optimizers=made,
        content=content.build_content(config.loss, segmenter, initial),
        learn_from_step=learn_from_step,
    )


if __name__ == "__main__":
    cli.run_stage("srgan")
