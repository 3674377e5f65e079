"""The state of a training run, and the steps that all stages share.

A training step is a per-device program: arrays are this device's share of the batch, and
`axis_name` names the mapped axis over which gradients, metrics and BatchNorm statistics are
averaged (None: one device).
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct
from jax import lax
from jax.flatten_util import ravel_pytree

from histojax.components import trees
from histojax.models.layers import KEPT

Tree = Any
Axis = str | None  # name of the mapped axis; None: one device


class State(struct.PyTreeNode):
    """The whole state of a training run, network by network.

    Attributes:
        step: steps taken, those skipped included, int32 ().
        skipped: steps whose loss or gradient was not finite, int32 ().
        skipped_in_a_row: how many of these came last without a finite one between, int32 ().
        rng: typed key of the run; a step's key is folded from it and `step`.
        params, opt_state: network name -> tree.
        statistics: network name -> collection ("batch_stats", "spectral", ...) -> tree.
        ema: name -> averaged variables of the networks that are used afterwards: parameters and
            statistics, so that both describe the same stretch of training. BatchNorm's own running
            statistics remember some ten batches, and averaged parameters score a little less with
            them.
        frozen: network name -> variables that are read but never trained.
    """

    step: jax.Array
    skipped: jax.Array
    skipped_in_a_row: jax.Array
    rng: jax.Array
    params: dict[str, Tree]
    statistics: dict[str, Tree]
    opt_state: dict[str, Tree]
    ema: dict[str, Tree]
    frozen: dict[str, Tree]

    def variables(self, network: str, *, averaged: bool = False) -> dict[str, Tree]:
        """The variables of a network as linen takes them; `averaged`: the averaged ones, if any."""
        if averaged and network in self.ema:
            return self.ema[network]
        return {"params": self.params[network], **self.statistics[network]}


def _run_once(key: jax.Array) -> dict[str, int] | None:
    """Options of a program that runs once: on CPU, compiled without optimising.

    None where the key is traced, because JAX takes options at the top level alone.
    """
    if isinstance(key, jax.core.Tracer) or jax.default_backend() != "cpu":
        return None
    return {"xla_backend_optimization_level": 0}


def create(
    rng: jax.Array,
    networks: Mapping[str, tuple[nn.Module, tuple[jax.Array, ...]]],
    optimizers: Mapping[str, optax.GradientTransformation],
    *,
    averaged: tuple[str, ...] = (),
    start: Mapping[str, Tree] | None = None,
    parts: Mapping[str, Mapping[str, Tree]] | None = None,
    frozen: Mapping[str, Tree] | None = None,
) -> State:
    """A state at step 0.

    Args:
        networks: name -> (module, inputs of the shapes it will see).
        optimizers: name -> optax transformation, for every network that is trained.
        averaged: names whose variables are averaged.
        start: name -> variables of an earlier run, used in place of fresh ones.
        parts: name -> submodule -> its variables, used in place of fresh ones.
        frozen: name -> variables that are only read.

    Raises:
        UserError: if a network and the variables it should start from are of two architectures.
    """
    start = start or {}
    params, statistics = {}, {}
    for index, (name, (module, inputs)) in enumerate(networks.items()):
        key = jax.random.fold_in(rng, index)

        fresh = functools.partial(module.init, train=False)
        if name in start:
            wanted = jax.eval_shape(fresh, key, *inputs)
            trees.check_names(start[name], wanted, f"of init_from.{name}")
            # Copied, because the state is donated step by step, and others use these variables.
            variables = jax.tree.map(jnp.copy, start[name])
        else:
            variables = jax.jit(fresh, compiler_options=_run_once(key))(key, *inputs)
            for part, given in (parts or {}).get(name, {}).items():
                for kind, tree in given.items():
                    variables[kind][part] = jax.tree.map(jnp.asarray, tree)
        params[name] = variables["params"]
        statistics[name] = {k: v for k, v in variables.items() if k != "params"}
    return State(
        step=jnp.zeros((), jnp.int32),
        skipped=jnp.zeros((), jnp.int32),
        skipped_in_a_row=jnp.zeros((), jnp.int32),
        rng=jax.random.fold_in(rng, len(networks)),
        params=params,
        statistics=statistics,
        opt_state={name: tx.init(params[name]) for name, tx in optimizers.items()},
        # Copied, because a donated state must not hold one buffer twice.
        ema={
            name: jax.tree.map(jnp.copy, {"params": params[name], **statistics[name]})
            for name in averaged
        },
        frozen=jax.tree.map(jnp.copy, dict(frozen or {})),
    )


def step_key(state: State, axis_name: str | None) -> jax.Array:
    """This step's key, another one on every device."""
    key = jax.random.fold_in(state.rng, state.step)
    return key if axis_name is None else jax.random.fold_in(key, lax.axis_index(axis_name))


def apply(
    module: nn.Module,
    params: Tree,
    statistics: Tree,
    *x: jax.Array,
    key: jax.Array,
    remat: bool = False,
) -> tuple[Any, Tree]:
    """A call on inputs in training: (output, updated statistics).

    With `remat`, what lies between blocks is kept for the gradient, and the rest computed again
    (Chen et al. 2016, section 4.1).
    """

    def call(params: Tree, *x: jax.Array) -> tuple[Any, Tree]:
        return module.apply(
            {"params": params, **statistics},
            *x,
            train=True,
            mutable=list(statistics),
            rngs={"dropout": key},
        )

    if remat:
        call = jax.checkpoint(call, policy=jax.checkpoint_policies.save_only_these_names(KEPT))
    return call(params, *x)


def own_rows(draw: Callable[[int], jax.Array], count: int, axis_name: str | None) -> jax.Array:
    """This device's `count` rows of what `draw` gives for the number of rows of all devices."""
    if axis_name is None:
        return draw(count)
    whole = draw(count * lax.axis_size(axis_name))
    return lax.dynamic_slice_in_dim(whole, lax.axis_index(axis_name) * count, count)


def mean_over(tree: Tree, axis_name: str | None) -> Tree:
    """The tree averaged over the mapped axis, in one all-reduce whatever its leaves."""
    if axis_name is None:
        return tree
    flat, unravel = ravel_pytree(tree)
    return unravel(lax.pmean(flat, axis_name))


def _where(condition: jax.Array, new: Tree, old: Tree) -> Tree:
    return jax.tree.map(lambda n, o: jnp.where(condition, n, o), new, old)


def _new_weight(taken: jax.Array, moments: Any, ema_decay: float) -> jax.Array:
    """Weight of a network's new variables in their average, after `taken` steps without this."""
    accumulates = isinstance(moments, optax.MultiStepsState)
    t = (moments.gradient_step - 1 if accumulates else taken).astype(jnp.float32)
    weight = 1.0 - jnp.minimum(ema_decay, (1.0 + t) / (10.0 + t))
    return jnp.where(moments.mini_step == 0, weight, 0.0) if accumulates else weight


def _moved(old: Tree, new: Tree, weight: jax.Array) -> Tree:
    return jax.tree.map(lambda o, n: o + weight.astype(o.dtype) * (n - o), old, new)


def advance(
    state: State,
    optimizers: Mapping[str, optax.GradientTransformation],
    grads: Mapping[str, Tree],
    statistics: Mapping[str, Tree],
    metrics: Mapping[str, jax.Array],
    *,
    ema_decay: float,
    learn_from_step: Mapping[str, int] | None = None,
) -> tuple[State, dict[str, jax.Array]]:
    """The next state from averaged gradients, or the old one when a metric or norm is not finite.

    optax.apply_if_finite would keep parameters and optimiser state, but neither statistics nor the
    average, and it does not see the metrics; optax.ema has no decay that rises with the step. The
    metrics gain `skipped` and the global gradient norm of every network.

    Args:
        state, optimizers: before the step; the same as at `create`.
        grads, statistics: network name -> gradients, and updated statistics, averaged over devices.
        metrics: name -> scalar, averaged over devices; they have to be finite too.
        ema_decay: largest weight of the old average, which is min(ema_decay, (1 + t) / (10 + t)) at
            step t, so that the average forgets the start of a run. Where an optimizer accumulates,
            t counts its updates, and the average stands still between two.
        learn_from_step: network name -> step at which it starts to learn; until then its
            parameters, statistics and optimiser state do not change (default 0).
    """
    # A norm is finite only where all its gradients are, and their squares too, which Adam takes.
    norms = {f"gradient_norm_{name}": optax.tree.norm(grad) for name, grad in grads.items()}
    scalars = jnp.stack([jnp.asarray(value) for value in {**metrics, **norms}.values()])
    # Every update below depends on this one bit. Without the barrier XLA's CPU backend fuses its
    # computation into each of their hundreds of kernels and compiles ten times as long.
    finite = lax.optimization_barrier(jnp.all(jnp.isfinite(scalars)))
    params, opt_state = dict(state.params), dict(state.opt_state)
    stats = dict(state.statistics)
    for name, grad in grads.items():
        updates, moments = optimizers[name].update(grad, opt_state[name], params[name])
        updated = optax.apply_updates(params[name], updates)
        moved: Tree = (updated, moments, statistics.get(name, stats[name]))
        first = (learn_from_step or {}).get(name, 0)
        if first > 0:
            kept = (params[name], opt_state[name], stats[name])
            moved = _where(state.step >= first, moved, kept)
        params[name], opt_state[name], stats[name] = moved
    taken = state.step - state.skipped
    ema = {}
    for name, old in state.ema.items():
        weight = _new_weight(taken, opt_state.get(name), ema_decay)
        ema[name] = _moved(old, {"params": params[name], **stats[name]}, weight)
    before = (state.params, state.statistics, state.opt_state, state.ema)
    params, stats, opt_state, ema = _where(finite, (params, stats, opt_state, ema), before)
    bad = jnp.where(finite, 0, 1).astype(jnp.int32)
    next_state = state.replace(
        step=state.step + 1,
        skipped=state.skipped + bad,
        skipped_in_a_row=jnp.where(finite, 0, state.skipped_in_a_row + 1).astype(jnp.int32),
        params=params,
        statistics=stats,
        opt_state=opt_state,
        ema=ema,
    )
    counts = {name: getattr(next_state, name) for name in ("skipped", "skipped_in_a_row")}
    return next_state, {**metrics, **norms, **counts}
