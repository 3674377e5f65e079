"""What every training stage is: pure functions over an explicit state, and what it can do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol, TypeGuard

import jax
import numpy as np
from flax import linen as nn

from histojax.components.scoring import Sums
from histojax.components.state import State
from histojax.data.sources.base import Source
from histojax.nuclei import postprocessing

Batch = Mapping[str, jax.Array]
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

    @property
    def optimizers(self) -> Mapping[str, Any]: ...

    def inputs(self, batch: Batch) -> Mapping[str, tuple[jax.Array, ...]]:
        """Each network's inputs for a batch."""
        ...

    def init(self, rng: jax.Array, batch: Batch) -> State: ...

    def train_step(
        self, state: State, batch: Batch, *, axis_name: str | None = None
    ) -> tuple[State, dict[str, jax.Array]]:
        """(next state, metrics); a per-device program."""
        ...

    def eval_step(self, state: State, batch: Batch) -> dict[str, jax.Array]: ...

    def predict(self, state: State, image: jax.Array) -> dict[str, jax.Array]:
        """{"sr": uint8, head: map in [0, 1]}, or one of the two, of uint8 images."""
        ...

    def evaluate(self, outputs: Mapping[str, np.ndarray], batch: Mapping[str, np.ndarray]) -> Sums:
        """On the host: {name: (sum, count)}, divided once at the end."""
        ...

    def phases(self) -> tuple[tuple[int, str], ...]:
        """((step, what learns from there on), ...)."""
        ...

    def adversarial_from(self) -> int | None:
        """Step from which generator and discriminator play against each other; None: never."""
        ...


class Enhancer(Stage, Protocol):
    """A stage with a generator."""

    @property
    def generator(self) -> Any: ...

    def enhance(self, state: State, lr: jax.Array) -> jax.Array:
        """uint8 (B, h, w, 3) -> uint8 (B, r h, r w, 3)."""
        ...


class Segmenter(Stage, Protocol):
    """A stage with a segmenter."""

    @property
    def segmenter(self) -> Any: ...

    @property
    def instances(self) -> postprocessing.Parameters | None:
        """How its maps become nuclei; None: by connected components of the mask."""
        ...

    def segment(self, state: State, image: jax.Array) -> jax.Array:
        """uint8 (B, H, W, 3) -> its heads' maps (B, H, W, C) in [0, 1]."""
        ...


class Synthesizer(Stage, Protocol):
    """A stage that makes tissue for a mask."""

    def palette_of(self, source: Source) -> Any:
        """What synthesis draws colours from; checkpoints keep it."""
        ...


def enhances(stage: Stage) -> TypeGuard[Enhancer]:
    """Whether it turns a low-resolution image into a high-resolution one."""
    return "enhance" in stage.capabilities


def segments(stage: Stage) -> TypeGuard[Segmenter]:
    """Whether it finds nuclei in an image."""
    return "segment" in stage.capabilities


def synthesizes(stage: Stage) -> TypeGuard[Synthesizer]:
    """Whether it makes tissue for a mask."""
    return "synthesize" in stage.capabilities


class OneImage:
    """A stage whose networks read one image each, the generator the low-resolution one."""

    networks: Any

    def inputs(self, batch: Batch) -> Mapping[str, tuple[jax.Array, ...]]:
        """Each network's input for a batch."""
        images = {name: batch["lr" if name == "generator" else "hr"] for name in self.networks}
        return {name: (image.astype(np.float32),) for name, image in images.items()}

    def adversarial_from(self) -> int | None:
        """Never: no discriminator."""
        return None
