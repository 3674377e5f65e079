"""One scale of the pyramid: an image for a mask, and a mask for an image, on what lies below it.

Li et al. 2022 (Med. Image Anal. 75:102251), as their development code has it. Each scale has a
generator, a discriminator of image and mask pairs and a segmentor. It is trained on the frozen
scales below, whose networks it takes along, so that the top scale's checkpoint is the whole
pyramid; or, in the end, with all scales together.

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
from histojax.components import build, content, gan, pair_gan, palette, scoring
from histojax.components.images import by_head, quantize, unit
from histojax.components.scales import (
    AllScales,
    Labels,
    build_labels,
    check_base,
    check_sizes,
    enlarged,
    grounds_of,
    label_colors,
    moments,
    recolored,
    reduced,
)
from histojax.components.state import State, advance, apply, create, mean_over, step_key
from histojax.data.sources.base import Source
from histojax.errors import UserError
from histojax.losses.pixel import absolute
from histojax.models.discriminators.pairs import PairDiscriminator
from histojax.models.generators.pyramid import PyramidGenerator
from histojax.models.layers import full_precision
from histojax.models.segmenters.dense_unet import DenseUNet
from histojax.nuclei import separation
from histojax.stages import segmentation
from histojax.stages.base import Capability

Tree = Any
Batch = Mapping[str, jax.Array]
# Weight of the newest batch in the running amplitude of the noise.
_NEWEST = 0.02


@dataclasses.dataclass(frozen=True, eq=False)
class Pyramid(segmentation.FindsNuclei):
    """The stage; see `histojax.stages` for what its members mean.

    Attributes:
      sizes: side of a training crop at each scale, px, lowest first, up to the scale that is
        trained here.
      crop: side of a training crop, px.
      generators, discriminators, segmenters: a network for each scale.
      trained: numbers of the scales that learn.
      base: what the lowest scale adds to: "colors", the mask painted in the mean colours that its
        labels have in the image, "tissue", to which generators add nothing at first, or "gray"; see
        `scales.grounds_of`.
    """

    sizes: tuple[int, ...]
    crop: int
    labels: Labels
    generators: tuple[PyramidGenerator, ...]
    discriminators: tuple[PairDiscriminator, ...]
    segmenters: tuple[DenseUNet, ...]
    trained: tuple[int, ...]
    base: str
    optimizers: Mapping[str, optax.GradientTransformation]
    content: content.Content
    contest: pair_gan.Contest
    noise: float
    threshold: float
    instances: separation.Parameters | None
    ema_decay: float
    initial: Mapping[str, Tree]
    dtype: jnp.dtype

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
        """The generators, as far as the highest scale's px are those of the crops."""
        return AllScales(self.generators, tuple(self.sizes[-1] // size for size in self.sizes))

    @property
    def networks(self) -> dict[str, nn.Module]:
        found = {}
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
        found = {}
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
            frozen=self.content.frozen,
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
            made = self._generate(run, grounds, masks, noises, real)
            fakes, added, generator_stats, squares = made
            logits, segmenter_stats = self._segment(run, real)
            outputs = {k: (fakes[k], added[k], logits[k]) for k in self.trained}
            return outputs, ({**generator_stats, **segmenter_stats}, squares)

        trained = {name: state.params[name] for name in names}
        outputs, pullback, (stats, squares) = jax.vjp(forward, trained, has_aux=True)
        sensitivity, judges, statistics, metrics = {}, {}, dict(stats), {"loss": jnp.zeros(())}
        for k in self.trained:
            name = f"discriminator_{k}"
            sensitivity[k], judges[name], statistics[name], found = self._compete(
                state, k, *outputs[k], real[k], masks[k], axis_name
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
        """This device's part of the noise of the whole batch, the same on however many devices."""
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
        """(network name, inputs) -> (output, statistics): in training those of `params`."""

        def run(name: str, x: tuple[jax.Array, ...]) -> tuple[jax.Array, Tree]:
            module = self.networks[name]
            if name not in params:
                variables = state.variables(name, averaged=True)
                return module.apply(variables, *x, train=False), state.statistics[name]
            module = module.clone(bn_axis_name=axis_name)
            return apply(module, params[name], state.statistics[name], x, key=key)

        return run

    def _generate(
        self,
        run: Any,
        grounds: Sequence[jax.Array | None],
        masks: Sequence[jax.Array],
        noises: Sequence[jax.Array],
        real: Sequence[jax.Array] | None = None,
    ) -> tuple[list[jax.Array], list[jax.Array], dict[str, Tree], list[jax.Array]]:
        """Images of all scales, what each adds, statistics, mean squares of what it should."""
        images, added, stats, squares = [], [], {}, []
        for k, (ground, mask, noise) in enumerate(zip(grounds, masks, noises, strict=True)):
            below = ground
            if images:
                below = enlarged(images[-1], mask.shape[1] // images[-1].shape[1])
                below = below if ground is None else below + ground
            off = below if real is None else real[k] - below
            squares.append(jnp.mean(jnp.square(lax.stop_gradient(off))))
            image, stats[f"generator_{k}"] = run(f"generator_{k}", (below, noise, mask))
            images.append(image)
            added.append(image - below)
        return images, added, stats, squares

    def _segment(
        self, run: Any, images: Sequence[jax.Array]
    ) -> tuple[list[jax.Array], dict[str, Tree]]:
        """Logits (B, h, w, C) of all scales, and statistics."""
        logits, stats = [], {}
        below = jnp.zeros((*images[0].shape[:3], self.labels.count), self.dtype)
        for k, image in enumerate(images):
            if logits:
                factor = image.shape[1] // logits[-1].shape[1]
                below = enlarged(jax.nn.softmax(logits[-1]), factor)
            found, stats[f"segmenter_{k}"] = run(f"segmenter_{k}", (image, below))
            logits.append(found)
        return logits, stats

    def _compete(
        self,
        state: State,
        k: int,
        fake: jax.Array,
        added: jax.Array,
        logits: jax.Array,
        real: jax.Array,
        mask: jax.Array,
        axis_name: str | None,
    ) -> tuple[tuple[jax.Array, ...], Tree, Tree, dict[str, jax.Array]]:
        """What a scale's three networks make of each other.

        Every pair is judged once, and what the generator and segmentor lose by it and what the
        discriminator does are both followed back from there. `added` is what `fake` has beyond the
        image that its generator was given.

        Returns:
          Gradients of `fake`, `added` and `logits` (B, h, w, C), the discriminator's gradients and
          statistics, metrics.
        """
        name = f"discriminator_{k}"
        module = self.discriminators[k].clone(bn_axis_name=axis_name)
        params, held = state.params[name], state.statistics[name]

        def judge(params: Tree, image: jax.Array, labels: jax.Array) -> tuple[Any, Tree]:
            """(logits, hidden activations) of each size, and statistics."""
            return module.apply(
                {"params": params, **held},
                image,
                labels,
                train=True,
                features=True,
                mutable=list(held),
            )

        probability, of_probability = jax.vjp(jax.nn.softmax, logits)
        # All three are judged after the same power iteration.
        on_real, back_real, stats = jax.vjp(judge, params, real, mask, has_aux=True)
        on_fake, back_fake, _ = jax.vjp(judge, params, fake, mask, has_aux=True)
        on_mask, back_mask, _ = jax.vjp(judge, params, real, probability, has_aux=True)

        lost = jax.grad(self._loss, argnums=(0, 1, 2, 3, 4), has_aux=True)
        (of_fake, of_added, of_logits, of_judged, of_found), metrics = lost(
            fake, added, logits, on_fake, on_mask, on_real, state.frozen, real, mask, axis_name
        )
        of_fake = of_fake + back_fake(of_judged)[1]
        of_logits = of_logits + of_probability(back_mask(of_found)[2])[0]

        judged = jax.grad(self._loss_of_judge, argnums=(0, 1, 2), has_aux=True)
        each, found = judged(on_real, on_fake, on_mask, axis_name)
        backs = (back_real, back_fake, back_mask)
        parts = [back(judgement)[0] for back, judgement in zip(backs, each, strict=True)]
        grads = jax.tree.map(lambda *leaves: sum(leaves), *parts)
        return (of_fake, of_added, of_logits), grads, stats, {**metrics, **found}

    def _loss(
        self,
        fake: jax.Array,
        added: jax.Array,
        logits: jax.Array,
        on_fake: Any,
        on_mask: Any,
        on_real: Any,
        frozen: Tree,
        real: jax.Array,
        mask: jax.Array,
        axis_name: str | None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Generator's and segmentor's losses of a scale, of what was judged of their pairs."""
        _, loss_of = gan.losses(self.contest.kind, axis_name)
        real_logits, seen_real = lax.stop_gradient(on_real)

        def terms(judged: Any) -> tuple[jax.Array, jax.Array]:
            found, seen = judged
            each = [
                jnp.mean(loss_of(real=r, fake=f)) for r, f in zip(real_logits, found, strict=True)
            ]
            return jnp.mean(jnp.stack(each)), pair_gan.matching(seen, seen_real)

        fooled, matched = terms(on_fake)
        mask_fooled, mask_matched = terms(on_mask)
        likeness, found = self.content.loss(frozen, fake, real)
        cross_entropy = jnp.mean(optax.softmax_cross_entropy(logits, mask.astype(logits.dtype)))
        contest = self.contest
        # Tissue is moved by whole nuclei: means of rim and middle are not tied to the image's.
        parts = self.labels.nuclei_as_one(mask) if self.base == "tissue" else mask
        off = jnp.mean(absolute(moments(fake, parts) - moments(real, parts)))
        more = jnp.mean(absolute(full_precision(added)))
        loss = likeness + contest.weight * fooled + contest.matching_weight * matched
        loss = loss + contest.moments_weight * off + contest.added_weight * more
        loss = loss + cross_entropy + contest.mask_adversarial_weight * mask_fooled
        loss = loss + contest.mask_matching_weight * mask_matched
        right = jnp.argmax(logits, -1) == jnp.argmax(mask, -1)
        return loss, {
            **found,
            "loss": loss,
            "loss_adversarial": fooled,
            "loss_matching": matched,
            "loss_moments": off,
            "loss_added": more,
            "loss_mask": cross_entropy,
            "loss_mask_adversarial": mask_fooled,
            "loss_mask_matching": mask_matched,
            "accuracy": jnp.mean(right.astype(logits.dtype)),
        }

    def _loss_of_judge(
        self, on_real: Any, on_fake: Any, on_mask: Any, axis_name: str | None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The discriminator's loss: real pairs against both others."""
        loss_of, _ = gan.losses(self.contest.kind, axis_name)
        logits = [judged for judged, _ in (on_real, on_fake, on_mask)]
        each = [
            0.5 * jnp.mean(loss_of(real=r, fake=f)) + 0.5 * jnp.mean(loss_of(real=r, fake=p))
            for r, f, p in zip(*logits, strict=True)
        ]
        loss = jnp.mean(jnp.stack(each))
        above = [jnp.mean((r > f).astype(r.dtype)) for r, f in zip(*logits[:2], strict=True)]
        return loss, {
            "loss_discriminator": loss,
            "real_above_fake": jnp.mean(jnp.stack(above)),
        }

    def _louder(self, stats: Tree, k: int, square: jax.Array) -> Tree:
        """Statistics with the noise's amplitude moved towards a share of what this scale adds.

        The lowest scale's stays 1: its noise is all that it could make texture of. Tissue to start
        from has texture, so that this scale is then one like the others.
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
        # Moved as a whole, a nucleus keeps its rim and its middle apart.
        labels = self.labels.nuclei_as_one(self.labels.one_hot(batch, self.dtype))
        colors = label_colors(unit(batch["hr"], self.dtype), labels)
        tissue = recolored(unit(batch["tissue"], self.dtype), labels, colors)
        return jnp.clip(tissue, 0, 1)

    def palette_of(self, source: Source) -> list[palette.Look]:
        """Colours for synthesis to draw from, see `palette.collect`; none where it starts grey."""
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
          colors: (B, C, 3) of the labels, in [0, 1]; without effect but where it starts from them.
          tissue: (B, H, W, 3) in [0, 1], where it starts from that.
        """
        run = self._runner(state, {}, jax.random.key(0), None)
        masks = self.masks(labels)
        grounds = grounds_of(self.base, masks, colors, tissue)
        return self._generate(run, grounds, masks, noises)[0][-1]

    def segment(self, state: State, image: jax.Array) -> jax.Array:
        """uint8 (B, H, W, 3) -> maps (B, H, W, len(heads)) in [0, 1], also below the top scale."""
        x = unit(image, self.dtype)
        run = self._runner(state, {}, jax.random.key(0), None)
        images = [reduced(x, self._factor(k)) for k in range(len(self.sizes))]
        logits, _ = self._segment(run, images)
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
    dtype = build.compute_dtype(config)
    sizes, labels, base = check_sizes(config), build_labels(config), check_base(config)
    if config.pyramid.noise < 0:
        raise UserError(f"pyramid.noise={config.pyramid.noise} has to be 0 or more")
    if not 0 <= config.segmenter.dropout < 1:
        raise UserError(
            f"segmenter.dropout={config.segmenter.dropout} has to be 0 (none) or more, below 1"
        )
    trained = tuple(range(len(sizes))) if config.pyramid.together else (len(sizes) - 1,)
    optimizers = {}
    for k in trained:
        for name in ("generator", "discriminator", "segmenter"):
            field = "optimizer" if name == "generator" else f"{name}_optimizer"
            optimizers[f"{name}_{k}"] = build.optimizer(config[field], config.steps, field)

    def networks(module: type[nn.Module], name: str, **fixed: Any) -> tuple[Any, ...]:
        return tuple(build.module(module, config[name], name, dtype=dtype, **fixed) for _ in sizes)

    segmenters = networks(DenseUNet, "segmenter", labels=labels.count)
    return Pyramid(
        sizes=sizes,
        crop=config.data.crop,
        labels=labels,
        generators=networks(PyramidGenerator, "generator", adds_nothing=base == "tissue"),
        discriminators=networks(PairDiscriminator, "discriminator"),
        segmenters=segmenters,
        trained=trained,
        base=base,
        optimizers=optimizers,
        content=content.build_content(config.loss, None, initial),
        contest=pair_gan.build_contest(config.loss),
        noise=config.pyramid.noise,
        threshold=config.threshold,
        instances=segmentation.build_instances(
            config, AllScales(segmenters, (1,) * len(sizes), labels.heads)
        ),
        ema_decay=config.ema_decay,
        initial=initial,
        dtype=jnp.promote_types(dtype, jnp.float32),
    )


if __name__ == "__main__":
    cli.run_stage("pyramid")
