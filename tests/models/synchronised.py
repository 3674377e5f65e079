"""BatchNorm statistics over devices."""

from functools import partial

import jax
import numpy as np
from jax.sharding import AxisType, PartitionSpec


def check_two_devices_are_one(model, x, *, atol):
    """Half a batch on each of two devices gives what the whole gives on one, statistics too."""
    variables = jax.jit(partial(model.init, train=False))(jax.random.key(1), x)
    train = partial(model.apply, train=True, mutable=["batch_stats"])
    expected, whole = jax.jit(train)(variables, x)
    synchronised = model.clone(bn_axis_name="data")
    mesh = jax.make_mesh((2,), ("data",), (AxisType.Auto,), devices=jax.devices()[:2])
    y, updated = jax.jit(
        jax.shard_map(
            lambda v, x: synchronised.apply(v, x, train=True, mutable=["batch_stats"]),
            mesh=mesh,
            in_specs=(PartitionSpec(), PartitionSpec("data")),
            out_specs=(PartitionSpec("data"), PartitionSpec()),
            check_vma=False,
        )
    )(variables, x)
    np.testing.assert_allclose(y, expected, atol=atol)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), updated, whole)
