"""Preparing: what is written opens as it was read, and every flaw ends in one sentence."""

import errno
import importlib
import json
import os
import shutil
import socket

import numpy as np
import pytest
import scipy.optimize

from histojax.data.datasets import preparing, writing
from histojax.data.datasets.preparing import prepare
from histojax.data.sources.specs import open_source
from histojax.errors import UserError
from histojax.imaging.reader import MAX_PIXELS
from tests.data.datasets import official


@pytest.fixture
def data_dir(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def root(tmp_path):
    return official.monuseg(tmp_path / "MoNuSeg 2018 Training Data")


def _refusal(*args, match, **options):
    with pytest.raises(UserError, match=match) as refusal:
        prepare(*args, **options)
    assert "\n" not in str(refusal.value)


def test_what_is_prepared_opens_as_it_was_read(root, data_dir):
    folder = prepare("monuseg", root, data_dir)
    assert folder == data_dir / "monuseg" / "2.0.0"
    source = open_source("monuseg", split="all", data_dir=data_dir)
    assert source.names == list(official.MONUSEG)
    assert source.groups == ["TCGA-AA-0001", "TCGA-AA-0001", "TCGA-BB-0002"]
    assert (source.mpp, source.classes) == (0.25, ["background", "nucleus"])
    for index, name in enumerate(official.MONUSEG):
        record = source[index]
        assert set(record) == {"name", "hr", "instances", "mask"}
        assert record["name"] == name
        np.testing.assert_array_equal(record["hr"], official.picture(index))
        assert [record[f].dtype for f in ("hr", "instances", "mask")] == ["u1", "i4", "u1"]
        np.testing.assert_array_equal(np.bincount(record["instances"].ravel())[1:], [36, 16])
        np.testing.assert_array_equal(record["mask"], record["instances"] > 0)
    # Nothing but the set is left.
    assert [path.name for path in data_dir.iterdir()] == ["monuseg"]


@pytest.mark.parametrize("name", ["tnbc", "tcia", "glas", "nuinsseg", "pannuke"])
def test_every_set_is_prepared_and_opened(name, tmp_path, data_dir):
    getattr(official, name)(tmp_path / "source")
    dataset = importlib.import_module(f"histojax.data.datasets.{name}").DATASET
    examples = dataset.read(tmp_path / "source", MAX_PIXELS).examples
    prepare(name, tmp_path / "source", data_dir)
    source = open_source(name, split="all", data_dir=data_dir)
    by_name = {example.name: example for example in examples}
    assert sorted(by_name) == source.names
    for index, image in enumerate(source.names):
        assert source.groups[index] == by_name[image].group
        expected = by_name[image].load()
        for field, pixels in expected.items():
            np.testing.assert_array_equal(source[index][field], pixels)


def test_a_folder_is_prepared_under_its_name_with_its_splits(tmp_path, data_dir):
    root = tmp_path / "mine"
    for seed, name in enumerate(("p1_a", "p1_b", "p2_a", "p3_a")):
        official.save(root / "images" / f"{name}.png", official.picture(seed))
        official.save(root / "instances" / f"{name}.png", official.two_nuclei())
        official.save(root / "lr" / f"{name}.png", official.picture(seed, 10, 12))
    (root / "dataset.json").write_text('{"mpp": 0.5, "classes": ["glass", "nucleus"]}')
    (root / "splits.json").write_text('{"train": ["p1_a", "p1_b"], "val": ["p2_a"]}')
    prepare("folder", root, data_dir, name="mine")
    train = open_source("mine", split="train", data_dir=data_dir)
    assert train.names == ["p1_a", "p1_b"]
    assert open_source("mine", split="val", data_dir=data_dir).names == ["p2_a"]
    assert (train.mpp, train.classes) == (0.5, ["glass", "nucleus"])
    np.testing.assert_array_equal(train[1]["lr"], official.picture(1, 10, 12))
    with pytest.raises(UserError, match="mine has no split 'test': there are train, val, all"):
        open_source("mine", split="test", data_dir=data_dir)
    with pytest.raises(UserError, match=r"'p1_a' is 10 x 12 px, and 1/2 of 40 x 48 px is due"):
        open_source("mine", split="train", data_dir=data_dir, scale=2)[0]


def test_pairs_of_another_scale_are_prepared_and_opened_at_it(tmp_path, data_dir):
    root = tmp_path / "mine"
    for seed, name in enumerate(("p1_a", "p2_a")):
        official.save(root / "images" / f"{name}.png", official.picture(seed))
        official.save(root / "instances" / f"{name}.png", official.two_nuclei())
        official.save(root / "lr" / f"{name}.png", official.picture(seed, 13, 16))
    prepare("folder", root, data_dir, name="mine")
    source = open_source("mine", split="all", data_dir=data_dir, scale=3)
    assert source[0]["hr"].shape == (40, 48, 3)
    assert source[0]["lr"].shape == (13, 16, 3)
    with pytest.raises(UserError, match=r"1/2 of 40 x 48 px is due, rounded down: set data\.scale"):
        open_source("mine", split="all", data_dir=data_dir, scale=2)[0]


def test_a_set_of_many_shards_keeps_its_order(root, data_dir, monkeypatch):
    monkeypatch.setattr(writing, "_SHARD_BYTES", 1)
    folder = prepare("monuseg", root, data_dir)
    assert len(list(folder.glob("*.array_record-*"))) == 3
    source = open_source("monuseg", split="all", data_dir=data_dir)
    for index, name in enumerate(official.MONUSEG):
        assert source[index]["name"] == name
        np.testing.assert_array_equal(source[index]["hr"], official.picture(index))


def test_no_network_is_asked(root, data_dir, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a connection was made")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    prepare("monuseg", root, data_dir)
    assert len(open_source("monuseg", split="all", data_dir=data_dir)[0]) == 4


def test_fingerprint_tells_pixels_and_names_and_nothing_else(root, data_dir, tmp_path):
    def fingerprint(source, name, split="all"):
        prepare("monuseg", source, data_dir, name=name)
        return open_source(name, split=split, data_dir=data_dir).fingerprint()

    first = fingerprint(root, "first")
    int(first, 16)
    assert len(first) == 16
    moved = shutil.copytree(root, tmp_path / "elsewhere")
    assert fingerprint(moved, "second") == first
    assert open_source("first", split="val", data_dir=data_dir).fingerprint() != first
    xml = moved / "Annotations" / f"{official.MONUSEG[0]}.xml"
    official.aperio(xml, [official.square(4, 5, 6), official.square(7, 8, 6)])
    assert fingerprint(moved, "third") != first


def test_a_set_that_is_there_is_replaced_only_when_asked(root, data_dir):
    prepare("monuseg", root, data_dir)
    _refusal("monuseg", root, data_dir, match="exists: give --overwrite to replace it")
    official.save(root / "Tissue Images" / f"{official.MONUSEG[0]}.tif", official.picture(77))
    prepare("monuseg", root, data_dir, overwrite=True)
    source = open_source("monuseg", split="all", data_dir=data_dir)
    np.testing.assert_array_equal(source[0]["hr"], official.picture(77))


@pytest.mark.faults
def test_a_flaw_found_half_way_leaves_what_was_there(root, data_dir):
    prepare("monuseg", root, data_dir)
    before = open_source("monuseg", split="all", data_dir=data_dir).fingerprint()
    (root / "Annotations" / f"{official.MONUSEG[2]}.xml").write_text("<Annotations>")
    _refusal("monuseg", root, data_dir, match="is not valid XML", overwrite=True)
    assert open_source("monuseg", split="all", data_dir=data_dir).fingerprint() == before
    assert [path.name for path in data_dir.iterdir()] == ["monuseg"]
    _refusal("monuseg", root, data_dir, match="is not valid XML", name="other")
    assert [path.name for path in data_dir.iterdir()] == ["monuseg"]


def test_patients_are_left_out_by_name_or_by_set(root, data_dir, tmp_path):
    prepare("monuseg", root, data_dir, exclude=["TCGA-AA-0001"], name="few")
    assert open_source("few", split="all", data_dir=data_dir).names == [official.MONUSEG[2]]
    prepare("monuseg", root, data_dir, exclude=["few"], name="rest")
    assert open_source("rest", split="all", data_dir=data_dir).names == list(official.MONUSEG[:2])
    _refusal("monuseg", root, data_dir, exclude=["nobody"], match="--exclude=nobody is neither")
    _refusal(
        *("monuseg", root, data_dir),
        exclude=["TCGA-AA-0001", "TCGA-BB-0002"],
        match="no image of monuseg is left",
    )


@pytest.mark.faults
def test_a_patient_in_two_official_splits_is_refused(tmp_path, data_dir):
    for seed, name in enumerate(("TCGA-AA-0001-1", "TCGA-AA-0001-2", "TCGA-BB-0002-1")):
        official.save(tmp_path / "set/images" / f"{name}.png", official.picture(seed))
        official.save(tmp_path / "set/instances" / f"{name}.png", official.two_nuclei())
    splits = {"train": ["TCGA-AA-0001-1", "TCGA-BB-0002-1"], "test": ["TCGA-AA-0001-2"]}
    (tmp_path / "set/splits.json").write_text(json.dumps(splits))
    _refusal(
        *("folder", tmp_path / "set", data_dir),
        match=r"patient TCGA-AA-0001 is in 'train' and, by 'TCGA-AA-0001-2', in 'test'",
    )
    prepare("folder", tmp_path / "set", data_dir, exclude=["TCGA-AA-0001"])
    assert open_source("folder", split="all", data_dir=data_dir).groups == ["TCGA-BB-0002"]


@pytest.mark.faults
def test_wrong_arguments_are_refused_before_anything_is_made(root, data_dir, tmp_path):
    _refusal("monusac", root, data_dir, match="--dataset='monusac' is not known.*monuseg")
    _refusal("monuseg", tmp_path / "none", data_dir, match="does not exist")
    _refusal("monuseg", root, data_dir, name="My Set", match="--name='My Set' is not a name")
    assert not data_dir.exists()
    _refusal("tnbc", root, data_dir, match="does not hold the expected layout: Slide_NN")


@pytest.mark.faults
def test_a_full_disk_is_one_sentence(root, data_dir, monkeypatch):
    class Full(writing._Builder):
        def download_and_prepare(self, **options):
            raise RuntimeError('Failed to finalize writing of split "train":\n write() failed')

    monkeypatch.setattr(writing, "_Builder", Full)
    _refusal("monuseg", root, data_dir, match=r"failed \(Failed to finalize.*free space there")

    def no_space(*args, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(writing, "write", no_space)
    _refusal("monuseg", root, data_dir, match="No space left on device.*free space")
    assert list(data_dir.iterdir()) == []


@pytest.mark.faults
def test_a_data_dir_that_cannot_be_made_is_one_sentence(root, tmp_path):
    (tmp_path / "file").write_text("")
    _refusal("monuseg", root, tmp_path / "file" / "data", match="Writing to .*file/data failed")


def test_description_says_what_a_user_must_know(root, data_dir):
    said = preparing.description(prepare("monuseg", root, data_dir))
    fingerprint = open_source("monuseg", split="all", data_dir=data_dir).fingerprint()
    for words in (
        "images: 3 (train 3)",
        "groups: 2",
        "0.25 um per pixel",
        f"fingerprint: {fingerprint}",
        "licence: CC BY-NC-SA 4.0",
        "please cite: N. Kumar",
        f"--config.data.source=monuseg --config.data.data_dir={data_dir}",
    ):
        assert words in said


def test_real_outlines_give_the_labels_of_the_folder(real_data, tmp_path, data_dir):
    """Up to numbering, and to which of two overlapping nuclei a pixel is given to."""
    folder = open_source(f"folder:{real_data / 'monuseg'}", split="all")
    outlined = sorted((real_data / "monuseg" / "annotations").glob("*.xml"))[:3]
    assert outlined, "annotations/ holds no XML"
    for path in outlined:
        hr = folder[folder.names.index(path.stem)]["hr"]
        official.save(tmp_path / "set" / "Tissue Images" / f"{path.stem}.tif", hr)
        (tmp_path / "set" / "Annotations").mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / "set" / "Annotations")
    prepare("monuseg", tmp_path / "set", data_dir)
    source = open_source("monuseg", split="all", data_dir=data_dir)
    assert len(source) == len(outlined)
    same = []
    for index, name in enumerate(source.names):
        drawn, given = source[index], folder[folder.names.index(name)]
        np.testing.assert_array_equal(drawn["mask"], given["mask"])
        ours, theirs = drawn["instances"].ravel(), given["instances"].ravel()
        # The one-to-one renumbering of theirs that gives most pixels the same number.
        table = np.zeros((theirs.max() + 1, ours.max() + 1), np.int64)
        np.add.at(table, (theirs, ours), 1)
        rows, columns = scipy.optimize.linear_sum_assignment(table[1:, 1:], maximize=True)
        same.append((table[0, 0] + table[1:, 1:][rows, columns].sum()) / ours.size)
    assert np.mean(same) >= 0.995
