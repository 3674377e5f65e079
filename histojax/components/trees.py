"""Names and shapes of the arrays of a tree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from histojax.errors import UserError


def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Path of names -> shape, of every array of a tree."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(
            getattr(leaf, "shape", ()) or ()
        )
        for path, leaf in leaves
    }


def check_names(
    stored: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]], place: Any
) -> None:
    """Compares names and shapes of a stored tree with those a model needs.

    Raises:
        UserError: listing every name that is missing (-), extra (+) or of another shape (~).
    """
    missing = [f"- {name} {wanted[name]}" for name in wanted if name not in stored]
    extra = [f"+ {name} {stored[name]}" for name in stored if name not in wanted]
    other = [
        f"~ {name} stored {stored[name]}, needed {wanted[name]}"
        for name in wanted
        if name in stored and tuple(stored[name]) != tuple(wanted[name])
    ]
    if missing or extra or other:
        raise UserError(
            f"the checkpoint {place} is of another architecture than this config's (- missing, "
            "+ extra, ~ other shape); use the config it was trained with or another workdir:\n"
            + "\n".join(missing + extra + other)
        )
