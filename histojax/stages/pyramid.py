"""One scale of the pyramid: an image for a mask, and a mask for an image, on the scales below.

Li et al. 2022 (Med. Image Anal. 75:102251), as their development code has it. Each scale has a
generator, a discriminator of image and mask pairs and a segmenter. A scale is trained on the frozen
scales below and keeps their networks, so that the top scale's checkpoint is the whole pyramid. In
the end all scales can be trained together.

python -m histojax.stages.pyramid --config=configs/pyramid.py
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax import lax
from ml_collections import ConfigDict

from histojax import cli
from histojax.checks import check, number
from histojax.components import content, networks, optimizers, pair_gan, palette, scoring
from histojax.components.images import by_head, quantize, unit
from histojax.components.scales import (
    AllScales,
    Labels,
    build_labels,
    check_base,
    check_sizes,
    enlarged,
    generated,
    grounds_of,
    label_colors,
    recolored,
    reduced,
    segmented,
)
from histojax.components.state import State, advance, apply, create, mean_over, step_key
from histojax.data.sources.base import Source
from histojax.models.discriminators.pairs import PairDiscriminator
from histojax.models.generators.pyramid import PyramidGenerator
from histojax.models.layers import full_precision
from histojax.models.segmenters.dense_unet import DenseUNet
from histojax.nuclei import postprocessing
from histojax.stages import segmentation
from histojax.stages.base import Batch, Capability

Tree = Any
# Weight of the newest batch in the running amplitude of the noise.
_NEWEST = 0.02


@dataclasses.dataclass(frozen=True, eq=False)
class Pyramid(segmentation.FindsNuclei):
    """The stage; see `histojax.stages.base` for its members.

    Attributes:
      sizes: side of a training crop at each scale, px, lowest first, up to the trained scale.
      crop: side of a training crop, px.
      generators, discriminators, segmenters: a network for each scale.
      trained: numbers of the scales that learn.
      base: the image that the lowest scale adds to: "colors", the mask painted in the mean colours
        that its labels have in the image; "tissue", to which generators add nothing at first; or
        "gray". See `scales.grounds_of`.
    """

    sizes: tuple[int, ...]
    crop: int
    labels: Labels
    generators: tuple[Any, ...]
    discriminators: tuple[Any, ...]
    segmenters: tuple[Any, ...]
    trained: tuple[int, ...]
    base: str
    optimizers: Mapping[str, optax.GradientTransformation]
    contest: pair_gan.Contest
    noise: float
    threshold: float
    instances: postprocessing.Parameters | None
    ema_decay: float
    initial: Mapping[str, Tree]
    dtype: Any

    # Neither likeness nor overlap of one of the two says which pyramid is best.
    best = ("step", "max")
    capabilities: ClassVar[frozenset[Capability]] = frozenset({"segment", "synthesize"})

    @property
    def fields(self) -> tuple[str, ...]:
        tissue = ("tissue",) if self.base == "tissue" else ()
        return ("hr", *self.labels.fields, *tissue)

    @property
    def top(self) -> int:
        return len(self.sizes) - 1

    @property
    def segmenter(self) -> AllScales:
        factors = tuple(self._factor(k) for k in range(len(self.sizes)))
        return AllScales(self.segmenters, factors, self.labels.heads)

    @property
    def synthesizer(self) -> AllScales:
        """The generators of all scales, for images of the highest scale's px."""
        return AllScales(self.generators, tuple(self.sizes[-1] // size for size in self.sizes))

    @property
    def networks(self) -> dict[str, nn.Module]:
        found: dict[str, nn.Module] = {}
        for k in range(len(self.sizes)):
            found[f"generator_{k}"] = self.generators[k]
            found[f"segmenter_{k}"] = self.segmenters[k]
            if k in self.trained:
                found[f"discriminator_{k}"] = self.discriminators[k]
        return found

    def inputs(self, batch: Batch) -> dict[str, tuple[jax.Array, ...]]:
        """One image's inputs for each network."""
        image = unit(batch["hr"][:1], self.dtype)
        labels = self.labels.one_hot({f: batch[f][:1] for f in self.labels.fields}, self.dtype)
        found: dict[str, tuple[jax.Array, ...]] = {}
        for k in range(len(self.sizes)):
            x = reduced(image, self._factor(k))
            y = self.labels.reduced(labels, self._factor(k))
            found[f"generator_{k}"] = (x, x[..., :1], y)
            found[f"segmenter_{k}"] = found[f"discriminator_{k}"] = (x, y)
        return found

    def init(self, rng: jax.Array, batch: Batch) -> State:
        inputs = self.inputs(batch)
        return create(
            rng,
            {name: (module, inputs[name]) for name, module in self.networks.items()},
            self.optimizers,
            averaged=tuple(f"{n}_{k}" for k in self.trained for n in ("generator", "segmenter")),
            start={k: v for k, v in self.initial.items() if k in self.networks},
            frozen=self.contest.content.frozen,
        )

    def _factor(self, k: int) -> int:
        return self.crop // self.sizes[k]

    def train_step(
        self, state: State, batch: Batch, *, axis_name: str | None = None
    ) -> tuple[State, dict[str, jax.Array]]:
        image = unit(batch["hr"], self.dtype)
        labels = self.labels.one_hot(batch, self.dtype)
        real = [reduced(image, self._factor(k)) for k in range(len(self.sizes))]
        masks = self.masks(labels)
        grounds = grounds_of(
            self.base, masks, label_colors(real[0], masks[0]), self._tissue_of(batch)
        )
        key = step_key(state, axis_name)
        noises = self._noises_of_step(state, masks, axis_name)
        names = [f"{n}_{k}" for k in self.trained for n in ("generator", "segmenter")]

        def forward(params: Mapping[str, Tree]) -> tuple[Any, Any]:
            run = self._runner(state, params, key, axis_name)
            made = generated(run, grounds, masks, noises, real)
            fakes, added, generator_stats, squares = made
            logits, segmenter_stats = segmented(run, real, self.labels.count)
            outputs = {k: (fakes[k], added[k], logits[k]) for k in self.trained}
            return outputs, ({**generator_stats, **segmenter_stats}, squares)

        trained = {name: state.params[name] for name in names}
        outputs, pullback, (stats, squares) = jax.vjp(forward, trained, has_aux=True)
        sensitivity: dict[int, Any] = {}
        judges, statistics, metrics = {}, dict(stats), {"loss": jnp.zeros(())}
        for k in self.trained:
            name = f"discriminator_{k}"
            sensitivity[k], judges[name], statistics[name], found = self._compete(
                state, k, outputs[k], real[k], masks[k], axis_name
            )
            metrics["loss"] += found.pop("loss")
            metrics |= {f"{n}{self._suffix(k)}": value for n, value in found.items()}
        grads = {**pullback(sensitivity)[0], **judges}
        grads, statistics, metrics, squares = mean_over(
            (grads, statistics, metrics, squares), axis_name
        )
        for k in self.trained:
            name = f"generator_{k}"
            statistics[name] = self._louder(statistics[name], k, squares[k])
        return advance(state, self.optimizers, grads, statistics, metrics, ema_decay=self.ema_decay)

    def _suffix(self, k: int) -> str:
        return "" if len(self.trained) == 1 else f"_{self.sizes[k]}"

    def noises(self, key: jax.Array, masks: Sequence[jax.Array]) -> list[jax.Array]:
        """Noise of variance 1 for each scale's masks (B, H, W, C): (B, H, W, 1) each."""
        return [
            jax.random.normal(jax.random.fold_in(key, k), (*mask.shape[:3], 1), self.dtype)
            for k, mask in enumerate(masks)
        ]

    def _noises_of_step(
        self, state: State, masks: Sequence[jax.Array], axis_name: str | None
    ) -> list[jax.Array]:
        """This device's part of the whole batch's noise, which no device count changes."""
        key = step_key(state, None)
        if axis_name is None:
            return self.noises(key, masks)
        count = lax.axis_size(axis_name)
        whole = [jnp.broadcast_to(m[:1], (count * len(m), *m.shape[1:])) for m in masks]
        first = lax.axis_index(axis_name) * len(masks[0])
        return [
            lax.dynamic_slice_in_dim(noise, first, len(masks[0]))
            for noise in self.noises(key, whole)
        ]

    def _runner(
        self, state: State, params: Mapping[str, Tree], key: jax.Array, axis_name: str | None
    ) -> Any:
        """(network name, inputs) -> (output, statistics); networks of `params` are in training."""

        def run(name: str, x: tuple[jax.Array, ...]) -> tuple[Any, Tree]:
            module: Any = self.networks[name]
            if name not in params:
                variables = state.variables(name, averaged=True)
                return module.apply(variables, *x, train=False), state.statistics[name]
            module = module.clone(bn_axis_name=axis_name)
            return apply(module, params[name], state.statistics[name], x, key=key)

        return run

    def _compete(
        self,
        state: State,
        k: int,
        made: tuple[jax.Array, jax.Array, jax.Array],
        real: jax.Array,
        mask: jax.Array,
        axis_name: str | None,
    ) -> tuple[tuple[jax.Array, ...], Tree, Tree, dict[str, jax.Array]]:
        """`Contest.compete` of scale k."""
        name = f"discriminator_{k}"
        module = self.discriminators[k].clone(bn_axis_name=axis_name)
        # Tissue is moved by whole nuclei: means of rim and middle are not tied to the image's.
        parts = self.labels.nuclei_as_one(mask) if self.base == "tissue" else mask
        return self.contest.compete(
            module,
            (state.params[name], state.statistics[name], state.frozen),
            made,
            pair_gan.Truth(real, mask, parts),
            axis_name,
        )

    def _louder(self, stats: Tree, k: int, square: jax.Array) -> Tree:
        """Statistics with the noise's amplitude moved towards a share of this scale's difference.

        The lowest scale's amplitude stays 1, because noise is its only source of texture. With
        base="tissue", which has texture, the lowest scale is like the others.
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
        return [self.labels.reduced(labels, self._factor(k)) for k in range(len(self.sizes))]

    def _tissue_of(self, batch: Batch) -> jax.Array | None:
        """The built-in model's tissue for a batch's masks, (B, H, W, 3), in its images' colours."""
        if self.base != "tissue":
            return None
        # A nucleus that is moved as a whole keeps the contrast of its rim and its middle.
        labels = self.labels.nuclei_as_one(self.labels.one_hot(batch, self.dtype))
        colors = label_colors(unit(batch["hr"], self.dtype), labels)
        tissue = recolored(unit(batch["tissue"], self.dtype), labels, colors)
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

        Args:
          state: of the stage.
          labels: (B, H, W, C) one-hot, of the crops' resolution.
          noises: of variance 1, (B, h, w, 1) for each scale's h and w, as `noises` draws them.
          colors: (B, C, 3) of the labels, in [0, 1], for base="colors".
          tissue: (B, H, W, 3) in [0, 1], for base="tissue".
        """
        run = self._runner(state, {}, jax.random.key(0), None)
        masks = self.masks(labels)
        grounds = grounds_of(self.base, masks, colors, tissue)
        return generated(run, grounds, masks, noises)[0][-1]

    def segment(self, state: State, image: jax.Array) -> jax.Array:
        """uint8 (B, H, W, 3) -> maps (B, H, W, len(heads)) in [0, 1], also below the top scale."""
        x = unit(image, self.dtype)
        run = self._runner(state, {}, jax.random.key(0), None)
        images = [reduced(x, self._factor(k)) for k in range(len(self.sizes))]
        logits, _ = segmented(run, images, self.labels.count)
        probability = enlarged(jax.nn.softmax(logits[-1]), self._factor(self.top))
        return self.labels.maps(probability)

    def predict(self, state: State, image: jax.Array) -> dict[str, jax.Array]:
        return by_head(self.segment(state, image), self.labels.heads)

    def eval_step(self, state: State, batch: Batch) -> dict[str, jax.Array]:
        labels = self.labels.one_hot(batch, self.dtype)
        noises = self.noises(jax.random.key(0), self.masks(labels))
        colors = label_colors(unit(batch["hr"], self.dtype), labels)
        image = self.generate(state, labels, noises, colors, self._tissue_of(batch))
        synthetic = quantize(enlarged(full_precision(image), self._factor(self.top)))
        return {"synthetic": synthetic, **self.predict(state, batch["hr"])}

    def evaluate(
        self, outputs: Mapping[str, np.ndarray], batch: Mapping[str, np.ndarray]
    ) -> scoring.Sums:
        maps = {head: outputs[head] for head in self.labels.heads}
        sums = segmentation.score(maps, batch, self.threshold, self.instances)
        return sums | scoring.score_classes(maps, batch["mask"], batch["weight"])

    def adversarial_from(self) -> int | None:
        return 0

    def phases(self) -> tuple[tuple[int, str], ...]:
        sizes = ", ".join(str(self.sizes[k]) for k in self.trained)
        return ((0, f"scale {sizes} px learns"),)


def build_stage(config: ConfigDict, initial: Mapping[str, Tree]) -> Pyramid:
    """The stage that a config describes; `initial` are variables of the scales below, by network.

    Raises:
        UserError: for a config value that cannot be used.
    """
    dtype = networks.compute_dtype(config)
    sizes, labels, base = check_sizes(config), build_labels(config), check_base(config)
    check(config, {"pyramid.noise": number(0), "segmenter.dropout": number(0, below=1)})
    trained = tuple(range(len(sizes))) if config.pyramid.together else (len(sizes) - 1,)
    made = {}
    for k in trained:
        for name in ("generator", "discriminator", "segmenter"):
            group = "optimizer" if name == "generator" else f"{name}_optimizer"
            made[f"{name}_{k}"] = optimizers.optimizer(config[group], config.steps, group)

    def each_scale(module: type[nn.Module], name: str, **fixed: Any) -> tuple[Any, ...]:
        group = config[name]
        return tuple(networks.module(module, group, name, dtype=dtype, **fixed) for _ in sizes)

    return Pyramid(
        sizes=sizes,
        crop=config.data.crop,
        labels=labels,
        generators=each_scale(PyramidGenerator, "generator", adds_nothing=base == "tissue"),
        discriminators=each_scale(PairDiscriminator, "discriminator"),
        segmenters=each_scale(DenseUNet, "segmenter", labels=labels.count),
        trained=trained,
        base=base,
        optimizers=made,
        contest=pair_gan.build_contest(
            config.loss, content.build_content(config.loss, None, initial)
        ),
        noise=config.pyramid.noise,
        threshold=config.threshold,
        instances=segmentation.build_instances(config, labels.heads),
        ema_decay=config.ema_decay,
        initial=initial,
        dtype=jnp.promote_types(dtype, jnp.float32),
    )


if __name__ == "__main__":
    cli.run_stage("pyramid")
