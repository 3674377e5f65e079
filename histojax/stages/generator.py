"""Pre-training of the generator with a pixel loss: low-resolution image in, high-resolution out.

python -m histojax.stages.generator --config=configs/generator.py
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
from histojax.components import content, networks, optimizers, scoring
from histojax.components.images import enhanced, unit
from histojax.components.state import State, advance, apply, create, mean_over, step_key
from histojax.models.generators import GENERATORS
from histojax.stages.base import Batch, Capability, OneImage

Tree = Any


@dataclasses.dataclass(frozen=True, eq=False)
class EnhancesImages(OneImage):
    """The members that all stages with a generator share."""

    generator: Any
    optimizers: Mapping[str, optax.GradientTransformation]
    content: content.Content
    ema_decay: float
    initial: Mapping[str, Tree]
    dtype: Any

    averaged: ClassVar[tuple[str, ...]] = ("generator",)

    def init(self, rng: jax.Array, batch: Batch) -> State:
        lr, hr = unit(batch["lr"][:1], self.dtype), unit(batch["hr"][:1], self.dtype)
        return create(
            rng,
            {n: (module, lr if n == "generator" else hr) for n, module in self.networks.items()},
            self.optimizers,
            averaged=self.averaged,
            start={k: v for k, v in self.initial.items() if k in self.networks},
            frozen=self.content.frozen,
        )

    def enhance(self, state: State, lr: jax.Array) -> jax.Array:
        return enhanced(self.generator, state, lr, self.dtype)

    def eval_step(self, state: State, batch: Batch) -> dict[str, jax.Array]:
        return self.predict(state, batch["lr"])

    def predict(self, state: State, image: jax.Array) -> dict[str, jax.Array]:
        return {"sr": self.enhance(state, image)}


@dataclasses.dataclass(frozen=True, eq=False)
class Generator(EnhancesImages):
    """The stage; see `histojax.stages.base` for its members."""

    capabilities: ClassVar[frozenset[Capability]] = frozenset({"enhance"})
    fields = ("lr", "hr")
    annotations = ()
    best = ("psnr_rgb", "max")

    @property
    def networks(self) -> dict[str, nn.Module]:
        return {"generator": self.generator}

    def train_step(
        self, state: State, batch: Batch, *, axis_name: str | None = None
    ) -> tuple[State, dict[str, jax.Array]]:
        lr, hr = unit(batch["lr"], self.dtype), unit(batch["hr"], self.dtype)
        generator = self.generator.clone(bn_axis_name=axis_name)
        key = step_key(state, axis_name)

        def objective(params: Tree) -> tuple[jax.Array, Any]:
            sr, stats = apply(generator, params, state.statistics["generator"], lr, key=key)
            loss, terms = self.content.loss(state.frozen, sr, hr)
            error = jnp.mean(jnp.square(jnp.clip(sr, 0.0, 1.0) - hr), (1, 2, 3))
            psnr = jnp.mean(-10.0 * jnp.log10(jnp.maximum(error, 1e-10)))
            return loss, (stats, {**terms, "loss": loss, "psnr": psnr})

        grads, (stats, metrics) = jax.grad(objective, has_aux=True)(state.params["generator"])
        grads, stats, metrics = mean_over((grads, stats, metrics), axis_name)
        return advance(
            state,
            self.optimizers,
            {"generator": grads},
            {"generator": stats},
            metrics,
            ema_decay=self.ema_decay,
        )

    def evaluate(
        self, outputs: Mapping[str, np.ndarray], batch: Mapping[str, np.ndarray]
    ) -> scoring.Sums:
        return scoring.score_images(outputs["sr"], batch["hr"], batch["weight"])

    def phases(self) -> tuple[tuple[int, str], ...]:
        return ((0, "generator learns"),)


def build_generator(config: ConfigDict, dtype: Any) -> Any:
    """The network of group `generator`.

    Raises:
        UserError: for a field that cannot be used.
    """
    scale = config.data.scale
    return networks.network(GENERATORS, config.generator, "generator", scale=scale, dtype=dtype)


def build_stage(config: ConfigDict, initial: Mapping[str, Tree]) -> Generator:
    """The stage that a config describes; `initial` are variables of earlier runs, by network.

    Raises:
        UserError: for a config value that cannot be used.
    """
    dtype = networks.compute_dtype(config)
    optimizer = optimizers.optimizer(config.optimizer, config.steps, "optimizer")
    return Generator(
        generator=build_generator(config, dtype),
        optimizers={"generator": optimizer},
        content=content.build_content(config.loss, None, initial),
        ema_decay=config.ema_decay,
        initial=initial,
        dtype=jnp.promote_types(dtype, jnp.float32),
    )


if __name__ == "__main__":
    cli.run_stage("generator")
