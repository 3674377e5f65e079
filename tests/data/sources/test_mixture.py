"""Mixtures: shares by weight, no patient in two sets, and what the sets have in common."""

import logging
import pickle
from collections import Counter

import numpy as np
import pytest

from histojax.data.datasets.preparing import prepare
from histojax.data.sources.mixture import parse_mixture
from histojax.data.sources.specs import open_source
from histojax.errors import UserError
from tests.data.datasets import official

SYNTHETIC = {"train": 6, "val": 2, "test": 2, "size": 48}
PATIENTS = ("TCGA-AA-0001", "TCGA-BB-0002", "TCGA-CC-0003", "TCGA-DD-0004", "TCGA-EE-0005")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("mixture")
    official.monuseg(root / "m", [f"{patient}-01Z-00-DX1" for patient in PATIENTS])
    official.tnbc(root / "t")
    official.glas(root / "g")
    for name, source in (("monuseg", "m"), ("tnbc", "t"), ("glas", "g")):
        prepare(name, root / source, root / "data")
    return root / "data"


def _open(data_dir, spec, split="all", **options):
    return open_source(spec, split=split, data_dir=data_dir, synthetic=SYNTHETIC, **options)


def _shares(source):
    return Counter(name.partition("-")[0] for name in source.names)


def test_training_follows_the_weights_and_leaves_no_image_out(data_dir):
    # 4 train images of monuseg and 2 of tnbc: 8 + 2 of 10 would hold every image once, and the
    # weights ask for max(4 / .8, 2 / .2) = 10 in all.
    mixed = _open(data_dir, "mix:monuseg=8,tnbc=2", "train")
    assert _shares(mixed) == {"monuseg": 8, "tnbc": 2}
    times = Counter(mixed.names)
    assert set(times.values()) == {2, 1}
    for index in range(len(mixed)):
        assert mixed[index]["name"] == mixed.names[index]


def test_other_splits_hold_every_image_once(data_dir):
    mixed = _open(data_dir, "mix:monuseg=8,tnbc=2", "val")
    assert _shares(mixed) == {"monuseg": 1, "tnbc": 2}
    assert len(set(mixed.names)) == 3
    whole = _open(data_dir, "mix:monuseg=0.5,synthetic=0.5")
    assert _shares(whole) == {"monuseg": 5, "synthetic": 10}


def test_records_are_those_of_the_sets(data_dir):
    mixed = pickle.loads(pickle.dumps(_open(data_dir, "mix:tnbc=1,monuseg=1")))
    alone = _open(data_dir, "monuseg")
    for index, name in enumerate(alone.names):
        record = mixed[4 + index]
        assert record["name"] == f"monuseg-{name}"
        for field in ("hr", "instances", "mask"):
            np.testing.assert_array_equal(record[field], alone[index][field])
    assert mixed.groups == ["tnbc-slide-01"] * 2 + ["tnbc-slide-02"] * 2 + list(PATIENTS)
    assert mixed.mpp == 0.25


def test_masks_of_different_classes_become_binary(data_dir, caplog):
    with caplog.at_level(logging.WARNING):
        mixed = _open(data_dir, "mix:glas=1,monuseg=1", "train")
    assert mixed.mpp is None
    assert any("do not all state one scale (0.62005, 0.25" in line for line in caplog.messages)
    assert mixed.classes == ["background", "nucleus"]
    for index in range(len(mixed)):
        np.testing.assert_array_equal(mixed[index]["mask"], mixed[index]["instances"] > 0)


@pytest.mark.faults
def test_a_patient_in_two_sets_is_refused(data_dir, tmp_path):
    """The patient trains in one set and validates in the other, or is there twice."""
    name = "TCGA-CC-0003-01A-01-TS1"
    for seed, image in enumerate((name, "TCGA-ZZ-0009-01A-01-TS1")):
        official.save(tmp_path / "mine/images" / f"{image}.png", official.picture(seed))
        official.save(tmp_path / "mine/instances" / f"{image}.png", official.two_nuclei())
    spec = f"mix:monuseg=0.5,folder:{tmp_path / 'mine'}=0.5"
    for split in ("train", "val"):
        with pytest.raises(UserError, match=r"patient TCGA-CC-0003 is in monuseg and in folder:"):
            _open(data_dir, spec, split)
    # The remedy that the sentence names.
    prepare("folder", tmp_path / "mine", data_dir, name="mine", exclude=["TCGA-CC-0003"])
    mixed = _open(data_dir, "mix:monuseg=0.5,mine=0.5")
    assert mixed.groups[-1] == "TCGA-ZZ-0009"


def test_fingerprint_tells_sets_and_shares(data_dir):
    specs = ("mix:monuseg=8,tnbc=2", "mix:monuseg=2,tnbc=8", "mix:monuseg=1,glas=1")
    fingerprints = {_open(data_dir, spec, "train").fingerprint() for spec in specs}
    assert len(fingerprints) == 3
    assert _open(data_dir, specs[0], "train").fingerprint() in fingerprints


def test_weights_add_up_to_one():
    assert parse_mixture("mix:monuseg=3, folder:/a=b=1") == {"monuseg": 0.75, "folder:/a=b": 0.25}


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("mix:monuseg,tnbc", "'monuseg' is not SPEC=WEIGHT"),
        ("mix:monuseg=1,tnbc=0", "'tnbc=0' is not SPEC=WEIGHT with a positive weight"),
        ("mix:monuseg=nan,tnbc=1", "'monuseg=nan' is not SPEC=WEIGHT"),
        ("mix:monuseg=1,monuseg=2", "names 'monuseg' twice"),
        ("mix:monuseg=1", "mixes 1 set: name two or more, or give 'monuseg' alone"),
        ("mix:", "'' is not SPEC=WEIGHT"),
        ("mix:mix:a=1,b=1", "'mix:a=1' is not SPEC=WEIGHT"),
    ],
)
def test_a_malformed_mixture_is_one_sentence(spec, words):
    with pytest.raises(UserError) as refusal:
        open_source(spec, split="train")
    assert words in str(refusal.value)


def test_a_set_that_cannot_be_opened_is_named(data_dir):
    with pytest.raises(UserError, match="'pannuke' is not prepared"):
        _open(data_dir, "mix:monuseg=1,pannuke=1")
