import pickle

import numpy as np

from histojax.data.sources.record_cache import RecordCache


def record(name, size=100):
    return {"name": name, "hr": np.zeros(size, np.uint8)}


def keep(cache, index, made):
    return cache.get_or_make(index, lambda: made)


def kept(cache, index):
    """The name of the record that is kept, or None; one made for the question would not fit."""
    return cache.get_or_make(index, lambda: record(None, size=1000))["name"]


def test_the_record_unused_for_longest_goes_first():
    cache = RecordCache(250)
    keep(cache, 0, record("a"))
    keep(cache, 1, record("b"))
    assert kept(cache, 0) == "a"
    keep(cache, 2, record("c"))
    assert kept(cache, 1) is None
    assert [kept(cache, index) for index in (0, 2)] == ["a", "c"]


def test_a_record_beyond_the_bound_drives_nothing_out():
    cache = RecordCache(250)
    keep(cache, 0, record("a"))
    keep(cache, 1, record("b", size=251))
    assert kept(cache, 1) is None
    assert kept(cache, 0) == "a"
    nothing = RecordCache(0)
    keep(nothing, 0, record("a"))
    assert kept(nothing, 0) is None


def test_a_record_kept_twice_counts_once():
    cache = RecordCache(250)
    for _ in range(5):
        # Another thread keeps it while this one makes it.
        cache.get_or_make(0, lambda: keep(cache, 0, record("a")))
    keep(cache, 1, record("b"))
    assert kept(cache, 0) == "a"
    assert kept(cache, 1) == "b"


def test_what_is_done_to_a_record_stays_with_its_user():
    cache = RecordCache(250)
    for _ in range(2):
        assert set(keep(cache, 0, record("a"))) == {"name", "hr"}
        keep(cache, 0, record("a")).pop("hr")


def test_a_pickled_cache_is_empty_and_keeps_its_bound():
    cache = RecordCache(250)
    keep(cache, 0, record("a"))
    other = pickle.loads(pickle.dumps(cache))
    assert kept(other, 0) is None
    for index in range(3):
        keep(other, index, record("a"))
    assert kept(other, 0) is None
    assert kept(other, 2) is not None
