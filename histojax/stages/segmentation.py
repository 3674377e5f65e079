"""Training of the nuclei segmenter: high-resolution image in, nuclear mask out.

python -m histojax.stages.segmentation --config=configs/segmentation.py
"""

import dataclasses
import functools
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
from histojax.components.images import by_head, targets, unit
from histojax.components.mean_teacher import Teacher, build_teacher, consistency, mean_of_labelled
from histojax.components.state import State, Tree, apply, step_key
from histojax.data.sources import targets as target_source
from histojax.errors import UserError
from histojax.losses import segmentation
from histojax.models import resnet
from histojax.models.segmenters import SEGMENTERS
from histojax.models.segmenters.se_unet import SEUNet
from histojax.nuclei import postprocessing
from histojax.nuclei.watershed import InstanceParameters, check_maps
from histojax.stages.base import Arrays, Batch, Capability, Common, Stepped, common_fields


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
        bce = optax.sigmoid_binary_cross_entropy(logits, mask)
        soft_dice = functools.partial(segmentation.soft_dice, squared=self.squared_dice)
        dice = soft_dice(logits=logits, mask=mask, smooth=self.smooth)
        total = self.bce_weight * jnp.mean(bce) + self.dice_weight * jnp.mean(dice)
        if self.mse_weight == 0:
            return total
        error = segmentation.squared_error(logits=logits, mask=mask)
        return total + self.mse_weight * jnp.mean(error)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class FindsNuclei(Common):
    """The members that all stages with a segmenter share.

    A pixel is of the mask from probability `threshold`; `instances`: how maps become nuclei, None:
    by connected components of the mask.
    """

    segmenter: Any
    threshold: float
    instances: postprocessing.Parameters | None

    @property
    def best(self) -> tuple[str, str]:
        return ("dice_pooled" if self.instances is None else "aji", "max")

    @property
    def annotations(self) -> tuple[str, ...]:
        return () if self.instances is None else ("instances",)

    def segment(self, state: State, image: jax.Array) -> jax.Array:
        variables = state.variables("segmenter", averaged=True)
        pixels = unit(image, self.dtype)
        return jax.nn.sigmoid(self.segmenter.apply(variables, pixels, train=False))

    def predict(self, state: State, image: jax.Array) -> dict[str, jax.Array]:
        return by_head(self.segment(state, image), self.segmenter.heads)

    def score(self, outputs: Arrays, batch: Arrays) -> scoring.Sums:
        """Overlap of the masks, and where markers are predicted AJI of the nuclei."""
        weight = batch["weight"]
        maps = {head: outputs[head] for head in self.segmenter.heads}
        sums = scoring.score_masks(maps["mask"][..., 0], batch["mask"], weight, self.threshold)
        if self.instances is not None:
            sums |= scoring.score_nuclei(maps, batch["instances"], weight, self.instances)
        return sums


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Segmentation(FindsNuclei):
    """The stage; see `histojax.stages.base` for its members.

    `encoder` are pretrained variables of the segmenter's encoder; without a teacher it learns from
    labelled images alone.
    """

    loss: MaskLoss
    encoder: Tree | None
    teacher: Teacher | None

    capabilities: ClassVar[frozenset[Capability]] = frozenset({"segment"})

    @property
    def fields(self) -> tuple[str, ...]:
        labelled = () if self.teacher is None else ("labelled",)
        return ("hr", *self.segmenter.heads, *labelled)

    @property
    def networks(self) -> dict[str, nn.Module]:
        return {"segmenter": self.segmenter}

    @property
    def parts(self) -> Mapping[str, Mapping[str, Tree]]:
        return {} if self.encoder is None else {"segmenter": {"trunk": self.encoder}}

    def train_step(self, state: State, batch: Batch, *, axis_name: str | None = None) -> Stepped:
        image = unit(batch["hr"], self.dtype)
        maps = targets(batch, self.segmenter.heads, self.dtype)
        segmenter = self.segmenter.clone(bn_axis_name=axis_name)
        key = step_key(state, axis_name)
        if self.teacher is not None:
            noisy = self.teacher.noisy(image, jax.random.fold_in(key, 1))
            average = state.variables("segmenter", averaged=True)
            taught = self.segmenter.apply(average, noisy, train=False)

        def objective(params: Tree) -> tuple[jax.Array, Any]:
            logits, stats = apply(
                segmenter, params, state.statistics["segmenter"], image, key=key, remat=self.remat
            )
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

        return self.learn(state, objective, axis_name)

    def eval_step(self, state: State, batch: Batch) -> dict[str, jax.Array]:
        return self.predict(state, batch["hr"])

    def evaluate(self, outputs: Arrays, batch: Arrays) -> scoring.Sums:
        return self.score(outputs, batch)


def pixel_accuracy(logits: jax.Array, mask: jax.Array) -> jax.Array:
    """Share of pixels of the first map on the right side of probability one half, ()."""
    return jnp.mean(((logits > 0) == (mask > 0.5))[..., 0].astype(logits.dtype))


def build_mask_loss(config: ConfigDict) -> MaskLoss:
    """The loss of fields bce_weight, dice_weight, squared_dice, mse_weight and smooth.

    Raises:
        UserError: all weights are 0 or one is negative, or the smoothing is.
    """
    weights = (config.bce_weight, config.dice_weight, config.mse_weight)
    if min(weights) < 0 or sum(weights) == 0:
        raise UserError(
            "loss.bce_weight={}, loss.dice_weight={} and loss.mse_weight={} have to be 0 or more, "
            "and one of them above 0".format(*weights)
        )
    # Without it empty masks would divide by 0.
    check(config, {"smooth": number(above=0)}, "loss.")
    bce, dice, mse = weights
    return MaskLoss(bce, dice, config.squared_dice, mse, config.smooth)


def build_segmenter(config: ConfigDict) -> Any:
    """The segmentation network of group `segmenter`; UserError for a field that cannot be used."""
    network = networks.network(SEGMENTERS, config, "segmenter")
    heads, others = network.heads, target_source.MAPS
    once = len(set(heads)) == len(heads)
    if heads[:1] != ("mask",) or not once or not set(heads[1:]) <= set(others):
        raise UserError(
            f"segmenter.heads={heads!r} has to be 'mask' and then, each once, any of "
            f"{', '.join(others)}"
        )
    return network


def build_encoder(config: ConfigDict, segmenter: Any) -> Tree | None:
    """Pretrained variables of the segmenter's encoder, by group `pretrained`; None: none.

    Raises:
        UserError: an unknown name, weights that cannot be read or fetched, or a segmenter that they
            do not suit.
    """
    group = config.get("pretrained")  # of use_net.py alone
    if group is None:
        return None
    check(group, {"encoder": one_of(("none", "imagenet"))}, "pretrained.")
    if group.encoder == "none":
        if group.path:
            raise UserError(
                f"pretrained.path={group.path} is not read with pretrained.encoder='none': set "
                "that to 'imagenet', or this to ''"
            )
        return None
    if not isinstance(segmenter, SEUNet):
        raise UserError(
            "pretrained.encoder='imagenet' is for segmenter.kind='se_unet', whose encoders "
            f"have them, and not for {config.segmenter.kind!r}; set it to 'none'"
        )
    if not segmenter.imagenet_input:
        raise UserError(
            "pretrained.encoder='imagenet' needs segmenter.imagenet_input=True: these weights "
            "expect images normalised as in their own training"
        )
    if config.init_from.get("segmenter"):
        raise UserError(
            "pretrained.encoder='imagenet' and init_from.segmenter both say what the segmenter "
            "starts from; give one of them"
        )
    encoder = segmenter.encoder_module()
    if isinstance(encoder, resnet.ResNet) and not group.path:
        own = resnet.kind(encoder.kind).blocks
        if encoder.width != 64 or encoder.blocks not in ((), own):
            raise UserError(
                f"pretrained.encoder='imagenet' has weights of {encoder.kind} at segmenter.width="
                f"64 and segmenter.blocks=(), and not at {encoder.width} and {encoder.blocks}: "
                "set these, or name a file in pretrained.path"
            )
    return pretrained.load_encoder(encoder, group.path, group.sha256)


def build_instances(config: ConfigDict, heads: tuple[str, ...]) -> postprocessing.Parameters | None:
    """How maps of these heads become nuclei; None where there are no markers, predicted or made.

    Raises:
        UserError: a parameter of group `instances` that breaks its rule.
    """
    group = config.instances
    if "marker" not in heads and not group.marker_from_mask:
        return None
    parameters = postprocessing.read_parameters(group.kind, group.get(group.kind, {}))
    if isinstance(parameters, InstanceParameters):
        check_maps({head: np.zeros((1, 1)) for head in (*heads, "marker")}, parameters)
    return parameters


def build_stage(config: ConfigDict, initial: Mapping[str, Tree]) -> Segmentation:
    """As `histojax.stages.build_stage`."""
    common = common_fields(config, initial)
    segmenter = build_segmenter(config)
    return Segmentation(
        **common,
        segmenter=segmenter,
        optimizers={"segmenter": optimizers.optimizer(config.optimizer, config.steps, "optimizer")},
        loss=build_mask_loss(config.loss),
        threshold=config.threshold,
        instances=build_instances(config, segmenter.heads),
        encoder=build_encoder(config, segmenter),
        teacher=build_teacher(config),
    )


if __name__ == "__main__":
    cli.run_stage("segmentation")
