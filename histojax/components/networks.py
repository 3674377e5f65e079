"""From config groups to networks; a value that cannot be used is refused by name."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from ml_collections import ConfigDict

from histojax.checks import check, one_of
from histojax.errors import UserError

_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float64": jnp.float64}


def compute_dtype(config: ConfigDict) -> Any:
    """The dtype convolutions run in: `config.precision`, or by backend where that is "auto"."""
    check(config, {"precision": one_of(("auto", *_DTYPES))})
    if config.precision == "auto":
        return jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    return _DTYPES[config.precision]


def module(
    kind: type[nn.Module], config: ConfigDict, group: str, *, named: bool = False, **fixed: Any
) -> Any:
    """A linen module of a config's precision, from the config group that holds its fields.

    `named`: whether the group's field `kind` names it.

    Raises:
        UserError: a field that it does not have.
    """
    known = {f.name for f in dataclasses.fields(kind)} - {"parent", "name", "dtype", *fixed}
    fields = {key: v for key, v in config[group].items() if not (named and key == "kind")}
    values = {key: tuple(v) if isinstance(v, list) else v for key, v in fields.items()}
    unknown = sorted(set(values) - known)
    if unknown:
        raise UserError(
            f"{group}.{unknown[0]} is not a field of {kind.__name__}; "
            f"its fields are {', '.join(sorted(known))}"
        )
    return kind(**values, **fixed, dtype=compute_dtype(config))


def network(
    registry: Mapping[str, type[nn.Module]], config: ConfigDict, group: str, **fixed: Any
) -> Any:
    """As `module`, of the kind that the group's field `kind` names in a registry."""
    kind = config[group].get("kind")
    check({"kind": kind}, {"kind": one_of(registry)}, f"{group}.")
    return module(registry[kind], config, group, named=True, **fixed)
