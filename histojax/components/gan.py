"""The discriminator's side of adversarial training."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from histojax.checks import check, number, one_of, whole
from histojax.components.networks import network
from histojax.components.state import Axis, State, Tree, apply, own_rows, step_key
from histojax.losses import adversarial, gradient_penalty
from histojax.models.discriminators import DISCRIMINATORS

# Folded into a step's key where a draw must not depend on the number of devices; no device has
# this index, which is folded into it elsewhere.
_WHOLE_BATCH = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Penalty:
    """A gradient penalty of losses.gradient_penalty on the discriminator.

    `every` is the number of steps between two penalties, whose weight is multiplied by it: the mean
    gradient stays the same at less cost (Karras et al. 2020, section 3.1).
    """

    kind: str
    weight: float
    every: int


@dataclasses.dataclass(frozen=True, eq=False)
class Critic:
    """A discriminator and the loss of losses.adversarial that it plays.

    Generator and discriminator both learn from the same, not yet updated pair of networks
    (simultaneous gradient descent), so that one generator call serves both. The generator sees
    the adversarial term, of this weight, from step `warmup` on; the discriminator learns before.
    """

    discriminator: Any
    kind: str
    weight: float
    warmup: int = 0
    penalty: Penalty | None = None

    def adversarial_from(self, learn_from_step: Mapping[str, int]) -> int | None:
        """Step from which the two networks play against each other; None: never.

        `learn_from_step` has the step at which a network starts to learn, if it ever does.
        """
        if not {"generator", "discriminator"} <= set(learn_from_step):
            return None
        return max(self.warmup, learn_from_step["generator"], learn_from_step["discriminator"])

    def _judge(self, state: State, axis_name: Axis) -> Callable[..., tuple[Any, Tree]]:
        """(parameters, statistics, images) -> (logits, updated statistics), in training."""
        discriminator = self.discriminator.clone(bn_axis_name=axis_name)
        return functools.partial(apply, discriminator, key=step_key(state, axis_name))

    def gradients(
        self, state: State, real: jax.Array, fake: jax.Array, axis_name: Axis
    ) -> tuple[Tree, Tree, dict[str, jax.Array]]:
        """The discriminator's own (gradients, updated statistics, metrics), this device's share."""
        judge, start = self._judge(state, axis_name), state.statistics["discriminator"]
        loss_of, _ = losses(self.kind, axis_name)
        fake = jax.lax.stop_gradient(fake)

        def objective(params: Tree) -> tuple[jax.Array, Any]:
            on_real, stats = judge(params, start, real)
            # Both are judged after the same power iteration: after one more the kernels would be
            # divided by other numbers, and the two logits not be comparable.
            same = {name: start[name] for name in start if name == "spectral"}
            on_fake, stats = judge(params, {**stats, **same}, fake)
            loss = jnp.mean(loss_of(real=on_real, fake=on_fake))
            above = jnp.mean((on_real > on_fake).astype(on_real.dtype))
            return loss, (stats, {"loss_discriminator": loss, "real_above_fake": above})

        params = state.params["discriminator"]
        grads, (stats, metrics) = jax.grad(objective, has_aux=True)(params)
        metrics["variance_real"], metrics["variance_enhanced"] = _variance(real), _variance(fake)
        if self.penalty is not None:
            value, more = self._penalised(self.penalty, state, real, fake, axis_name)
            metrics["loss_discriminator_penalty"] = value
            grads = jax.tree.map(jnp.add, grads, more)
        return grads, stats, metrics

    def _penalised(
        self, penalty: Penalty, state: State, real: jax.Array, fake: jax.Array, axis_name: Axis
    ) -> tuple[jax.Array, Tree]:
        """(weighted penalty (), its gradient by the parameters), 0 at the steps left out.

        The gradient by the image is that of the discriminator as it judges in this step: with its
        power iteration, and with the batch's own statistics where it has BatchNorm, whose means
        over the whole batch and all devices are differentiated too.
        """
        judge, start = self._judge(state, axis_name), state.statistics["discriminator"]
        key = jax.random.fold_in(step_key(state, None), _WHOLE_BATCH)
        mix = own_rows(lambda n: jax.random.uniform(key, (n, 1, 1, 1)), len(real), axis_name)
        mix = mix.astype(real.dtype)
        measure = gradient_penalty.KINDS[penalty.kind]

        def objective(params: Tree) -> jax.Array:
            per_image = measure(
                judge=lambda x: judge(params, start, x)[0], real=real, fake=fake, mix=mix
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

    def loss(self, state: State, real: jax.Array, fake: jax.Array, axis_name: Axis) -> jax.Array:
        """The generator's weighted adversarial loss (), differentiable in `fake`."""
        judge, (_, loss_of) = self._judge(state, axis_name), losses(self.kind, axis_name)
        params, stats = state.params["discriminator"], state.statistics["discriminator"]
        on_fake, _ = judge(params, stats, fake)
        on_real, _ = judge(params, stats, real)
        loss = jnp.mean(loss_of(real=jax.lax.stop_gradient(on_real), fake=on_fake))
        if self.warmup > 0:
            loss = jnp.where(state.step >= self.warmup, loss, 0.0)
        return self.weight * loss


def losses(kind: str, axis_name: Axis) -> tuple[Callable[..., jax.Array], ...]:
    """(discriminator's loss, generator's) of a kind, means taken over the mapped axis too."""
    pair = adversarial.KINDS[kind]
    if kind != "relativistic":
        return pair
    return tuple(functools.partial(loss, axis_name=axis_name) for loss in pair)


def _variance(images: jax.Array) -> jax.Array:
    """Variance over the pixels of an image, a channel at a time, averaged over (B, H, W, C)."""
    return jnp.mean(jnp.var(images, axis=(1, 2)))


_RULES = {
    "kind": one_of(adversarial.KINDS),
    "discriminator_warmup": whole(
        0, of="the step from which the generator sees the adversarial term, a whole number"
    ),
    "penalty.kind": one_of(("none", *gradient_penalty.KINDS)),
    "penalty.weight": number(0),
    "penalty.every": whole(1, of="a number of steps"),
}


def build_critic(config: ConfigDict) -> Critic | None:
    """The critic of groups `discriminator` and `loss.adversarial`; None where its weight is 0.

    Raises:
        UserError: an unknown field or kind, or a value out of its range.
    """
    group = config.loss.adversarial
    if group.weight == 0:
        return None
    check(group, _RULES, "loss.adversarial.")
    discriminator = network(DISCRIMINATORS, config, "discriminator")
    penalty = None if group.penalty.kind == "none" else Penalty(**group.penalty)
    return Critic(discriminator, group.kind, group.weight, group.discriminator_warmup, penalty)
