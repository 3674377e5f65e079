"""Generator and segmenter trained together: low-resolution image in, enhanced image and mask out.

The segmentation loss is taken on the generator's output and flows through it, so that the generator
learns to draw what the segmenter needs, and the segmenter learns to read what the generator draws.

    python -m histojax.stages.joint --config=configs/joint.py
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from ml_collections import ConfigDict

from histojax import cli
from histojax.components import build, content, scoring
from histojax.components import gan as critic
from histojax.components.images import by_head, enhanced, probabilities, targets, unit
from histojax.components.state import State, advance, apply, create, mean_over, step_key
from histojax.models.generators import GENERATORS
from histojax.nuclei import postprocessing
from histojax.stages import segmentation
from histojax.stages.base import Capability, OneImage

Tree = Any
Batch = Mapping[str, jax.Array]


@dataclasses.dataclass(frozen=True, eq=False)
class Joint(segmentation.FindsNuclei, OneImage):
    """The stage; see `histojax.stages` for what its members mean.

    Attributes:
        mask_weight: of the mask loss on the enhanced image.
        real_mask_weight: of the mask loss on the real high-resolution image, which keeps the
            segmenter good at what it was trained for; 0 leaves it out.
        learn_from_step: network -> step at which it starts to learn; a network that never learns
            has no optimiser.
    """

    generator: nn.Module
    segmenter: nn.Module
    critic: critic.Critic | None
    optimizers: Mapping[str, optax.GradientTransformation]
    content: content.Content
    mask_loss: segmentation.MaskLoss
    mask_weight: float
    real_mask_weight: float
    threshold: float
    instances: postprocessing.Parameters | None
    ema_decay: float
    initial: Mapping[str, Tree]
    learn_from_step: Mapping[str, int]
    dtype: jnp.dtype

    capabilities: ClassVar[frozenset[Capability]] = frozenset({"enhance", "segment"})

    @property
    def fields(self) -> tuple[str, ...]:
        return ("lr", "hr", *self.segmenter.heads)

    @property
    def networks(self) -> dict[str, nn.Module]:
        found = {"generator": self.generator, "segmenter": self.segmenter}
        if self.critic is not None:
            found["discriminator"] = self.critic.discriminator
        return found

    def init(self, rng: jax.Array, batch: Batch) -> State:
        hr = unit(batch["hr"][:1], self.dtype)
        samples = {"generator": unit(batch["lr"][:1], self.dtype)}
        networks = {name: (m, samples.get(name, hr)) for name, m in self.networks.items()}
        return create(
            rng,
            networks,
            self.optimizers,
            averaged=("generator", "segmenter"),
            start={k: v for k, v in self.initial.items() if k in networks},
            frozen=self.content.frozen,
        )

    def train_step(
        self, state: State, batch: Batch, *, axis_name: str | None = None
    ) -> tuple[State, dict[str, jax.Array]]:
        lr, hr = unit(batch["lr"], self.dtype), unit(batch["hr"], self.dtype)
        maps = targets(batch, self.segmenter.heads, self.dtype)
        generator = self.generator.clone(bn_axis_name=axis_name)
        segmenter = self.segmenter.clone(bn_axis_name=axis_name)
        key = step_key(state, axis_name)

        def enhance(params: Tree) -> tuple[jax.Array, Tree]:
            return apply(generator, params, state.statistics["generator"], lr, key=key)

        def objective(sr: jax.Array, params: Tree) -> tuple[jax.Array, Any]:
            loss, terms = self.content.loss(state.frozen, sr, hr)
            if self.critic is not None:
                terms["loss_adversarial"] = self.critic.loss(
                    state, hr, sr, key=key, axis_name=axis_name
                )
                loss = loss + terms["loss_adversarial"]
            start = state.statistics["segmenter"]
            if self.real_mask_weight > 0:
                # Its statistics are dropped: the running ones, which are all that is used
                # afterwards, are to describe the enhanced images that the segmenter will read.
                logits, _ = apply(segmenter, params, start, hr, key=key)
                terms["loss_mask_real"] = self.mask_loss(logits, maps)
                loss = loss + self.real_mask_weight * terms["loss_mask_real"]
            logits, stats = apply(segmenter, params, start, sr, key=key)
            terms["loss_mask"] = self.mask_loss(logits, maps)
            terms["accuracy"] = segmentation.pixel_accuracy(logits, maps)
            loss = loss + self.mask_weight * terms["loss_mask"]
            return loss, (stats, {**terms, "loss": loss})

        sr, pullback, generator_stats = jax.vjp(enhance, state.params["generator"], has_aux=True)
        (sensitivity, segmenter_grads), (segmenter_stats, metrics) = jax.grad(
            objective, argnums=(0, 1), has_aux=True
        )(sr, state.params["segmenter"])
        grads, statistics = {}, {}
        if "generator" in self.optimizers:
            grads["generator"] = pullback(sensitivity)[0]
            statistics["generator"] = generator_stats
        if "segmenter" in self.optimizers:
            grads["segmenter"] = segmenter_grads
            statistics["segmenter"] = segmenter_stats
        if "discriminator" in self.optimizers:
            grads["discriminator"], statistics["discriminator"], more = self.critic.gradients(
                state, hr, sr, key=key, axis_name=axis_name
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

    def enhance(self, state: State, lr: jax.Array) -> jax.Array:
        return enhanced(self.generator, state, lr, self.dtype)

    def segment(self, state: State, image: jax.Array) -> jax.Array:
        return probabilities(self.segmenter, state, image, self.dtype)

    def eval_step(self, state: State, batch: Batch) -> dict[str, jax.Array]:
        return self.predict(state, batch["lr"])

    def predict(self, state: State, image: jax.Array) -> dict[str, jax.Array]:
        sr = self.enhance(state, image)
        return {"sr": sr, **by_head(self.segment(state, sr), self.segmenter.heads)}

    def evaluate(
        self, outputs: Mapping[str, np.ndarray], batch: Mapping[str, np.ndarray]
    ) -> scoring.Sums:
        images = (outputs["sr"], batch["hr"], batch["weight"])
        return {
            **scoring.score_images(*images),
            **scoring.score_detail(*images, self.generator.scale),
            **segmentation.score(outputs, batch, self.threshold, self.instances),
        }

    def adversarial_from(self) -> int | None:
        return None if self.critic is None else self.critic.adversarial_from(self.learn_from_step)

    def phases(self) -> tuple[tuple[int, str], ...]:
        adversarial = 0 if self.critic is None else self.critic.warmup
        return build.phases(self.learn_from_step, self.networks, adversarial)


def build_stage(config: ConfigDict, initial: Mapping[str, Tree]) -> Joint:
    """The stage that a config describes; `initial` are variables of earlier runs, by network.

    Raises:
        UserError: for a config value that cannot be used.
    """
    dtype = build.compute_dtype(config)
    generator = build.network(
        GENERATORS, config.generator, "generator", scale=config.data.scale, dtype=dtype
    )
    segmenter = segmentation.build_segmenter(config, dtype)
    judge = critic.build_critic(config, dtype=dtype)
    learn_from_step = build.learning_steps(
        config.learn_from_step, ("generator", "segmenter", "discriminator")
    )
    groups = {
        "generator": "optimizer",
        "segmenter": "segmenter_optimizer",
        "discriminator": "discriminator_optimizer",
    }
    if judge is None:
        del groups["discriminator"]
    return Joint(
        generator=generator,
        segmenter=segmenter,
        critic=judge,
        optimizers={
            name: build.optimizer(config[group], config.steps, group)
            for name, group in groups.items()
            if name in learn_from_step
        },
        content=content.build_content(config.loss, segmenter, initial),
        mask_loss=segmentation.build_mask_loss(config.loss),
        mask_weight=config.loss.mask_weight,
        real_mask_weight=config.loss.real_mask_weight,
        threshold=config.threshold,
        instances=segmentation.build_instances(config, segmenter),
        ema_decay=config.ema_decay,
        initial=initial,
        learn_from_step=learn_from_step,
        dtype=jnp.promote_types(dtype, jnp.float32),
    )


if __name__ == "__main__":
    cli.run_stage("joint")
