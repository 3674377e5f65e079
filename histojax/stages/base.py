"""What every training stage is: pure functions over an explicit state, and what it can do."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from ml_collections import ConfigDict

from histojax.components import networks
from histojax.components.images import unit
from histojax.components.scoring import Sums
from histojax.components.state import State, Tree, advance, create, mean_over
from histojax.data.sources.base import Source
from histojax.nuclei import postprocessing

Batch = Mapping[str, jax.Array]
Arrays = Mapping[str, np.ndarray]
Stepped = tuple[State, dict[str, jax.Array]]  # the next state, and metrics
Capability = Literal["enhance", "segment", "synthesize"]


class Stage(Protocol):
    """A frozen dataclass, made by its module's `build_stage(config, initial)`.

    Attributes:
        fields: the batch arrays it needs: "lr", "hr" uint8 (B, H, W, 3), "mask" (B, H, W) and what
            else its segmenter's heads are named after; "labelled" (B, H, W) where it learns from
            images without labels too, "tissue" uint8 (B, H, W, 3) where it starts from that.
        annotations: batch arrays that `evaluate` needs besides, int32 "instances" or none.
        networks: name -> linen module.
        best: (metric name, "max" | "min"), which picks the best checkpoint.
        capabilities: what a trained run of it does; see `enhances`, `segments` and `synthesizes`.
    """

    @property
    def fields(self) -> tuple[str, ...]: ...

    @property
    def annotations(self) -> tuple[str, ...]: ...

    @property
    def networks(self) -> Mapping[str, nn.Module]: ...

    @property
    def best(self) -> tuple[str, str]: ...

    @property
    def capabilities(self) -> frozenset[Capability]: ...

    def inputs(self, batch: Batch) -> Mapping[str, tuple[jax.Array, ...]]:
        """Each network's inputs for the first image of a batch, floats in [0, 1]."""

    def init(self, rng: jax.Array, batch: Batch) -> State: ...

    def train_step(self, state: State, batch: Batch, *, axis_name: str | None = None) -> Stepped:
        """A per-device program."""

    def eval_step(self, state: State, batch: Batch) -> dict[str, jax.Array]: ...

    def predict(self, state: State, image: jax.Array) -> dict[str, jax.Array]:
        """{"sr": uint8, head: map in [0, 1]}, or one of the two, of uint8 images."""

    def evaluate(self, outputs: Arrays, batch: Arrays) -> Sums:
        """On the host: {name: (sum, count)}, divided once at the end."""

    def phases(self) -> tuple[tuple[int, str], ...]:
        """((step, what learns from there on), ...)."""

    def adversarial_from(self) -> int | None:
        """Step from which generator and discriminator play against each other; None: never."""


class Enhancer(Stage, Protocol):
    """A stage with a generator."""

    @property
    def generator(self) -> Any: ...

    def enhance(self, state: State, lr: jax.Array) -> jax.Array:
        """uint8 (B, h, w, 3) -> uint8 (B, r h, r w, 3)."""


class Segmenter(Stage, Protocol):
    """A stage with a segmenter."""

    @property
    def segmenter(self) -> Any: ...

    @property
    def instances(self) -> postprocessing.Parameters | None:
        """How its maps become nuclei; None: by connected components of the mask."""

    def segment(self, state: State, image: jax.Array) -> jax.Array:
        """uint8 (B, H, W, 3) -> its heads' maps (B, H, W, C) in [0, 1]."""


class Synthesizer(Stage, Protocol):
    """A stage that makes tissue for a mask."""

    def palette_of(self, source: Source) -> Any:
        """What synthesis draws colours from; checkpoints keep it."""


def enhances(stage: Stage) -> TypeGuard[Enhancer]:
    """Whether it turns a low-resolution image into a high-resolution one."""
    return "enhance" in stage.capabilities


def segments(stage: Stage) -> TypeGuard[Segmenter]:
    """Whether it finds nuclei in an image."""
    return "segment" in stage.capabilities


def synthesizes(stage: Stage) -> TypeGuard[Synthesizer]:
    """Whether it makes tissue for a mask."""
    return "synthesize" in stage.capabilities


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Common:
    """What stages share: how they start, and a step of one network.

    `initial` are variables of earlier runs, by network, and `dtype` that of images inside a step;
    `remat` as of `state.apply`.
    """

    optimizers: Mapping[str, optax.GradientTransformation]
    ema_decay: float
    initial: Mapping[str, Tree]
    dtype: Any
    remat: bool

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        raise NotImplementedError

    @property
    def averaged(self) -> tuple[str, ...]:
        """Networks whose variables are averaged."""
        return tuple(name for name in self.networks if name != "discriminator")

    @property
    def frozen(self) -> Mapping[str, Tree]:
        """Variables that a step reads and never trains."""
        return {}

    @property
    def parts(self) -> Mapping[str, Mapping[str, Tree]]:
        """Variables of submodules by network, in place of fresh ones."""
        return {}

    def inputs(self, batch: Batch) -> Mapping[str, tuple[jax.Array, ...]]:
        """One image for each network, for the generator the low-resolution one."""
        images = {name: batch["lr" if name == "generator" else "hr"] for name in self.networks}
        return {name: (unit(image[:1], self.dtype),) for name, image in images.items()}

    def init(self, rng: jax.Array, batch: Batch) -> State:
        inputs = self.inputs(batch)
        return create(
            rng,
            {name: (module, inputs[name]) for name, module in self.networks.items()},
            self.optimizers,
            averaged=self.averaged,
            start=self.initial,
            parts=self.parts,
            frozen=self.frozen,
        )

    def learn(self, state: State, objective: Callable[..., Any], axis_name: str | None) -> Stepped:
        """A step of the one network; `objective`: parameters -> (loss, (statistics, metrics))."""
        (name,) = self.networks
        grads, (stats, metrics) = jax.grad(objective, has_aux=True)(state.params[name])
        grads, stats, metrics = mean_over((grads, stats, metrics), axis_name)
        return advance(
            state, self.optimizers, {name: grads}, {name: stats}, metrics, ema_decay=self.ema_decay
        )

    def phases(self) -> tuple[tuple[int, str], ...]:
        (name,) = self.networks
        return ((0, f"{name} learns"),)

    def adversarial_from(self) -> int | None:
        return None


def common_fields(config: ConfigDict, initial: Mapping[str, Tree]) -> dict[str, Any]:
    """The fields of `Common` but for the optimizers."""
    dtype = jnp.promote_types(networks.compute_dtype(config), jnp.float32)
    remat = config.get("remat", False)  # which runs of before do not have
    return {"ema_decay": config.ema_decay, "initial": initial, "dtype": dtype, "remat": remat}
