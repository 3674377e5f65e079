"""Adversarial training of the generator: feature, adversarial and pixel terms.

python -m histojax.stages.srgan --config=configs/srgan.py
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
from histojax.components.images import enhanced, unit
from histojax.components.state import State, advance, apply, create, mean_over, step_key
from histojax.models.generators import GENERATORS
from histojax.stages import segmentation
from histojax.stages.base import Capability, OneImage

Tree = Any
Batch = Mapping[str, jax.Array]


@dataclasses.dataclass(frozen=True, eq=False)
class SRGAN(OneImage):
    """The stage; see `histojax.stages` for what its members mean."""

    generator: nn.Module
    critic: critic.Critic | None
    optimizers: Mapping[str, optax.GradientTransformation]
    content: content.Content
    ema_decay: float
    initial: Mapping[str, Tree]
    learn_from_step: Mapping[str, int]
    dtype: jnp.dtype

    fields = ("lr", "hr")
    annotations = ()
    # Distortion and likeness to real tissue pull apart here, so no metric of distortion may pick
    # the checkpoint; the last one is the run's result.
    capabilities: ClassVar[frozenset[Capability]] = frozenset({"enhance"})
    best = ("step", "max")

    @property
    def networks(self) -> dict[str, nn.Module]:
        found = {"generator": self.generator}
        if self.critic is not None:
            found["discriminator"] = self.critic.discriminator
        return found

    def init(self, rng: jax.Array, batch: Batch) -> State:
        networks = {"generator": (self.generator, unit(batch["lr"][:1], self.dtype))}
        if self.critic is not None:
            sample = unit(batch["hr"][:1], self.dtype)
            networks["discriminator"] = (self.critic.discriminator, sample)
        return create(
            rng,
            networks,
            self.optimizers,
            averaged=("generator",),
            start={k: v for k, v in self.initial.items() if k in networks},
            frozen=self.content.frozen,
        )

    def train_step(
        self, state: State, batch: Batch, *, axis_name: str | None = None
    ) -> tuple[State, dict[str, jax.Array]]:
        lr, hr = unit(batch["lr"], self.dtype), unit(batch["hr"], self.dtype)
        generator = self.generator.clone(bn_axis_name=axis_name)
        key = step_key(state, axis_name)

        def enhance(params: Tree) -> tuple[jax.Array, Tree]:
            return apply(generator, params, state.statistics["generator"], lr, key=key)

        def objective(sr: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
            loss, terms = self.content.loss(state.frozen, sr, hr)
            if self.critic is not None:
                adversarial = self.critic.loss(state, hr, sr, key=key, axis_name=axis_name)
                terms["loss_adversarial"] = adversarial
                loss = loss + adversarial
            return loss, {**terms, "loss": loss}

        sr, pullback, stats = jax.vjp(enhance, state.params["generator"], has_aux=True)
        sensitivity, metrics = jax.grad(objective, has_aux=True)(sr)
        grads, statistics = {}, {}
        if "generator" in self.optimizers:
            grads["generator"] = pullback(sensitivity)[0]
            statistics["generator"] = stats
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

    def eval_step(self, state: State, batch: Batch) -> dict[str, jax.Array]:
        return self.predict(state, batch["lr"])

    def predict(self, state: State, image: jax.Array) -> dict[str, jax.Array]:
        return {"sr": self.enhance(state, image)}

    def evaluate(
        self, outputs: Mapping[str, np.ndarray], batch: Mapping[str, np.ndarray]
    ) -> scoring.Sums:
        images = (outputs["sr"], batch["hr"], batch["weight"])
        return {
            **scoring.score_images(*images),
            **scoring.score_detail(*images, self.generator.scale),
        }

    def adversarial_from(self) -> int | None:
        return None if self.critic is None else self.critic.adversarial_from(self.learn_from_step)

    def phases(self) -> tuple[tuple[int, str], ...]:
        if self.critic is None:
            return ((0, "generator learns without a discriminator"),)
        return build.phases(self.learn_from_step, self.networks, self.critic.warmup)


def build_stage(config: ConfigDict, initial: Mapping[str, Tree]) -> SRGAN:
    """The stage that a config describes; `initial` are variables of earlier runs, by network.

    Raises:
        UserError: for a config value that cannot be used.
    """
    dtype = build.compute_dtype(config)
    generator = build.network(
        GENERATORS, config.generator, "generator", scale=config.data.scale, dtype=dtype
    )
    segmenter = segmentation.build_segmenter(config, dtype) if "segmenter" in initial else None
    judge = critic.build_critic(config, dtype=dtype)
    learn_from_step = build.learning_steps(config.learn_from_step, ("generator", "discriminator"))
    groups = {"generator": "optimizer", "discriminator": "discriminator_optimizer"}
    if judge is None:
        del groups["discriminator"]
    return SRGAN(
        generator=generator,
        critic=judge,
        optimizers={
            name: build.optimizer(config[group], config.steps, group)
            for name, group in groups.items()
            if name in learn_from_step
        },
        content=content.build_content(config.loss, segmenter, initial),
        ema_decay=config.ema_decay,
        initial=initial,
        learn_from_step=learn_from_step,
        dtype=jnp.promote_types(dtype, jnp.float32),
    )


if __name__ == "__main__":
    cli.run_stage("srgan")
