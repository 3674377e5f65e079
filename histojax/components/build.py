"""From config groups to modules, optimisers and losses, with every bad value named."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from ml_collections import ConfigDict

from histojax.errors import UserError


def choice(value: str, known: Mapping[str, Any], field: str) -> Any:
    """The entry of `known` that a config field names.

    Raises:
        UserError: if there is none.
    """
    if value not in known:
        raise UserError(f"{field}={value!r} is not known; choose one of {', '.join(sorted(known))}")
    return known[value]


def compute_dtype(config: ConfigDict) -> jnp.dtype:
    """The dtype convolutions run in: `config.precision`, or by backend where that is "auto"."""
    if config.precision == "auto":
        return jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    known = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float64": jnp.float64}
    return choice(config.precision, known, "precision")


def module(
    kind: type[nn.Module], fields: Mapping[str, Any], group: str, *, dtype: jnp.dtype, **fixed: Any
) -> nn.Module:
    """A linen module from a config group whose fields are the module's own.

    Raises:
        UserError: naming a field that the module does not have or a value that it refuses.
    """
    known = {f.name for f in dataclasses.fields(kind)} - {"parent", "name", "dtype", *fixed}
    values = {
        key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()
    }
    unknown = sorted(set(values) - known)
    if unknown:
        raise UserError(
            f"{group}.{unknown[0]} is not a field of {kind.__name__}; "
            f"its fields are {', '.join(sorted(known))}"
        )
    try:
        return kind(**values, **fixed, dtype=dtype)
    except (TypeError, ValueError) as error:
        raise UserError(f"{group}: {error}") from error


def network(
    kinds: Mapping[str, type[nn.Module]], fields: Mapping[str, Any], group: str, **fixed: Any
) -> nn.Module:
    """The module that the field `kind` of a config group names in a registry.

    Raises:
        UserError: naming a kind or field that there is not, or a value that is refused.
    """
    kind = choice(fields.get("kind"), kinds, f"{group}.kind")
    rest = {key: value for key, value in fields.items() if key != "kind"}
    return module(kind, rest, group, **fixed)


def learning_rate(config: ConfigDict, steps: int, group: str) -> optax.Schedule:
    """The learning rate by step: warm-up, then the named schedule down to `end_factor`.

    Raises:
        UserError: for an unknown schedule, a warm-up as long as the run, or drops that come out of
            order or not at all.
    """
    warmup = int(config.warmup_steps)
    if not 0 <= warmup < max(steps, 1):
        raise UserError(
            f"{group}.warmup_steps={warmup} has to be at least 0 and under the {steps} steps of "
            "the run"
        )
    # Runs from before there were drops lack them.
    drops = [int(step) for step in config.get("drop_at", ())]
    if config.schedule == "drops" and not (
        drops and [*sorted(set(drops))] == drops and drops[0] > warmup
    ):
        raise UserError(
            f"{group}.drop_at={tuple(drops)} has to name steps in rising order, the first after "
            f"warmup_steps={warmup}, for schedule=drops"
        )
    rate, length = float(config.learning_rate), max(steps - warmup, 1)
    end = float(config.end_factor)
    known = {
        "constant": lambda: optax.constant_schedule(rate),
        "cosine": lambda: optax.cosine_decay_schedule(rate, length, alpha=end),
        "linear": lambda: optax.linear_schedule(rate, rate * end, length),
        "drops": lambda: optax.piecewise_constant_schedule(
            rate, {step - warmup: float(config.drop_factor) for step in drops}
        ),
    }
    main = choice(config.schedule, known, f"{group}.schedule")()
    if warmup == 0:
        return main
    return optax.join_schedules([optax.linear_schedule(0.0, rate, warmup), main], [warmup])


def optimizer(config: ConfigDict, steps: int, group: str) -> optax.GradientTransformation:
    """Adam (AdamW with weight decay on kernels) behind gradient clipping.

    Args:
        config: learning_rate, schedule, warmup_steps, end_factor, b1, b2, weight_decay, clip_norm
            (0: none).
        steps: length of the run.
        group: the config group's name, for messages.

    Raises:
        UserError: for a value out of its range.
    """
    for field in ("learning_rate", "weight_decay", "clip_norm"):
        if config[field] < 0:
            raise UserError(f"{group}.{field}={config[field]} has to be 0 or more")
    parts = []
    if config.clip_norm > 0:
        parts.append(optax.clip_by_global_norm(config.clip_norm))
    parts.append(
        optax.adamw(
            learning_rate(config, steps, group),
            b1=config.b1,
            b2=config.b2,
            weight_decay=config.weight_decay,
            mask=lambda params: jax.tree.map(lambda p: p.ndim > 1, params),
        )
    )
    return optax.chain(*parts)


def learning_steps(config: ConfigDict, networks: tuple[str, ...]) -> dict[str, int]:
    """Network -> step at which it starts to learn; those given -1 never do and are left out.

    Raises:
        UserError: for a step below -1.
    """
    for name in networks:
        if config[name] < -1:
            raise UserError(
                f"learn_from_step.{name}={config[name]} has to be -1 (never learns) or the step, "
                "0 or more, at which it starts to learn"
            )
    return {name: config[name] for name in networks if config[name] >= 0}


def phases(
    learn_from_step: Mapping[str, int], networks: Mapping[str, Any], adversarial: int = 0
) -> tuple[tuple[int, str], ...]:
    """(step, which networks learn from there on), in order of steps.

    `adversarial` is the step from which the generator sees the adversarial term.
    """
    initial = sorted(
        {learn_from_step[name] for name in networks if name in learn_from_step} | {0, adversarial}
    )
    found = []
    for start in initial:
        names = [n for n in networks if learn_from_step.get(n, start + 1) <= start]
        said = f"{' and '.join(names) or 'nothing'} {'learn' if len(names) > 1 else 'learns'}"
        if start < adversarial and "generator" in names:
            said += ", the generator without the adversarial term"
        found.append((start, said))
    return tuple(found)
