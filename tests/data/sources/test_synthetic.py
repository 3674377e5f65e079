"""The synthetic source: splits by patient, random access, bounded memory."""

import pickle

import numpy as np
import pytest

from histojax.data.sources.synthetic import SyntheticSource
from histojax.errors import UserError

SIZE = 64
BYTES = SIZE * SIZE * (3 + 4 + 1)


def _source(split="train", **options) -> SyntheticSource:
    defaults = {"train": 6, "val": 3, "test": 3, "size": SIZE}
    return SyntheticSource(split=split, **(defaults | options))


def test_item_holds_what_the_contract_says():
    source = _source()
    item = source[1]
    assert set(item) == {"name", "hr", "instances", "mask"}
    assert item["name"] == source.names[1]
    assert (item["hr"].dtype, item["hr"].shape) == (np.uint8, (SIZE, SIZE, 3))
    assert (item["instances"].dtype, item["instances"].shape) == (np.int32, (SIZE, SIZE))
    assert item["mask"].dtype == np.uint8
    np.testing.assert_array_equal(item["mask"], item["instances"] > 0)
    assert source.mpp == 0.25
    assert source.classes == ["background", "nucleus"]
    with pytest.raises(ValueError, match="read-only"):
        item["hr"][0, 0] = 0


def test_splits_share_no_patient_and_no_image():
    sources = [_source(split) for split in ("train", "val", "test")]
    groups = [set(source.groups) for source in sources]
    assert len(set.union(*groups)) == sum(len(group) for group in groups)
    images = {source[i]["hr"].tobytes() for source in sources for i in range(len(source))}
    assert len(images) == 12


def test_all_is_the_three_splits_in_order():
    everything = _source("all")
    parts = [_source(split) for split in ("train", "val", "test")]
    assert everything.names == [name for part in parts for name in part.names]
    assert everything.groups == [group for part in parts for group in part.groups]
    np.testing.assert_array_equal(everything[7]["hr"], parts[1][1]["hr"])


def test_patches_of_a_patient_follow_each_other():
    source = _source(train=7, patches_per_patient=3)
    assert [source.groups.count(g) for g in dict.fromkeys(source.groups)] == [3, 3, 1]
    assert len(set(source.names)) == 7


def test_size_of_training_set_does_not_change_validation():
    small, large = _source("val", train=2), _source("val", train=4000)
    np.testing.assert_array_equal(small[2]["hr"], large[2]["hr"])


def test_seed_changes_the_images():
    assert (_source(seed=1)[0]["hr"] != _source(seed=2)[0]["hr"]).any()


def test_memory_is_bounded_and_the_latest_stay():
    source = _source(cache_bytes=2 * BYTES + 1)
    first = source[0]["hr"]
    assert source[0]["hr"] is first
    for i in (1, 0, 2):
        source[i]
    assert list(source._cache._records) == [0, 2]
    assert source[0]["hr"] is first
    uncached = _source(cache_bytes=0)
    assert uncached[0]["hr"] is not uncached[0]["hr"]
    assert not uncached._cache._records


def test_a_changed_item_does_not_change_the_source():
    source = _source()
    source[0]["hr"] = None
    assert source[0]["hr"] is not None


def test_pickled_source_gives_the_same_images():
    source = _source()
    source[0]
    data = pickle.dumps(source)
    assert len(data) < BYTES // 4
    again = pickle.loads(data)
    assert again.fingerprint() == source.fingerprint()
    assert again.names == source.names
    np.testing.assert_array_equal(again[3]["instances"], source[3]["instances"])


def test_fingerprint_tells_data_apart():
    variants = [
        _source(),
        _source("val"),
        _source(seed=1),
        _source(size=32),
        _source(train=7),
        _source(patches_per_patient=3),
    ]
    assert len({source.fingerprint() for source in variants}) == len(variants)
    assert _source().fingerprint() == _source(cache_bytes=0).fingerprint()


def test_the_usual_scale_changes_no_image_and_no_digest():
    # As of the code before there was a choice of scale.
    assert SyntheticSource(train=6, size=128).fingerprint() == "6b70b3c5d0599669"
    usual = _source()
    for mpp in (0.25, (0.25,), (0.25, 0.25), [0.25, 0.25]):
        source = _source(mpp=mpp)
        assert source.fingerprint() == usual.fingerprint()
        assert source.mpp == 0.25
        np.testing.assert_array_equal(source[1]["hr"], usual[1]["hr"])


def test_a_finer_scale_is_stated_where_all_images_share_it():
    fine, mixed = _source(mpp=0.0625), _source(mpp=(0.0625, 0.25))
    assert (fine.mpp, mixed.mpp) == (0.0625, None)
    assert len({source.fingerprint() for source in (_source(), fine, mixed)}) == 3
    assert (fine[0]["hr"] != _source()[0]["hr"]).any()
    assert pickle.loads(pickle.dumps(mixed)).fingerprint() == mixed.fingerprint()


def test_index_beyond_the_end_is_refused():
    source = _source("val")
    np.testing.assert_array_equal(source[-1]["hr"], source[2]["hr"])
    for index in (3, -4):
        with pytest.raises(IndexError, match=str(index)):
            source[index]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"split": "validation"}, "split='validation' is not known"),
        ({"seed": -1}, "seed=-1"),
        ({"size": 8}, "size=8"),
        ({"train": -2}, "train=-2"),
        ({"val": 1.5}, "val=1.5"),
        ({"patches_per_patient": 0}, "patches_per_patient=0"),
        ({"mpp": 0.5}, r"mpp=\(0.5, 0.5\) has to be two numbers.* from 0.03 to 0.25"),
        ({"mpp": (0.2, 0.1)}, r"mpp=\(0.2, 0.1\)"),
        ({"mpp": "0.1"}, "'0.1'"),
        ({"mpp": ()}, r"mpp=\(\)"),
        ({"mpp": (0.1, 0.1, 0.1)}, r"mpp=\(0.1, 0.1, 0.1\)"),
    ],
)
def test_values_out_of_range_are_named(options, words):
    with pytest.raises(UserError, match=words):
        _source(**options)
