"""From config groups to optimisers, and when each network learns."""

from collections.abc import Collection, Mapping

import jax
import optax
from ml_collections import ConfigDict

from histojax.checks import check, number, one_of, whole
from histojax.errors import UserError

_RULES = {
    "learning_rate": number(0),
    "weight_decay": number(0),
    "clip_norm": number(0),
    "schedule": one_of(("constant", "cosine", "drops", "linear")),
    "accumulate": whole(1, of="a number of steps, from 1 on"),
}


def learning_rate(config: ConfigDict, steps: int, group: str) -> optax.Schedule:
    """The learning rate by step: warm-up, then the named schedule down to `end_factor`.

    Raises:
        UserError: an unknown schedule, a warm-up as long as the run, or drops that are out of order
            or missing.
    """
    check(config, {"schedule": _RULES["schedule"]}, f"{group}.")
    warmup = int(config.warmup_steps)
    if not 0 <= warmup < max(steps, 1):
        raise UserError(
            f"{group}.warmup_steps={warmup} has to be at least 0 and below steps={steps}"
        )
    drops = [int(step) for step in config.drop_at]
    if config.schedule == "drops" and not (
        drops and [*sorted(set(drops))] == drops and drops[0] > warmup
    ):
        raise UserError(
            f"{group}.drop_at={tuple(drops)} has to name steps in rising order, the first after "
            f"warmup_steps={warmup}, for schedule=drops"
        )
    rate, end = float(config.learning_rate), float(config.end_factor)
    length = max(steps - warmup, 1)
    if config.schedule == "constant":
        main = optax.constant_schedule(rate)
    elif config.schedule == "cosine":
        main = optax.cosine_decay_schedule(rate, length, alpha=end)
    elif config.schedule == "linear":
        main = optax.linear_schedule(rate, rate * end, length)
    else:
        factors = {step - warmup: float(config.drop_factor) for step in drops}
        main = optax.piecewise_constant_schedule(rate, factors)
    if warmup == 0:
        return main
    return optax.join_schedules([optax.linear_schedule(0.0, rate, warmup), main], [warmup])


def optimizer(config: ConfigDict, steps: int, group: str) -> optax.GradientTransformation:
    """AdamW, with weight decay on kernels alone, behind gradient clipping (clip_norm=0: none).

    `steps` is the length of the run and `group` the config group's name, for messages. With
    `accumulate` above 1, the mean gradient of so many steps makes one update.

    Raises:
        UserError: a value out of its range.
    """
    every = config.get("accumulate", 1)  # which runs of before do not have
    check({**config, "accumulate": every}, _RULES, f"{group}.")
    rate = learning_rate(config, steps, group)
    adamw = optax.adamw(
        lambda updates: rate(updates * every),
        b1=config.b1,
        b2=config.b2,
        weight_decay=config.weight_decay,
        mask=lambda params: jax.tree.map(lambda p: p.ndim > 1, params),
    )
    clip = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm > 0 else []
    chain = optax.chain(*clip, adamw)
    return chain if every == 1 else optax.MultiSteps(chain, every).gradient_transformation()


def optimizers(
    config: ConfigDict, networks: Collection[str]
) -> tuple[dict[str, optax.GradientTransformation], dict[str, int]]:
    """Optimizers of a stage of several networks, and the step at which each starts to learn.

    A network whose `learn_from_step` is -1 never learns and is in neither.
    """
    learn_from_step = learning_steps(config.learn_from_step)
    learning = [name for name in networks if name in learn_from_step]
    return {name: optimizer_of(config, name) for name in learning}, learn_from_step


def optimizer_of(config: ConfigDict, network: str) -> optax.GradientTransformation:
    """That of group `optimizer` for the generator, of `<network>_optimizer` for others."""
    group = "optimizer" if network == "generator" else f"{network}_optimizer"
    return optimizer(config[group], config.steps, group)


def learning_steps(config: ConfigDict) -> dict[str, int]:
    """Network -> step at which it starts to learn, without networks given -1, which never do."""
    rule = whole(-1, of="-1 (never learns) or the step at which it starts to learn, a whole number")
    check(config, dict.fromkeys(config, rule), "learn_from_step.")
    return {name: step for name, step in config.items() if step >= 0}


def phases(
    learn_from_step: Mapping[str, int], networks: Collection[str], adversarial: int = 0
) -> tuple[tuple[int, str], ...]:
    """(step, which networks learn from there on), in order of steps.

    `adversarial` is the step from which the generator sees the adversarial term.
    """
    starts = {learn_from_step[name] for name in networks if name in learn_from_step}
    found = []
    for start in sorted(starts | {0, adversarial}):
        names = [n for n in networks if learn_from_step.get(n, start + 1) <= start]
        text = f"{' and '.join(names) or 'nothing'} {'learn' if len(names) > 1 else 'learns'}"
        if start < adversarial and "generator" in names:
            text += ", the generator without the adversarial term"
        found.append((start, text))
    return tuple(found)
