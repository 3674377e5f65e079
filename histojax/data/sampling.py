"""Random draws from a NumPy generator on the host, or from a JAX key inside a jitted function."""

from typing import Any

import numpy as np


def split(rng: Any, count: int) -> list[Any]:
    """`count` sources of draws: keys of their own, or the same generator, which moves on."""
    if isinstance(rng, np.random.Generator):
        return [rng] * count
    import jax

    return list(jax.random.split(rng, count))


def uniform(rng: Any, shape: tuple[int, ...]) -> Any:
    """float32 in [0, 1)."""
    if isinstance(rng, np.random.Generator):
        return rng.random(shape, dtype=np.float32)
    import jax

    return jax.random.uniform(rng, shape, dtype=np.float32)


def normal(rng: Any, shape: tuple[int, ...]) -> Any:
    """float32 of mean 0 and variance 1."""
    if isinstance(rng, np.random.Generator):
        return rng.standard_normal(shape, dtype=np.float32)
    import jax

    return jax.random.normal(rng, shape, dtype=np.float32)
