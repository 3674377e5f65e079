"""The discriminator's side of adversarial training."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from ml_collections import ConfigDict

from histojax.losses import adversarial
from histojax.models.patch_discriminator import PatchDiscriminator
from histojax.models.scalar_discriminator import ScalarDiscriminator
from histojax.stages import build
from histojax.stages.state import State, apply

Tree = Any
# By `discriminator.kind`; the first where a config names none.
DISCRIMINATORS = {"patch": PatchDiscriminator, "scalar": ScalarDiscriminator}


@dataclasses.dataclass(frozen=True, eq=False)
class Critic:
    """A discriminator and the loss it plays.

    Generator and discriminator both learn from the same, not yet updated pair of networks
    (simultaneous gradient descent), so that one generator call serves both.

    Attributes:
        discriminator: images (B, H, W, 3) in [0, 1] -> logits (B, h, w, 1).
        form: key of losses.adversarial.FORMS.
        weight: of the adversarial term in the generator's loss.
    """

    discriminator: nn.Module
    form: str
    weight: float

    def _losses(self, axis_name: str | None) -> tuple[Callable[..., jax.Array], ...]:
        pair = adversarial.FORMS[self.form]
        if self.form != "relativistic":
            return pair
        return tuple(
            lambda *, real, fake, f=form: f(real=real, fake=fake, axis_name=axis_name)
            for form in pair
        )

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
        loss_of, _ = self._losses(axis_name)
        fake = jax.lax.stop_gradient(fake)

        def objective(params: Tree) -> tuple[jax.Array, Any]:
            stats = state.statistics["discriminator"]
            on_real, stats = apply(discriminator, params, stats, real, key=key)
            on_fake, stats = apply(discriminator, params, stats, fake, key=key)
            metrics = {
                "loss_discriminator": jnp.mean(loss_of(real=on_real, fake=on_fake)),
                "real_above_fake": jnp.mean((on_real > on_fake).astype(on_real.dtype)),
            }
            return metrics["loss_discriminator"], (stats, metrics)

        grads, (stats, metrics) = jax.grad(objective, has_aux=True)(state.params["discriminator"])
        return grads, stats, metrics

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
        _, loss_of = self._losses(axis_name)
        params, stats = state.params["discriminator"], state.statistics["discriminator"]
        on_fake, _ = apply(discriminator, params, stats, fake, key=key)
        on_real, _ = apply(discriminator, params, stats, real, key=key)
        return self.weight * jnp.mean(loss_of(real=jax.lax.stop_gradient(on_real), fake=on_fake))


def build_critic(config: ConfigDict, *, dtype: jnp.dtype) -> Critic | None:
    """The critic of groups `discriminator` and `loss.adversarial`; None where its weight is 0.

    Raises:
        UserError: for a field or form that is not known.
    """
    group = config.loss.adversarial
    if group.weight == 0:
        return None
    build.choice(group.form, adversarial.FORMS, "loss.adversarial.form")
    discriminator = build.network(
        DISCRIMINATORS, config.discriminator, "discriminator", dtype=dtype
    )
    return Critic(discriminator, group.form, group.weight)
