"""Training of the nuclei segmenter: high-resolution image in, nuclear mask out.

python -m histojax.stages.segmentation --config=configs/segmentation.py
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from ml_collections import ConfigDict

from histojax import cli
from histojax.checks import check, number, one_of
from histojax.components import networks, optimizers, pretrained, scoring
from histojax.components.images import by_head, probabilities, targets, unit
from histojax.components.mean_teacher import Teacher, build_teacher, consistency, mean_of_labelled
from histojax.components.state import State, advance, apply, create, mean_over, step_key
from histojax.data.sources import targets as target_source
from histojax.errors import UserError
from histojax.losses import segmentation
from histojax.models import resnet
from histojax.models.segmenters import SEGMENTERS
from histojax.models.segmenters.se_unet import SEUNet
from histojax.nuclei import postprocessing
from histojax.nuclei.watershed import InstanceParameters, check_maps
from histojax.stages.base import Batch, Capability, OneImage

Tree = Any


@dataclasses.dataclass(frozen=True, eq=False)
class MaskLoss:
    """Weighted cross-entropy, soft Dice and squared error of predicted maps, all alike."""

    bce_weight: float
    dice_weight: float
    squared_dice: bool = False
    mse_weight: float = 0.0
    smooth: float = 1.0

    def __call__(self, logits: jax.Array, mask: jax.Array) -> jax.Array:
        """Loss () of logits against maps in [0, 1], both (B, H, W, C)."""
        bce = jnp.mean(optax.sigmoid_binary_cross_entropy(logits, mask))
        dice = jnp.mean(
            segmentation.soft_dice(
                logits=logits, mask=mask, smooth=self.smooth, squared=self.squared_dice
            )
        )
        total = self.bce_weight * bce + self.dice_weight * dice
        if self.mse_weight == 0:
            return total
        return total + self.mse_weight * jnp.mean(
            segmentation.squared_error(logits=logits, mask=mask)
        )


class FindsNuclei:
    """The members that all stages with a segmenter share; `instances`: how maps become nuclei."""

    instances: postprocessing.Parameters | None

    @property
    def best(self) -> tuple[str, str]:
        return ("dice_pooled" if self.instances is None else "aji", "max")

    @property
    def annotations(self) -> tuple[str, ...]:
        return () if self.instances is None else ("instances",)


@dataclasses.dataclass(frozen=True, eq=False)
class Segmentation(FindsNuclei, OneImage):
    """The stage; see `histojax.stages.base` for its members."""

    segmenter: Any
    optimizers: Mapping[str, optax.GradientTransformation]
    loss: MaskLoss
    threshold: float
    instances: postprocessing.Parameters | None
    ema_decay: float
    initial: Mapping[str, Tree]
    encoder: Tree | None  # pretrained variables of the segmenter's encoder
    teacher: Teacher | None  # None: learns from labelled images alone
    dtype: Any

    capabilities: ClassVar[frozenset[Capability]] = frozenset({"segment"})

    @property
    def fields(self) -> tuple[str, ...]:
        labelled = () if self.teacher is None else ("labelled",)
        return ("hr", *self.segmenter.heads, *labelled)

    @property
    def networks(self) -> dict[str, nn.Module]:
        return {"segmenter": self.segmenter}

    def init(self, rng: jax.Array, batch: Batch) -> State:
        sample = unit(batch["hr"][:1], self.dtype)
        return create(
            rng,
            {"segmenter": (self.segmenter, sample)},
            self.optimizers,
            averaged=("segmenter",),
            start={k: v for k, v in self.initial.items() if k == "segmenter"},
            parts={} if self.encoder is None else {"segmenter": {"trunk": self.encoder}},
        )

    def train_step(
        self, state: State, batch: Batch, *, axis_name: str | None = None
    ) -> tuple[State, dict[str, jax.Array]]:
        image = unit(batch["hr"], self.dtype)
        maps = targets(batch, self.segmenter.heads, self.dtype)
        segmenter = self.segmenter.clone(bn_axis_name=axis_name)
        key = step_key(state, axis_name)
        if self.teacher is not None:
            noisy = self.teacher.noisy(image, jax.random.fold_in(key, 1))
            average = state.variables("segmenter", averaged=True)
            taught = self.segmenter.apply(average, noisy, train=False)

        def objective(params: Tree) -> tuple[jax.Array, Any]:
            logits, stats = apply(segmenter, params, state.statistics["segmenter"], image, key=key)
            if self.teacher is None:
                loss = self.loss(logits, maps)
                return loss, (stats, {"loss": loss, "accuracy": pixel_accuracy(logits, maps)})

            def of_labelled(measure: Callable[[jax.Array, jax.Array], jax.Array]) -> jax.Array:
                each = jax.vmap(lambda x, y: measure(x[None], y[None]))(logits, maps)
                return mean_of_labelled(each, batch["labelled"], axis_name)

            terms = {
                "loss_labelled": of_labelled(self.loss),
                "loss_consistency": consistency(logits, taught),
                "accuracy": of_labelled(pixel_accuracy),
            }
            weight = self.teacher.weight_at(state.step)
            loss = terms["loss_labelled"] + weight * terms["loss_consistency"]
            return loss, (stats, {**terms, "loss": loss})

        grads, (stats, metrics) = jax.grad(objective, has_aux=True)(state.params["segmenter"])
        grads, stats, metrics = mean_over((grads, stats, metrics), axis_name)
        return advance(
            state,
            self.optimizers,
            {"segmenter": grads},
            {"segmenter": stats},
            metrics,
            ema_decay=self.ema_decay,
        )

    def segment(self, state: State, image: jax.Array) -> jax.Array:
        return probabilities(self.segmenter, state, image, self.dtype)

    def eval_step(self, state: State, batch: Batch) -> dict[str, jax.Array]:
        return self.predict(state, batch["hr"])

    def predict(self, state: State, image: jax.Array) -> dict[str, jax.Array]:
        return by_head(self.segment(state, image), self.segmenter.heads)

    def evaluate(
        self, outputs: Mapping[str, np.ndarray], batch: Mapping[str, np.ndarray]
    ) -> scoring.Sums:
        return score(outputs, batch, self.threshold, self.instances)

    def phases(self) -> tuple[tuple[int, str], ...]:
        return ((0, "segmenter learns"),)


def score(
    outputs: Mapping[str, np.ndarray],
    batch: Mapping[str, np.ndarray],
    threshold: float,
    instances: postprocessing.Parameters | None,
) -> scoring.Sums:
    """Overlap of the masks, and where markers are predicted AJI of the nuclei."""
    weight = batch["weight"]
    sums = scoring.score_masks(outputs["mask"][..., 0], batch["mask"], weight, threshold)
    if instances is not None:
        maps = {name: outputs[name] for name in outputs if name != "sr"}
        sums |= scoring.score_nuclei(maps, batch["instances"], weight, instances)
    return sums


def pixel_accuracy(logits: jax.Array, mask: jax.Array) -> jax.Array:
    """Share of pixels of the first map on the right side of probability one half, ()."""
    return jnp.mean(((logits > 0) == (mask > 0.5))[..., 0].astype(logits.dtype))


def build_mask_loss(config: ConfigDict) -> MaskLoss:
    """The loss of fields bce_weight, dice_weight, squared_dice, mse_weight and smooth.

    Raises:
        UserError: if all weights are 0 or one is negative, or the smoothing is.
    """
    mse_weight = config.mse_weight
    weights = (config.bce_weight, config.dice_weight, mse_weight)
    if min(weights) < 0 or sum(weights) == 0:
        raise UserError(
            f"loss.bce_weight={config.bce_weight}, loss.dice_weight={config.dice_weight} and "
            f"loss.mse_weight={mse_weight} have to be 0 or more, and one of them above 0"
        )
    # Without it empty masks would divide by 0.
    check(config, {"smooth": number(above=0)}, "loss.")
    return MaskLoss(*weights[:2], config.squared_dice, mse_weight, config.smooth)


def build_segmenter(config: ConfigDict, dtype: Any) -> Any:
    """The segmentation network of group `segmenter`.

    Raises:
        UserError: for a field that cannot be used.
    """
    network = networks.network(SEGMENTERS, config.segmenter, "segmenter", dtype=dtype)
    known = ("mask", *target_source.MAPS)
    heads = network.heads
    if heads[:1] != ("mask",) or len(set(heads)) < len(heads) or not set(heads) <= set(known):
        raise UserError(
            f"segmenter.heads={heads!r} has to be 'mask' and then, each once, any of "
            f"{', '.join(known[1:])}"
        )
    return network


def build_encoder(config: ConfigDict, segmenter: Any) -> Tree | None:
    """Pretrained variables of the segmenter's encoder, by group `pretrained`; None: none.

    Raises:
        UserError: for an unknown name, weights that cannot be read or fetched, or a segmenter that
            they do not suit.
    """
    group = config.get("pretrained")  # of use_net.py alone
    if group is None:
        return None
    check(group, {"encoder": one_of(("none", "imagenet"))}, "pretrained.")
    if group.encoder == "none":
        return None
    if not isinstance(segmenter, SEUNet):
        raise UserError(
            "pretrained.encoder='imagenet' is for segmenter.kind='se_unet', whose encoder is a "
            f"ResNet, and not for {config.segmenter.kind!r}; set it to 'none'"
        )
    if not segmenter.imagenet_input:
        raise UserError(
            "pretrained.encoder='imagenet' needs segmenter.imagenet_input=True: these weights "
            "expect ImageNet's mean and deviation taken off the image"
        )
    if config.init_from.get("segmenter"):
        raise UserError(
            "pretrained.encoder='imagenet' and init_from.segmenter both say what the segmenter "
            "starts from; give one of them"
        )
    own = resnet.kind(segmenter.encoder).blocks
    if not group.path and (segmenter.width != 64 or segmenter.blocks not in ((), own)):
        raise UserError(
            f"pretrained.encoder='imagenet' has weights of {segmenter.encoder} at segmenter.width="
            f"64 and segmenter.blocks=(), and not at {segmenter.width} and {segmenter.blocks}: set "
            "these, or name a file in pretrained.path"
        )
    return pretrained.load_encoder(
        segmenter.encoder_module(), group.path, group.sha256, path_field="pretrained.path"
    )


def build_instances(config: ConfigDict, heads: tuple[str, ...]) -> postprocessing.Parameters | None:
    """How maps become nuclei; None where there are no markers, predicted or made of the mask.

    Args:
        config: with the group `instances`.
        heads: names of the predicted maps.

    Raises:
        UserError: for a parameter that breaks its rule.
    """
    group = config.instances
    if "marker" not in heads and not group.marker_from_mask:
        return None
    parameters = postprocessing.read_parameters(group.kind, group.get(group.kind, {}))
    if isinstance(parameters, InstanceParameters):
        check_maps({head: np.zeros((1, 1)) for head in (*heads, "marker")}, parameters)
    return parameters


def build_stage(config: ConfigDict, initial: Mapping[str, Tree]) -> Segmentation:
    """The stage that a config describes; `initial` are variables of earlier runs, by network.

    Raises:
        UserError: for a config value that cannot be used.
    """
    dtype = networks.compute_dtype(config)
    segmenter = build_segmenter(config, dtype)
    return Segmentation(
        segmenter=segmenter,
        optimizers={"segmenter": optimizers.optimizer(config.optimizer, config.steps, "optimizer")},
        loss=build_mask_loss(config.loss),
        threshold=config.threshold,
        instances=build_instances(config, segmenter.heads),
        ema_decay=config.ema_decay,
        initial=initial,
        encoder=build_encoder(config, segmenter),
        teacher=build_teacher(config),
        dtype=jnp.promote_types(dtype, jnp.float32),
    )


if __name__ == "__main__":
    cli.run_stage("segmentation")
