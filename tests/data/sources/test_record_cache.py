import pickle

import numpy as np

from histojax.data.sources.record_cache import RecordCache


def record(name, size=100):
    return {"name": name, "hr": np.zeros(size, np.uint8)}


def test_the_record_unused_for_longest_goes_first():
    cache = RecordCache(250)
    cache.keep(0, record("a"))
    cache.keep(1, record("b"))
    assert cache.get(0)["name"] == "a"
    cache.keep(2, record("c"))
    assert cache.get(1) is None
    assert [cache.get(index)["name"] for index in (0, 2)] == ["a", "c"]


def test_a_record_beyond_the_bound_drives_nothing_out():
    cache = RecordCache(250)
    cache.keep(0, record("a"))
    cache.keep(1, record("b", size=251))
    assert cache.get(1) is None
    assert cache.get(0)["name"] == "a"
    nothing = RecordCache(0)
    nothing.keep(0, record("a"))
    assert nothing.get(0) is None


def test_a_record_kept_twice_counts_once():
    cache = RecordCache(250)
    for _ in range(5):
        cache.keep(0, record("a"))
    cache.keep(1, record("b"))
    assert cache.get(0) is not None
    assert cache.get(1) is not None


def test_what_is_done_to_a_record_stays_with_its_user():
    cache = RecordCache(250)
    cache.keep(0, record("a"))
    cache.get(0).pop("hr")
    assert set(cache.get(0)) == {"name", "hr"}


def test_a_pickled_cache_is_empty_and_keeps_its_bound():
    cache = RecordCache(250)
    cache.keep(0, record("a"))
    other = pickle.loads(pickle.dumps(cache))
    assert other.get(0) is None
    for index in range(3):
        other.keep(index, record("a"))
    assert other.get(0) is None
    assert other.get(2) is not None
