"""Training batches made on the device, from a set that lies in its memory as uint8.

JAX is imported inside the functions: grain's workers import this module and must not start JAX.
"""

from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from histojax.data import augmentation as augmentation_lib
from histojax.data.example import ExampleSpec, finish, read_checked
from histojax.data.sources.base import Source


def load_store(source: Source, spec: ExampleSpec, max_bytes: int) -> dict[str, np.ndarray] | None:
    """Reads every image of a source; None once they are seen to need more than `max_bytes`.

    Fields are padded to the largest image, (N, H, W, ...). "sizes" is int32 (N, 2) and, where
    images are jittered in their own stains, "stains" (N, 3, 3).
    """
    images = []
    largest: dict[str, np.ndarray] = {}
    itemsize: dict[str, int] = {}
    for index in range(len(source)):
        image = read_checked(source, index, spec)
        if "instances" in image and image["instances"].max(initial=0) < 2**16:
            image["instances"] = image["instances"].astype(np.uint16)
        for field in spec.stored:
            shape = image[field].shape
            largest[field] = np.maximum(largest.get(field, shape), shape)
            itemsize[field] = max(itemsize.get(field, 0), image[field].dtype.itemsize)
        needed = len(source) * sum(np.prod(largest[f]) * itemsize[f] for f in spec.stored)
        if needed > max_bytes:
            return None
        images.append(image)
    arrays = {}
    for field in spec.stored:
        dtype = np.result_type(*(image[field].dtype for image in images))
        arrays[field] = np.zeros((len(images), *largest[field]), dtype)
        for row, image in zip(arrays[field], images, strict=True):
            row[tuple(map(slice, image[field].shape))] = image[field]
    if spec.augmentation.own_stains:
        arrays["stains"] = np.stack([image["stains"] for image in images])
    arrays["sizes"] = np.array([image["hr"].shape[:2] for image in images], np.int32)
    return arrays


class Batches:
    """Endless batches, each a function of its position alone: a saved position resumes them."""

    _position = 0

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> dict[str, Any]:
        raise NotImplementedError

    def get_state(self) -> dict[str, int]:
        """The position of the next batch; JSON-able."""
        return {"position": self._position}

    def set_state(self, state: Mapping[str, int]) -> None:
        """Continues with the batch at the given position."""
        self.close()
        self._position = int(state["position"])

    def close(self) -> None:
        """Stops what runs in the background, where anything does."""


class DeviceBatches(Batches):
    """Endless training batches made on the device from a set that lies in its memory.

    Batch number `position` is a jitted function of the set, the seed and the position. Each epoch
    draws every image once, in an order of its own. Each row of a batch has a random key of its own,
    so a batch does not depend on how many devices share it.

    `batch_size` is that of all processes. The first axis of `sharding`, a NamedSharding, splits the
    rows: each device computes its own, also across processes. Without it batches lie on the default
    device.
    """

    def __init__(
        self,
        store: dict[str, np.ndarray],
        spec: ExampleSpec,
        *,
        batch_size: int,
        seed: int,
        sharding: Any = None,
    ):
        import jax
        from jax.sharding import NamedSharding, PartitionSpec

        self._seed, self._batch_size = np.uint32(seed), batch_size
        self._count = len(store["sizes"])
        make = jax.vmap(_device_example(spec), in_axes=(None, 0, 0))
        if sharding is None:
            self._arrays = jax.device_put(store)
        else:
            split, whole = PartitionSpec(sharding.spec[0]), PartitionSpec()
            # Random draws and slices only: there is no gradient for the check to guard.
            make = jax.shard_map(
                make,
                mesh=sharding.mesh,
                in_specs=(whole, split, split),
                out_specs=split,
                check_vma=False,
            )
            replicated = NamedSharding(sharding.mesh, whole)
            self._arrays = {
                name: jax.make_array_from_callback(array.shape, replicated, array.__getitem__)
                for name, array in store.items()
            }

        def batch(arrays, seed, position, epoch, first):
            order_key, example_key = jax.random.split(jax.random.key(seed))
            images = _epoch_order(order_key, self._count, epoch, first, batch_size)
            position_key = jax.random.fold_in(example_key, position)
            key_of_row = jax.vmap(lambda row: jax.random.fold_in(position_key, row))
            return make(arrays, images, key_of_row(jax.numpy.arange(batch_size)))

        self._make = jax.jit(batch)

    def __next__(self) -> dict[str, Any]:
        epoch, first = divmod(self._position * self._batch_size, self._count)
        counters = map(np.uint32, (self._position, epoch, first))
        batch = self._make(self._arrays, self._seed, *counters)
        self._position += 1
        return batch


def _epoch_order(key: Any, count: int, epoch: Any, first: Any, batch_size: int) -> Any:
    """Images of the `batch_size` examples from number `first` of `epoch` on, int32."""
    import jax
    import jax.numpy as jnp

    epochs = epoch + jnp.arange((batch_size + count - 2) // count + 1, dtype=jnp.uint32)
    orders = jax.vmap(lambda e: jax.random.permutation(jax.random.fold_in(key, e), count))(epochs)
    return orders.reshape(-1)[first + jnp.arange(batch_size, dtype=jnp.uint32)]


def _device_example(spec: ExampleSpec) -> Any:
    """(arrays of the whole set, image number, key) -> one example, in jax.numpy."""
    import jax

    def example(arrays, index, key):
        crop_key, augmentation_key, degradation_key = jax.random.split(key, 3)
        height, width = arrays["sizes"][index]
        y, x = augmentation_lib.sample_origin(crop_key, height, width, spec.crop, spec.step)
        cropped = {}
        for field in spec.stored:
            scale = spec.scale_of(field)
            array, side = arrays[field], spec.crop // scale
            tail = array.shape[3:]
            start = (index, y // scale, x // scale) + (0,) * len(tail)
            cropped[field] = jax.lax.dynamic_slice(array, start, (1, side, side, *tail))[0]
        augmentation = augmentation_lib.sample_parameters(spec.augmentation, augmentation_key)
        if spec.augmentation.own_stains:
            augmentation["stains"] = arrays["stains"][index]
        return finish(cropped, spec, augmentation, spec.sample_degradation(degradation_key))

    return example
