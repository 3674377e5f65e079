"""What the gradients of a stage's step keep of its forward passes, by shape alone."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp

from histojax.config import from_values
from histojax.models import convolutions
from histojax.runs import workdirs
from launch.benchmark.steps import Row, untrained_stage


def measure_residuals(values: Mapping[str, Any], *, name: str) -> list[Row]:
    """A row for each gradient of a stage's step, in order, at its batch on one device.

    Convolutions have the forms of accelerators. `kept_bytes` are JAX's residuals without the
    arguments of the gradient; a compiler may keep less.
    """
    config = from_values(dict(values))
    with (
        mock.patch.object(convolutions, "grouped_conv_form", return_value="grouped"),
        mock.patch.object(convolutions, "weight_gradient_form", return_value="xla"),
        counted() as kept,
    ):
        stage = untrained_stage(config)
        state = jax.eval_shape(lambda: workdirs.fresh_state(stage, config))
        size = config.data.batch_size
        batch = {
            field: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype)
            for field, x in workdirs.example_batch(config).items()
        }
        jax.eval_shape(stage.train_step, state, batch)
    return [
        {"name": f"{name}: {of}", "batch_size": size, "kept_bytes": count} for of, count in kept
    ]


@contextlib.contextmanager
def counted() -> Iterator[list[tuple[str, int]]]:
    """Notes each function whose gradient is taken, and the bytes kept for it."""
    kept: list[tuple[str, int]] = []
    own, inside = jax.vjp, False

    def vjp(function: Callable[..., Any], *primals: Any, has_aux: bool = False) -> Any:
        nonlocal inside
        if inside:
            return own(function, *primals, has_aux=has_aux)
        inside = True
        try:
            found = own(function, *primals, has_aux=has_aux)
        finally:
            inside = False
        leaves = {id(leaf): leaf for leaf in jax.tree.leaves(found[1])}
        for leaf in jax.tree.leaves(primals):
            leaves.pop(id(leaf), None)
        count = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves.values())
        kept.append((function.__name__, count))
        return found

    def grad(function: Callable[..., Any], argnums: Any = 0, has_aux: bool = False) -> Any:
        places = (argnums,) if isinstance(argnums, int) else argnums

        def gradient(*arguments: Any) -> Any:
            def of(*chosen: Any) -> Any:
                replaced = dict(zip(places, chosen, strict=True))
                return function(*(replaced.get(i, x) for i, x in enumerate(arguments)))

            of.__name__ = function.__name__
            loss, pullback, *aux = vjp(of, *(arguments[i] for i in places), has_aux=has_aux)
            grads = pullback(jnp.ones_like(loss))
            grads = grads[0] if isinstance(argnums, int) else grads
            return (grads, *aux) if has_aux else grads

        return gradient

    with mock.patch.object(jax, "vjp", vjp), mock.patch.object(jax, "grad", grad):
        yield kept
