"""One step on many devices: jit(shard_map(step)) over a mesh with the one axis "data".

The state is replicated, the batch split along its first axis, and the step averages its gradients,
metrics and BatchNorm statistics over "data", as under pmap. shard_map's replication checker is off
(check_vma=False), because with it on, the gradient of replicated parameters is already summed over
devices and averaging it again would be wrong.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from histojax import processes

AXIS = "data"
Tree = Any


def data_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of all devices (of all processes), or of those given, along "data"."""
    devices = list(jax.devices() if devices is None else devices)
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def train_step(step: Callable[..., Any], mesh: Mesh) -> Callable[[Tree, Tree], tuple[Tree, Tree]]:
    """`step(state, batch, axis_name=...)` compiled over the mesh; the state is donated."""
    step = functools.partial(step, axis_name=AXIS)
    return jax.jit(_mapped(step, mesh, (P(), P())), donate_argnums=0)


def eval_step(step: Callable[..., Any], mesh: Mesh) -> Callable[[Tree, Tree], Tree]:
    """`step(state, batch)` compiled over the mesh; outputs stay split along their first axis."""
    return jax.jit(_mapped(step, mesh, P(AXIS)))


def _mapped(step: Callable[..., Any], mesh: Mesh, out_specs: Any) -> Callable[..., Any]:
    specs = (P(), P(AXIS))
    return jax.shard_map(step, mesh=mesh, in_specs=specs, out_specs=out_specs, check_vma=False)


def replicate(tree: Tree, mesh: Mesh) -> Tree:
    """The tree whole on every device of the mesh; each process gives its own, which are alike."""
    whole = NamedSharding(mesh, P())
    if mesh.is_multi_process:
        return jax.tree.map(functools.partial(_place_whole, whole=whole), tree)
    return jax.device_put(tree, whole)


def _place_whole(leaf: Any, whole: NamedSharding) -> jax.Array:
    """An array on devices of which some are other processes', where device_put cannot put it."""
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        numbers = _place_whole(jax.random.key_data(leaf), whole)
        return jax.random.wrap_key_data(numbers, impl=jax.random.key_impl(leaf))
    array = np.asarray(leaf)
    return jax.make_array_from_callback(array.shape, whole, array.__getitem__)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """How a batch lies: its first axis split over "data"."""
    return NamedSharding(mesh, P(AXIS))


def place_batch(batch: Mapping[str, Any], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's share of a batch, put on its devices as part of the global batch."""
    sharding = batch_sharding(mesh)
    return {
        name: value
        if isinstance(value, jax.Array) and value.sharding.is_equivalent_to(sharding, value.ndim)
        else jax.make_array_from_process_local_data(sharding, np.asarray(value))
        for name, value in batch.items()
    }


def own_rows(batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """This process's rows of a batch (B, ...) of all: of n parts process p has the p-th."""
    if processes.count() == 1:
        return dict(batch)
    parts = {name: np.split(rows, processes.count()) for name, rows in batch.items()}
    # Copied, so that the others' rows do not stay in memory.
    return {name: part[processes.index()].copy() for name, part in parts.items()}


def local_rows(array: jax.Array) -> np.ndarray:
    """The rows of an array split over "data" that lie on this process's devices, in order."""
    shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([np.asarray(shard.data) for shard in shards])
