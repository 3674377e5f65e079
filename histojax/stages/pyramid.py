"""One scale of the pyramid: an image for a mask, and a mask for an image, on the scales below.

Li et al. 2022 (Med. Image Anal. 75:102251), as their development code has it. Each scale has a
generator, a discriminator of image and mask pairs and a segmenter. A scale is trained on the frozen
scales below and keeps their networks, so that the top scale's checkpoint is the whole pyramid. In
the end all scales can be trained together.

python -m histojax.stages.pyramid --config=configs/pyramid.py
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from ml_collections import ConfigDict

from histojax import cli
from histojax.checks import check, number
from histojax.components import content, networks, optimizers, pair_gan, palette, scales, scoring
from histojax.components.images import quantize, unit
from histojax.components.pair_gan import Made
from histojax.components.state import (
    Axis,
    State,
    Tree,
    advance,
    apply,
    mean_over,
    own_rows,
    step_key,
)
from histojax.data.sources.base import Source
from histojax.models.discriminators.pairs import PairDiscriminator
from histojax.models.generators.pyramid import PyramidGenerator
from histojax.models.layers import full_precision
from histojax.models.segmenters.dense_unet import DenseUNet
from histojax.stages import segmentation
from histojax.stages.base import Arrays, Batch, Capability, Stepped, common_fields

# Weight of the newest batch in the running amplitude of the noise.
_NEWEST = 0.02


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Pyramid(segmentation.FindsNuclei):
    """The stage; see `histojax.stages.base` for its members.

    Attributes:
      sizes: side of a training crop at each scale, px, lowest first, up to the trained scale.
      crop: side of a training crop, px.
      segmenter, synthesizer, discriminators: the networks of all scales, the segmenters for images
        of the crops' px, the generators for those of the highest scale's.
      trained: numbers of the scales that learn.
      base: the image that the lowest scale adds to: "colors", the mask painted in the mean colours
        that its labels have in the image; "tissue", to which generators add nothing at first; or
        "gray". See `scales.grounds_of`.
    """

    sizes: tuple[int, ...]
    crop: int
    labels: scales.Labels
    segmenter: scales.AllScales
    synthesizer: scales.AllScales
    discriminators: tuple[Any, ...]
    trained: tuple[int, ...]
    base: str
    contest: pair_gan.Contest
    noise: float

    # Neither likeness nor overlap of one of the two says which pyramid is best.
    best = ("step", "max")
    capabilities: ClassVar[frozenset[Capability]] = frozenset({"segment", "synthesize"})

    @property
    def fields(self) -> tuple[str, ...]:
        tissue = ("tissue",) if self.base == "tissue" else ()
        return ("hr", *self.labels.fields, *tissue)

    @property
    def networks(self) -> dict[str, nn.Module]:
        found: dict[str, nn.Module] = {}
        for k in range(len(self.sizes)):
            found[f"generator_{k}"] = self.synthesizer.modules[k]
            found[f"segmenter_{k}"] = self.segmenter.modules[k]
            if k in self.trained:
                found[f"discriminator_{k}"] = self.discriminators[k]
        return found

    def inputs(self, batch: Batch) -> dict[str, tuple[jax.Array, ...]]:
        """One image's inputs for each network."""
        image = unit(batch["hr"][:1], self.dtype)
        labels = self.labels.one_hot({f: batch[f][:1] for f in self.labels.fields}, self.dtype)
        found: dict[str, tuple[jax.Array, ...]] = {}
        for k, factor in enumerate(self.segmenter.factors):
            x, y = scales.reduced(image, factor), self.labels.reduced(labels, factor)
            found[f"generator_{k}"] = (x, x[..., :1], y)
            found[f"segmenter_{k}"] = found[f"discriminator_{k}"] = (x, y)
        return found

    @property
    def averaged(self) -> tuple[str, ...]:
        return tuple(f"{name}_{k}" for k in self.trained for name in ("generator", "segmenter"))

    @property
    def frozen(self) -> Mapping[str, Tree]:
        return self.contest.content.frozen

    def train_step(self, state: State, batch: Batch, *, axis_name: str | None = None) -> Stepped:
        image = unit(batch["hr"], self.dtype)
        labels = self.labels.one_hot(batch, self.dtype)
        real = [scales.reduced(image, factor) for factor in self.segmenter.factors]
        masks = self.masks(labels)
        colors = scales.label_colors(real[0], masks[0])
        grounds = scales.grounds_of(self.base, masks, colors, self._tissue_of(batch))
        key = step_key(state, axis_name)
        noises = self.noises(step_key(state, None), masks, axis_name)

        def forward(params: Mapping[str, Tree]) -> tuple[Any, Any]:
            run = self._runner(state, params, key, axis_name)
            fakes, added, generator_stats, squares = scales.generated(
                run, grounds, masks, noises, real
            )
            logits, segmenter_stats = scales.segmented(run, real, self.labels.count)
            outputs = {k: (fakes[k], added[k], logits[k]) for k in self.trained}
            return outputs, ({**generator_stats, **segmenter_stats}, squares)

        learning = {name: state.params[name] for name in self.averaged}
        outputs, pullback, (stats, squares) = jax.vjp(forward, learning, has_aux=True)
        sensitivity: dict[int, Any] = {}
        judges, statistics, metrics = {}, dict(stats), {"loss": jnp.zeros(())}
        for k in self.trained:
            name = f"discriminator_{k}"
            sensitivity[k], judges[name], statistics[name], found = self._compete(
                state, k, outputs[k], real[k], masks[k], axis_name
            )
            metrics["loss"] += found.pop("loss")
            suffix = "" if len(self.trained) == 1 else f"_{self.sizes[k]}"
            metrics |= {f"{n}{suffix}": value for n, value in found.items()}
        grads = {**pullback(sensitivity)[0], **judges}
        of_device = (grads, statistics, metrics, squares)
        grads, statistics, metrics, squares = mean_over(of_device, axis_name)
        for k in self.trained:
            name = f"generator_{k}"
            statistics[name] = self._louder(statistics[name], k, squares[k])
        return advance(state, self.optimizers, grads, statistics, metrics, ema_decay=self.ema_decay)

    def noises(
        self, key: jax.Array, masks: Sequence[jax.Array], axis_name: str | None = None
    ) -> list[jax.Array]:
        """Noise of variance 1 for each scale's masks (B, H, W, C): (B, H, W, 1) each.

        A device draws its part of the whole batch's noise, which no device count changes.
        """

        def noise(k: int, count: int, *sides: int) -> jax.Array:
            own = jax.random.fold_in(key, k)
            return own_rows(
                lambda n: jax.random.normal(own, (n, *sides, 1), self.dtype), count, axis_name
            )

        return [noise(k, *mask.shape[:3]) for k, mask in enumerate(masks)]

    def _runner(
        self, state: State, params: Mapping[str, Tree], key: jax.Array, axis_name: Axis
    ) -> Any:
        """(network name, inputs) -> (output, statistics); networks of `params` are in training."""

        def run(name: str, x: tuple[jax.Array, ...]) -> tuple[Any, Tree]:
            module: Any = self.networks[name]
            if name not in params:
                variables = state.variables(name, averaged=True)
                return module.apply(variables, *x, train=False), state.statistics[name]
            module = module.clone(bn_axis_name=axis_name)
            return apply(
                module, params[name], state.statistics[name], *x, key=key, remat=self.remat
            )

        return run

    def _compete(
        self, state: State, k: int, made: Made, real: jax.Array, mask: jax.Array, axis_name: Axis
    ) -> pair_gan.Competed:
        """`Contest.compete` of scale k."""
        name = f"discriminator_{k}"
        module = self.discriminators[k].clone(bn_axis_name=axis_name)
        variables = (state.params[name], state.statistics[name], state.frozen)
        # Tissue is moved by whole nuclei: means of rim and middle are not tied to the image's.
        parts = self.labels.nuclei_as_one(mask) if self.base == "tissue" else mask
        truth = pair_gan.Truth(real, mask, parts)
        return self.contest.compete(module, variables, made, truth, axis_name)

    def _louder(self, stats: Tree, k: int, square: jax.Array) -> Tree:
        """Statistics with the noise's amplitude moved towards a share of this scale's difference.

        The lowest scale's amplitude stays 1, because noise is its only source of texture, which
        base="tissue" brings along.
        """
        if k == 0 and self.base != "tissue":
            return stats
        amplitude = stats["noise"]["amplitude"]
        # In the range of width 2 that the generator computes in.
        wanted = self.noise * 2 * jnp.sqrt(square).astype(amplitude.dtype)
        moved = amplitude + _NEWEST * (wanted - amplitude)
        return {**stats, "noise": {"amplitude": moved}}

    def masks(self, labels: jax.Array) -> list[jax.Array]:
        """Labels (B, H, W, C) of the crops' resolution, for each scale."""
        return [self.labels.reduced(labels, factor) for factor in self.segmenter.factors]

    def _tissue_of(self, batch: Batch) -> jax.Array | None:
        """The built-in model's tissue for a batch's masks, (B, H, W, 3), in its images' colours."""
        if self.base != "tissue":
            return None
        # A nucleus that is moved as a whole keeps the contrast of its rim and its middle.
        labels = self.labels.nuclei_as_one(self.labels.one_hot(batch, self.dtype))
        colors = scales.label_colors(unit(batch["hr"], self.dtype), labels)
        tissue = scales.recolored(unit(batch["tissue"], self.dtype), labels, colors)
        return jnp.clip(tissue, 0, 1)

    def palette_of(self, source: Source) -> list[palette.Look]:
        """Colours for synthesis to draw from, see `palette.collect`; none for base="gray"."""
        return [] if self.base == "gray" else palette.collect(source, self.labels, self.crop)

    def generate(
        self,
        state: State,
        labels: jax.Array,
        noises: Sequence[jax.Array],
        colors: jax.Array,
        tissue: jax.Array | None = None,
    ) -> jax.Array:
        """An image (B, H, W, 3) about [0, 1], by the averaged variables.

        `labels` (B, H, W, C) are one-hot, of the crops' resolution, and `noises` of each scale as
        `noises` draws them; for `colors` and `tissue` see `scales.grounds_of`.
        """
        run = self._runner(state, {}, jax.random.key(0), None)
        masks = self.masks(labels)
        grounds = scales.grounds_of(self.base, masks, colors, tissue)
        return scales.generated(run, grounds, masks, noises)[0][-1]

    def segment(self, state: State, image: jax.Array) -> jax.Array:
        """uint8 (B, H, W, 3) -> maps (B, H, W, len(heads)) in [0, 1], also below the top scale."""
        x = unit(image, self.dtype)
        run = self._runner(state, {}, jax.random.key(0), None)
        images = [scales.reduced(x, factor) for factor in self.segmenter.factors]
        logits, _ = scales.segmented(run, images, self.labels.count)
        probability = scales.enlarged(jax.nn.softmax(logits[-1]), self.segmenter.factors[-1])
        return self.labels.maps(probability)

    def eval_step(self, state: State, batch: Batch) -> dict[str, jax.Array]:
        labels = self.labels.one_hot(batch, self.dtype)
        noises = self.noises(jax.random.key(0), self.masks(labels))
        colors = scales.label_colors(unit(batch["hr"], self.dtype), labels)
        image = self.generate(state, labels, noises, colors, self._tissue_of(batch))
        synthetic = quantize(scales.enlarged(full_precision(image), self.segmenter.factors[-1]))
        return {"synthetic": synthetic, **self.predict(state, batch["hr"])}

    def evaluate(self, outputs: Arrays, batch: Arrays) -> scoring.Sums:
        maps = {head: outputs[head] for head in self.labels.heads}
        return self.score(maps, batch) | scoring.score_classes(maps, batch["mask"], batch["weight"])

    def adversarial_from(self) -> int | None:
        return 0

    def phases(self) -> tuple[tuple[int, str], ...]:
        sizes = ", ".join(str(self.sizes[k]) for k in self.trained)
        return ((0, f"scale {sizes} px learns"),)


def build_stage(config: ConfigDict, initial: Mapping[str, Tree]) -> Pyramid:
    """As `histojax.stages.build_stage`; `initial` has the networks of the scales below."""
    common = common_fields(config, initial)
    sizes, labels, base = (
        scales.check_sizes(config),
        scales.build_labels(config),
        scales.check_base(config),
    )
    check(config, {"pyramid.noise": number(0), "segmenter.dropout": number(0, below=1)})
    trained = tuple(range(len(sizes))) if config.pyramid.together else (len(sizes) - 1,)

    likeness = content.build_content(config.loss, None, initial)

    def each_scale(module: type[nn.Module], name: str, **fixed: Any) -> tuple[Any, ...]:
        return tuple(networks.module(module, config, name, **fixed) for _ in sizes)

    return Pyramid(
        **common,
        sizes=sizes,
        crop=config.data.crop,
        labels=labels,
        synthesizer=scales.AllScales(
            each_scale(PyramidGenerator, "generator", adds_nothing=base == "tissue"),
            tuple(sizes[-1] // size for size in sizes),
        ),
        discriminators=each_scale(PairDiscriminator, "discriminator"),
        segmenter=scales.AllScales(
            each_scale(DenseUNet, "segmenter", labels=labels.count),
            tuple(config.data.crop // size for size in sizes),
            labels.heads,
        ),
        trained=trained,
        base=base,
        optimizers={
            f"{name}_{k}": optimizers.optimizer_of(config, name)
            for k in trained
            for name in ("generator", "discriminator", "segmenter")
        },
        contest=pair_gan.build_contest(config.loss, likeness),
        noise=config.pyramid.noise,
        threshold=config.threshold,
        instances=segmentation.build_instances(config, labels.heads),
    )


if __name__ == "__main__":
    cli.run_stage("pyramid")
