import json

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from histojax.data.device_batches import DeviceBatches, load_store
from histojax.data.example import example_spec
from tests.data.coordinates import Coordinates, assert_registered

GIB = 2**30


def device_batches(source, fields, batch_size, seed=0, config=None, **kwargs):
    spec = example_spec(source, {"crop": 16, **(config or {})}, fields)
    store = load_store(source, spec, GIB)
    return DeviceBatches(store, spec, batch_size=batch_size, seed=seed, **kwargs)


def take(batches, count):
    return [jax.device_get(next(batches)) for _ in range(count)]


def assert_equal(left, right):
    assert left.keys() == right.keys()
    for field in left:
        assert left[field].dtype == right[field].dtype
        np.testing.assert_array_equal(left[field], right[field])


@pytest.mark.parametrize("first_label", [1, 70_000])
def test_fields_stay_registered_and_padding_is_never_seen(first_label):
    source = Coordinates(fields=("instances", "lr"), first_label=first_label)
    batches = device_batches(source, ("hr", "lr", "mask", "instances"), 32)
    origins = set()
    for batch in take(batches, 3):
        assert {f: (a.shape, a.dtype) for f, a in batch.items()} == {
            "hr": ((32, 16, 16, 3), np.uint8),
            "lr": ((32, 4, 4, 3), np.uint8),
            "mask": ((32, 16, 16), np.uint8),
            "instances": ((32, 16, 16), np.int32),
        }
        assert_registered(batch, first_label)
        assert (batch["mask"] == 1).all()
        number = batch["hr"][:, 0, 0, 2]
        y, x = (batch["hr"][..., c].min(axis=(1, 2)) for c in (0, 1))
        origins |= set(zip(number.tolist(), y.tolist(), x.tolist(), strict=True))
    assert {n for n, _, _ in origins} == {0, 1, 2}
    assert all(y % 4 == 0 and x % 4 == 0 for _, y, x in origins)
    assert len(origins) > 30


def test_every_epoch_draws_every_image_once():
    source = Coordinates(sizes=((16, 20),) * 5)
    batches = device_batches(source, ("hr",), 7)
    numbers = np.concatenate([batch["hr"][:, 0, 0, 2] for batch in take(batches, 10)])
    epochs = numbers.reshape(14, 5)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(5), (14, 1)))
    assert len({tuple(epoch) for epoch in epochs}) > 5


def test_a_position_resumes_to_the_identical_batch():
    source = Coordinates()
    config = {"augmentation": {"stain_sigma": 0.2}}
    batches = device_batches(source, ("hr", "lr"), 4, config=config)
    take(batches, 2)
    state = batches.get_state()
    assert json.loads(json.dumps(state)) == state
    expected = take(batches, 2)
    resumed = device_batches(source, ("hr", "lr"), 4, config=config)
    resumed.set_state(state)
    for left, right in zip(take(resumed, 2), expected, strict=True):
        assert_equal(left, right)
    assert (expected[0]["hr"] != expected[1]["hr"]).any()


def test_batches_do_not_depend_on_the_devices_that_share_them():
    source = Coordinates()
    config = {"augmentation": {"stain_sigma": 0.2}}
    expected = take(device_batches(source, ("hr", "lr", "mask"), 4, config=config), 2)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    split = device_batches(source, ("hr", "lr", "mask"), 4, config=config, sharding=sharding)
    for want in expected:
        batch = next(split)
        for array in batch.values():
            assert array.sharding.is_equivalent_to(sharding, array.ndim)
            assert {shard.data.shape[0] for shard in array.addressable_shards} == {2}
        assert_equal(jax.device_get(batch), want)


def test_seeds_give_different_batches():
    first, second = (
        take(device_batches(Coordinates(), ("hr",), 4, seed=seed), 1)[0]["hr"] for seed in (0, 1)
    )
    assert (first != second).any()


def test_a_set_that_is_too_large_is_given_up_early():
    source = Coordinates(sizes=((64, 64),) * 50)
    spec = example_spec(source, {"crop": 16}, ("hr",))
    source.reads = 0
    # Every image is padded to the largest, so the first already shows the need.
    assert load_store(source, spec, 50 * 64 * 64 * 3 - 1) is None
    assert source.reads == 1
    assert load_store(source, spec, 50 * 64 * 64 * 3)["hr"].shape == (50, 64, 64, 3)
