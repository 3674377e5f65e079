"""Pre-training of the generator with a pixel loss: low-resolution image in, high-resolution out.

python -m histojax.stages.generator --config=configs/generator.py
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from ml_collections import ConfigDict

from histojax import cli
from histojax.components import content, networks, optimizers, scoring
from histojax.components.images import quantize, unit
from histojax.components.state import State, Tree, apply, step_key
from histojax.models.generators import GENERATORS
from histojax.stages.base import Arrays, Batch, Capability, Common, Stepped, common_fields


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class EnhancesImages(Common):
    """The members that all stages with a generator share."""

    generator: Any
    content: content.Content

    @property
    def frozen(self) -> Mapping[str, Tree]:
        return self.content.frozen

    def enhance(self, state: State, lr: jax.Array) -> jax.Array:
        variables = state.variables("generator", averaged=True)
        return quantize(self.generator.apply(variables, unit(lr, self.dtype), train=False))

    def eval_step(self, state: State, batch: Batch) -> dict[str, jax.Array]:
        return self.predict(state, batch["lr"])

    def predict(self, state: State, image: jax.Array) -> dict[str, jax.Array]:
        return {"sr": self.enhance(state, image)}


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Generator(EnhancesImages):
    """The stage; see `histojax.stages.base` for its members."""

    capabilities: ClassVar[frozenset[Capability]] = frozenset({"enhance"})
    fields = ("lr", "hr")
    annotations = ()
    best = ("psnr_rgb", "max")

    @property
    def networks(self) -> dict[str, nn.Module]:
        return {"generator": self.generator}

    def train_step(self, state: State, batch: Batch, *, axis_name: str | None = None) -> Stepped:
        lr, hr = unit(batch["lr"], self.dtype), unit(batch["hr"], self.dtype)
        generator = self.generator.clone(bn_axis_name=axis_name)
        key = step_key(state, axis_name)

        def objective(params: Tree) -> tuple[jax.Array, Any]:
            sr, stats = apply(
                generator, params, state.statistics["generator"], lr, key=key, remat=self.remat
            )
            loss, terms = self.content.loss(state.frozen, sr, hr)
            error = jnp.mean(jnp.square(jnp.clip(sr, 0.0, 1.0) - hr), (1, 2, 3))
            psnr = jnp.mean(-10.0 * jnp.log10(jnp.maximum(error, 1e-10)))
            return loss, (stats, {**terms, "loss": loss, "psnr": psnr})

        return self.learn(state, objective, axis_name)

    def evaluate(self, outputs: Arrays, batch: Arrays) -> scoring.Sums:
        return scoring.score_images(outputs["sr"], batch["hr"], batch["weight"])


def build_generator(config: ConfigDict) -> Any:
    """The network of group `generator`; UserError for a field that cannot be used."""
    return networks.network(GENERATORS, config, "generator", scale=config.data.scale)


def build_stage(config: ConfigDict, initial: Mapping[str, Tree]) -> Generator:
    """As `histojax.stages.build_stage`."""
    return Generator(
        **common_fields(config, initial),
        generator=build_generator(config),
        optimizers={"generator": optimizers.optimizer_of(config, "generator")},
        content=content.build_content(config.loss, None, initial),
    )


if __name__ == "__main__":
    cli.run_stage("generator")
