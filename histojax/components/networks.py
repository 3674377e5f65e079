"""From config groups to networks; a value that cannot be used is refused by name."""

from __future__ import annotations

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
    kind: type[nn.Module], fields: Mapping[str, Any], group: str, *, dtype: Any, **fixed: Any
) -> Any:
    """A linen module from a config group that holds its fields.

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
    registry: Mapping[str, type[nn.Module]], fields: Mapping[str, Any], group: str, **fixed: Any
) -> Any:
    """The module that the field `kind` of a config group names in a registry.

    Raises:
        UserError: naming an unknown kind or field, or a value that is refused.
    """
    check({"kind": fields.get("kind")}, {"kind": one_of(registry)}, f"{group}.")
    rest = {key: value for key, value in fields.items() if key != "kind"}
    return module(registry[fields["kind"]], rest, group, **fixed)
