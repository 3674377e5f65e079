"""The discriminator's side of adversarial training."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from histojax.checks import check, number, one_of, whole
from histojax.components.networks import network
from histojax.components.state import State, apply, step_key
from histojax.losses import adversarial, gradient_penalty
from histojax.models.discriminators import DISCRIMINATORS

Tree = Any
# Folded into a step's key where a draw must not depend on the number of devices; no device has
# this index, which is folded into it elsewhere.
_WHOLE_BATCH = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Penalty:
    """A gradient penalty on the discriminator.

    Attributes:
        kind: key of losses.gradient_penalty.KINDS.
        weight: of the penalty's mean over the batch.
        every: steps between two penalties, whose weight is multiplied by this number: the mean
            gradient stays the same at less cost (Karras et al. 2020, section 3.1).
    """

    kind: str
    weight: float
    every: int


@dataclasses.dataclass(frozen=True, eq=False)
class Critic:
    """A discriminator and the loss it plays.

    Generator and discriminator both learn from the same, not yet updated pair of networks
    (simultaneous gradient descent), so that one generator call serves both.

    Attributes:
        discriminator: images (B, H, W, 3) in [0, 1] -> logits (B, h, w, 1).
        kind: key of losses.adversarial.KINDS.
        weight: of the adversarial term in the generator's loss.
        warmup: step from which the generator sees that term; until then the discriminator learns
            alone.
        penalty: on the discriminator; None leaves it out.
    """

    discriminator: Any
    kind: str
    weight: float
    warmup: int = 0
    penalty: Penalty | None = None

    def adversarial_from(self, learn_from_step: Mapping[str, int]) -> int | None:
        """Step from which the two networks play against each other; None: never.

        Args:
            learn_from_step: network -> step at which it starts to learn; absent: never.
        """
        if "generator" not in learn_from_step or "discriminator" not in learn_from_step:
            return None
        return max(self.warmup, learn_from_step["generator"], learn_from_step["discriminator"])

    def gradients(
        self,
        state: State,
        real: jax.Array,
        fake: jax.Array,
        *,
        key: jax.Array,
        axis_name: str | None,
    ) -> tuple[Tree, Tree, dict[str, jax.Array]]:
        """The discriminator's own (gradients, updated statistics, metrics), this device's share."""
        discriminator = self.discriminator.clone(bn_axis_name=axis_name)
        loss_of, _ = losses(self.kind, axis_name)
        fake = jax.lax.stop_gradient(fake)
        start = state.statistics["discriminator"]

        def objective(params: Tree) -> tuple[jax.Array, Any]:
            on_real, stats = apply(discriminator, params, start, real, key=key)
            # Both are judged after the same power iteration: after one more the kernels would be
            # divided by other numbers, and the two logits not be comparable.
            same = {name: start[name] for name in start if name == "spectral"}
            on_fake, stats = apply(discriminator, params, {**stats, **same}, fake, key=key)
            metrics = {
                "loss_discriminator": jnp.mean(loss_of(real=on_real, fake=on_fake)),
                "real_above_fake": jnp.mean((on_real > on_fake).astype(on_real.dtype)),
            }
            return metrics["loss_discriminator"], (stats, metrics)

        params = state.params["discriminator"]
        grads, (stats, metrics) = jax.grad(objective, has_aux=True)(params)
        metrics["variance_real"], metrics["variance_enhanced"] = _variance(real), _variance(fake)
        if self.penalty is not None:
            value, more = self._penalised(
                self.penalty, state, real, fake, key=key, axis_name=axis_name
            )
            metrics["loss_discriminator_penalty"] = value
            grads = jax.tree.map(jnp.add, grads, more)
        return grads, stats, metrics

    def _penalised(
        self,
        penalty: Penalty,
        state: State,
        real: jax.Array,
        fake: jax.Array,
        *,
        key: jax.Array,
        axis_name: str | None,
    ) -> tuple[jax.Array, Tree]:
        """(weighted penalty (), its gradient by the parameters), 0 at the steps left out.

        The gradient by the image is that of the discriminator as it judges in this step: with its
        power iteration, and with the batch's own statistics where it has BatchNorm, whose means
        over the whole batch and all devices are differentiated too.
        """
        discriminator = self.discriminator.clone(bn_axis_name=axis_name)
        start = state.statistics["discriminator"]
        mix = _mixture(state, len(real), axis_name).astype(real.dtype)

        def objective(params: Tree) -> jax.Array:
            per_image = gradient_penalty.KINDS[penalty.kind](
                judge=lambda x: apply(discriminator, params, start, x, key=key)[0],
                real=real,
                fake=fake,
                mix=mix,
            )
            return penalty.weight * penalty.every * jnp.mean(per_image)

        taken = jax.value_and_grad(objective)
        params = state.params["discriminator"]
        if penalty.every == 1:
            return taken(params)
        return jax.lax.cond(
            state.step % penalty.every == 0,
            taken,
            lambda params: (jnp.zeros((), real.dtype), jax.tree.map(jnp.zeros_like, params)),
            params,
        )

    def loss(
        self,
        state: State,
        real: jax.Array,
        fake: jax.Array,
        *,
        key: jax.Array,
        axis_name: str | None,
    ) -> jax.Array:
        """The generator's weighted adversarial loss (), differentiable in `fake`."""
        discriminator = self.discriminator.clone(bn_axis_name=axis_name)
        _, loss_of = losses(self.kind, axis_name)
        params, stats = state.params["discriminator"], state.statistics["discriminator"]
        on_fake, _ = apply(discriminator, params, stats, fake, key=key)
        on_real, _ = apply(discriminator, params, stats, real, key=key)
        loss = jnp.mean(loss_of(real=jax.lax.stop_gradient(on_real), fake=on_fake))
        if self.warmup > 0:
            loss = jnp.where(state.step >= self.warmup, loss, 0.0)
        return self.weight * loss


def losses(kind: str, axis_name: str | None) -> tuple[Callable[..., jax.Array], ...]:
    """(discriminator's loss, generator's) of a form, means taken over the mapped axis too."""
    pair = adversarial.KINDS[kind]
    if kind != "relativistic":
        return pair
    return tuple(
        lambda *, real, fake, f=loss: f(real=real, fake=fake, axis_name=axis_name) for loss in pair
    )


def _variance(images: jax.Array) -> jax.Array:
    """Variance over the pixels of an image, a channel at a time, averaged over (B, H, W, C)."""
    return jnp.mean(jnp.var(images, axis=(1, 2)))


def _mixture(state: State, count: int, axis_name: str | None) -> jax.Array:
    """This device's (count, 1, 1, 1) of the whole batch's uniform draws in [0, 1)."""
    key = jax.random.fold_in(step_key(state, None), _WHOLE_BATCH)
    if axis_name is None:
        return jax.random.uniform(key, (count, 1, 1, 1))
    whole = jax.random.uniform(key, (count * jax.lax.axis_size(axis_name), 1, 1, 1))
    return jax.lax.dynamic_slice_in_dim(whole, jax.lax.axis_index(axis_name) * count, count)


_RULES = {
    "kind": one_of(adversarial.KINDS),
    "discriminator_warmup": whole(
        0, of="the step from which the generator sees the adversarial term, a whole number"
    ),
    "penalty.kind": one_of(("none", *gradient_penalty.KINDS)),
    "penalty.weight": number(0),
    "penalty.every": whole(1, of="a number of steps"),
}


def build_critic(config: ConfigDict, *, dtype: Any) -> Critic | None:
    """The critic of groups `discriminator` and `loss.adversarial`; None where its weight is 0.

    Raises:
        UserError: for an unknown field or kind, or a value out of its range.
    """
    group = config.loss.adversarial
    if group.weight == 0:
        return None
    check(group, _RULES, "loss.adversarial.")
    discriminator = network(DISCRIMINATORS, config.discriminator, "discriminator", dtype=dtype)
    penalty = None if group.penalty.kind == "none" else Penalty(**group.penalty)
    return Critic(discriminator, group.kind, group.weight, group.discriminator_warmup, penalty)
