import numpy as np

from histojax.data.eval_batches import crop_origins, eval_batches
from tests.data.coordinates import Coordinates, assert_registered

CONFIG = {"degradation": {"name": "microscope"}}
HOW = {"batch_size": 2, "crop": 16, "limit": 9, "crops_per_image": 1, "seed": 0}


def test_crops_of_evaluation_are_a_regular_grid():
    assert crop_origins(40, 56, 16, 1) == [(12, 20)]
    assert crop_origins(40, 56, 16, 4) == [(0, 0), (0, 40), (24, 0), (24, 40)]
    assert crop_origins(40, 56, 16, 9)[4] == (12, 20)
    assert crop_origins(42, 58, 16, 1, step=4) == [(12, 20)]


def test_evaluation_reads_centers_and_pads_the_last_batch():
    source = Coordinates(fields=("instances", "lr"))
    batches = eval_batches(source, CONFIG, fields=("hr", "lr", "instances"), **HOW)
    assert len(batches) == 2
    assert sum(batch["weight"].sum() for batch in batches) == 3
    first, last = list(batches)
    for batch in (first, last):
        assert_registered(batch)
    np.testing.assert_array_equal(first["weight"], np.ones(2, np.float32))
    np.testing.assert_array_equal(last["weight"], np.array([1, 0], np.float32))
    assert last["weight"].dtype == np.float32
    corners = [tuple(hr[0, 0]) for batch in (first, last) for hr in batch["hr"]]
    assert corners[:3] == [(12, 20, 0), (16, 8, 1), (8, 12, 2)]
    limited = eval_batches(source, CONFIG, fields=("hr",), **{**HOW, "limit": 1, "crop": 32})
    assert [batch["hr"].shape for batch in limited] == [(2, 32, 32, 3)]
    grid = eval_batches(
        source, CONFIG, fields=("hr",), **{**HOW, "batch_size": 4, "crops_per_image": 4}
    )
    assert len(list(grid)) == len(grid) == 3


def test_evaluation_is_degraded_alike_every_time():
    def run(batch_size, seed=0):
        how = {**HOW, "batch_size": batch_size, "seed": seed, "crops_per_image": 4}
        batches = eval_batches(Coordinates(), CONFIG, fields=("lr",), **how)
        first, second = (
            np.concatenate([b["lr"][b["weight"] > 0] for b in batches]) for _ in range(2)
        )
        np.testing.assert_array_equal(first, second)
        return first

    np.testing.assert_array_equal(run(2), run(5))
    assert (run(2) != run(2, seed=1)).any()
