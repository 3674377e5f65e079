"""From the uint8 images of a batch to the numbers inside a step, and back."""

from collections.abc import Iterable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np


def unit(image: jax.Array, dtype: jnp.dtype = jnp.float32) -> jax.Array:
    """uint8 (B, H, W, C) as floats in [0, 1]; floats pass through."""
    if jnp.issubdtype(image.dtype, jnp.floating):
        return image
    return image.astype(dtype) / 255


def quantize(image: jax.Array) -> jax.Array:
    """Floats (B, H, W, C), nominally in [0, 1], rounded and clipped to uint8."""
    return jnp.round(jnp.clip(image, 0.0, 1.0) * 255).astype(jnp.uint8)


def targets(
    batch: Mapping[str, jax.Array], heads: Sequence[str], dtype: jnp.dtype = jnp.float32
) -> jax.Array:
    """A batch's maps (B, H, W), a field for each head, as (B, H, W, len(heads)) in [0, 1].

    Any class of a mask above 0 is foreground; a distance is in 255ths.
    """
    maps = [batch[h] / 255 if h == "distance" else batch[h] > 0 for h in heads]
    return jnp.stack([m.astype(dtype) for m in maps], axis=-1)


def by_head(maps: jax.Array, heads: Sequence[str]) -> dict[str, jax.Array]:
    """(..., len(heads)) as {head: (..., 1)}."""
    return {head: maps[..., i : i + 1] for i, head in enumerate(heads)}


def class_heads(count: int) -> tuple[str, ...]:
    """Names of the maps of the classes 1 to count - 1; class 0, background, is 1 - "mask"."""
    return tuple(f"class_{number}" for number in range(1, count))


def tells_classes(heads: Iterable[str]) -> bool:
    """Whether maps of classes are among these names."""
    return "class_1" in heads


def likeliest_class(maps: Mapping[str, np.ndarray]) -> np.ndarray:
    """Each pixel's likeliest class, uint8 (...), by maps of mask and classes, (..., 1) each.

    It may be background where the mask's probability is above one half: several classes share it.
    """
    count = 1 + sum(head.startswith("class_") for head in maps)
    # In the order of their numbers: JAX sorts the keys of a dict alphabetically.
    each = [1 - maps["mask"], *(maps[head] for head in class_heads(count))]
    return np.argmax(np.concatenate(each, -1), -1).astype(np.uint8)
