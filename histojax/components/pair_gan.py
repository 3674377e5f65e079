"""The losses that a pyramid's generator and segmenter have from the discriminator of pairs."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from ml_collections import ConfigDict

from histojax.checks import check, number, one_of
from histojax.components import gan
from histojax.components.content import Content
from histojax.components.scales import moments
from histojax.components.state import Axis
from histojax.losses import adversarial
from histojax.losses.pixel import absolute
from histojax.models.layers import full_precision

Tree = Any


# The generator's image, its difference from the generator's input, and the segmenter's logits
# (B, h, w, C); gradients of these, the discriminator's, its statistics, and metrics.
Made = tuple[jax.Array, jax.Array, jax.Array]
Competed = tuple[Made, Tree, Tree, dict[str, jax.Array]]


class Truth(NamedTuple):
    """A scale's real image (B, h, w, 3), its mask (B, h, w, C) one-hot, and the parts of the mask
    whose colours' moments are compared, (B, h, w, C')."""

    image: jax.Array
    mask: jax.Array
    parts: jax.Array


@dataclasses.dataclass(frozen=True, eq=False)
class Contest:
    """Losses of a scale's three networks.

    Attributes:
      kind, weight: of the judgement of images in the generator's loss, see losses.adversarial.
      matching_weight: of the difference of its hidden activations, generated against real.
      moments_weight: of the difference of each label's mean colour and its deviation; of ground
        and nuclei where base is "tissue".
      added_weight: of the mean absolute difference of a generator's image and its input: the
        self-regularisation of Shrivastava et al. 2017 (CVPR, section 2.1), at every scale.
      mask_adversarial_weight, mask_matching_weight: as `weight` and `matching_weight`, of predicted
        masks in the segmenter's loss.
      content: terms of likeness to the one real image.
    """

    kind: str
    weight: float
    matching_weight: float
    moments_weight: float
    added_weight: float
    mask_adversarial_weight: float
    mask_matching_weight: float
    content: Content

    def compete(
        self, module: Any, variables: Sequence[Tree], made: Made, truth: Truth, axis_name: Axis
    ) -> Competed:
        """Gradients of a scale: (those of `made`, the discriminator's, its statistics, metrics).

        The discriminator judges every pair once, and all three networks' losses are followed back
        from these judgements.

        Args:
          module: the discriminator.
          variables: its parameters, its statistics, and what the state keeps frozen.
        """
        params, held, frozen = variables
        fake, _, logits = made
        real, mask = truth.image, truth.mask

        def judge(params: Tree, *pair: jax.Array) -> tuple[Any, Tree]:
            """(logits, hidden activations) of each size, and statistics."""
            variables, changed = {"params": params, **held}, list(held)
            return module.apply(variables, *pair, train=True, features=True, mutable=changed)

        probability, of_probability = jax.vjp(jax.nn.softmax, logits)
        # All three are judged after the same power iteration.
        on_real, back_real, stats = jax.vjp(judge, params, real, mask, has_aux=True)
        on_fake, back_fake, _ = jax.vjp(judge, params, fake, mask, has_aux=True)
        on_mask, back_mask, _ = jax.vjp(judge, params, real, probability, has_aux=True)

        lost = jax.grad(self.loss, argnums=(0, 1), has_aux=True)
        (of_made, of_judged), metrics = lost(
            made, (on_fake, on_mask), on_real, frozen, truth, axis_name
        )
        (of_fake, of_added, of_logits), (of_fooled, of_found) = of_made, of_judged
        of_fake = of_fake + back_fake(of_fooled)[1]
        of_logits = of_logits + of_probability(back_mask(of_found)[2])[0]

        judged = jax.grad(self.judge_loss, argnums=(0, 1, 2), has_aux=True)
        each, found = judged(on_real, on_fake, on_mask, axis_name)
        backs = (back_real, back_fake, back_mask)
        parts = [back(judgement)[0] for back, judgement in zip(backs, each, strict=True)]
        grads = jax.tree.map(lambda *leaves: sum(leaves), *parts)
        return (of_fake, of_added, of_logits), grads, stats, {**metrics, **found}

    def loss(
        self, made: Made, judged: Any, on_real: Any, frozen: Tree, truth: Truth, axis_name: Axis
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The generator's and the segmenter's losses together, given the judgements of pairs.

        `judged` are those of the made image with its mask, and of the real one with that made.
        """
        fake, added, logits = made
        _, loss_of = gan.losses(self.kind, axis_name)
        real_logits, seen_real = lax.stop_gradient(on_real)
        real, mask = truth.image, truth.mask

        def terms(found: Any, seen: Any) -> tuple[jax.Array, jax.Array]:
            pairs = zip(real_logits, found, strict=True)
            each = [jnp.mean(loss_of(real=r, fake=f)) for r, f in pairs]
            return jnp.mean(jnp.stack(each)), matching(seen, seen_real)

        (fooled, matched), (mask_fooled, mask_matched) = (terms(*pair) for pair in judged)
        likeness, found = self.content.loss(frozen, fake, real)
        cross_entropy = jnp.mean(optax.softmax_cross_entropy(logits, mask.astype(logits.dtype)))
        off = jnp.mean(absolute(moments(fake, truth.parts) - moments(real, truth.parts)))
        more = jnp.mean(absolute(full_precision(added)))
        loss = likeness + self.weight * fooled + self.matching_weight * matched
        loss = loss + self.moments_weight * off + self.added_weight * more
        loss = loss + cross_entropy + self.mask_adversarial_weight * mask_fooled
        loss = loss + self.mask_matching_weight * mask_matched
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

    def judge_loss(
        self, on_real: Any, on_fake: Any, on_mask: Any, axis_name: Axis
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The discriminator's loss: real pairs against both others."""
        loss_of, _ = gan.losses(self.kind, axis_name)
        logits = [judged for judged, _ in (on_real, on_fake, on_mask)]
        each = [
            0.5 * jnp.mean(loss_of(real=r, fake=f)) + 0.5 * jnp.mean(loss_of(real=r, fake=p))
            for r, f, p in zip(*logits, strict=True)
        ]
        loss = jnp.mean(jnp.stack(each))
        above = [jnp.mean((r > f).astype(r.dtype)) for r, f in zip(*logits[:2], strict=True)]
        return loss, {"loss_discriminator": loss, "real_above_fake": jnp.mean(jnp.stack(above))}


def matching(
    found: Sequence[Sequence[jax.Array]], wanted: Sequence[Sequence[jax.Array]]
) -> jax.Array:
    """Mean absolute difference of hidden activations, summed over layers, averaged over sizes, ().

    pix2pixHD's feature matching (Wang et al. 2018, eq. 4) with the weights of its code for four
    layers.
    """
    each = [
        sum(jnp.mean(absolute(full_precision(f - w))) for f, w in zip(size, other, strict=True))
        for size, other in zip(found, wanted, strict=True)
    ]
    return jnp.mean(jnp.stack(each))


_WEIGHTS = [f.name for f in dataclasses.fields(Contest) if f.name.endswith("_weight")]
_RULES = {
    "adversarial.kind": one_of(adversarial.KINDS),
    "adversarial.weight": number(0),
    **dict.fromkeys(_WEIGHTS, number(0)),
}


def build_contest(config: ConfigDict, content: Content) -> Contest:
    """The contest of config group `loss`; UserError for an unknown kind or a weight below 0."""
    check(config, _RULES, "loss.")
    weights = {name: config[name] for name in _WEIGHTS}
    return Contest(config.adversarial.kind, config.adversarial.weight, content=content, **weights)
