"""Mean teacher: a network learns to predict for an image what its own average predicts with noise.

Tarvainen and Valpola 2017 (NeurIPS 30), section 2: the consistency is E (f(x, w', n') -
f(x, w, n))^2, with an image x, weights w, their moving average w', and noises n and n'. It counts
for labelled and unlabelled images alike, and its weight rises at first. The average is the stage's
own (`ema`), with its statistics and without dropout. Only its image has noise here (n = 0): a
network that learns from noisy images alone, BatchNorm's statistics included, finds less in the
clean ones on which it is used.
"""

import dataclasses

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from histojax.checks import check, number
from histojax.components.state import mean_over
from histojax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Teacher:
    """How a network learns from its average.

    The `weight` of the consistency rises over `ramp_steps`. The noise of the average's image has
    the standard deviation `noise` and at most the size `limit`, in the unit of [0, 1].
    """

    weight: float
    noise: float
    limit: float
    ramp_steps: int

    def noisy(self, image: jax.Array, key: jax.Array) -> jax.Array:
        """An image (B, H, W, C) in [0, 1] with its noise added, which may leave that range."""
        if self.noise == 0:
            return image
        noise = self.noise * jax.random.normal(key, image.shape, image.dtype)
        return image + jnp.clip(noise, -self.limit, self.limit)

    def weight_at(self, step: jax.Array) -> jax.Array:
        """The weight of the consistency at a step, ()."""
        return self.weight * ramp(step, self.ramp_steps)


def ramp(step: jax.Array, steps: int) -> jax.Array:
    """exp(-5 (1 - t)^2), t rising from 0 to 1 over so many steps, (); 1 from the first where 0.

    Tarvainen and Valpola 2017, appendix on experiments.
    """
    if steps == 0:
        return jnp.ones(())
    return jnp.exp(-5 * jnp.square(1 - jnp.clip(step / steps, 0, 1)))


def consistency(logits: jax.Array, taught: jax.Array) -> jax.Array:
    """Mean squared difference of probabilities, (), by logits (B, H, W, C).

    `taught` are the average's, into which no gradient flows.
    """
    target = jax.lax.stop_gradient(jax.nn.sigmoid(taught))
    return jnp.mean(jnp.square(jax.nn.sigmoid(logits) - target))


def mean_of_labelled(
    values: jax.Array, labelled: jax.Array, axis_name: str | None = None
) -> jax.Array:
    """A device's part of the mean of values (B,) over labelled images, (); 0 where there is none.

    The devices' parts average to the mean over the whole batch, and so do their gradients, however
    many labelled images each of them has: the sum of its own is divided by the average count.
    `labelled` (B, H, W) is above 0 somewhere in a labelled image alone.
    """
    weight = (jnp.max(labelled, axis=(1, 2)) > 0).astype(values.dtype)
    count = mean_over(jnp.sum(weight), axis_name)
    return jnp.sum(weight * values) / jnp.where(count > 0, count, 1)


_RULES = {
    "noise": number(0),
    "noise_limit": number(above=0),
    "ramp": number(0, 1, of="the share of the steps over which the weight rises,"),
}


def build_teacher(config: ConfigDict) -> Teacher | None:
    """The teacher of group `teacher`; None where its weight is 0 or the stage has no such group.

    Raises:
        UserError: a value out of its range, a teacher without unlabelled images or the other way
            round, a stage that uses neither, or an average that is none.
    """
    group, spec = config.get("teacher"), config.data.unlabelled
    if group is not None:
        check(group, {"weight": number(0)}, "teacher.")
    weight = 0.0 if group is None else group.weight
    if config.stage != "segmentation" and (spec or weight):
        raise UserError(
            f"data.unlabelled={spec!r} and teacher.weight={weight} are for stage 'segmentation', "
            f"and {config.name} is of stage {config.stage!r}, which learns from labelled images "
            "alone: leave the first empty and the second 0"
        )
    if weight == 0:
        if spec:
            raise UserError(
                f"data.unlabelled={spec!r} needs teacher.weight above 0, to learn from images "
                "without labels: set it, or leave data.unlabelled empty"
            )
        return None
    if not spec:
        raise UserError(
            f"teacher.weight={weight} needs data.unlabelled, the images without labels to learn "
            "from: set it to 'rest' or to a SPEC, or teacher.weight to 0"
        )
    check(group, _RULES, "teacher.")
    if not config.ema_decay > 0:
        raise UserError(
            f"ema_decay={config.ema_decay} averages nothing, and the average is the teacher: set "
            "it above 0, such as 0.99, or teacher.weight to 0"
        )
    return Teacher(weight, group.noise, group.noise_limit, round(group.ramp * config.steps))
