"""Parameters and receptive field of a generator, measured on the module itself."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np


def count(tree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def shapes(module, channels=3):
    x = jax.ShapeDtypeStruct((1, 8, 8, channels), jnp.float32)
    return jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=True), x)


def reach(model) -> int:
    """Receptive-field radius in low-resolution pixels."""
    size, center, r = 33, 16, model.scale
    x = jnp.full((1, size, size, 3), 0.5)
    # What depends on a pixel that is not a number is not a number.
    variables = jax.jit(partial(model.init, train=False))(jax.random.key(0), x[:, :4, :4])
    x = x.at[0, center, center].set(jnp.nan)
    y = jax.jit(partial(model.apply, train=False))(variables, x)
    rows, columns = np.nonzero(np.isnan(np.asarray(y)).any(-1)[0])
    return max(np.abs(rows // r - center).max(), np.abs(columns // r - center).max())
