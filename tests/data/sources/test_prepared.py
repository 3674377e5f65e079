"""Prepared sets as sources: splits by patient, random access, and damage named."""

import logging
import pickle

import numpy as np
import pytest
import tifffile
from PIL import Image

from histojax.data.datasets.preparing import prepare
from histojax.data.pipeline import train_batches
from histojax.data.sources import prepared
from histojax.data.sources.specs import open_source
from histojax.data.sources.splits import split_groups
from histojax.errors import UserError
from tests.data.coordinates import PIPELINE
from tests.data.datasets import official

PATIENTS = [f"TCGA-AA-{number:04d}" for number in range(1, 6)]
NAMES = [f"{patient}-01Z-00-DX{slide}" for patient in PATIENTS for slide in (1, 2)]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """MoNuSeg of five patients with two images each and a test patient, GlaS and PanNuke."""
    root = tmp_path_factory.mktemp("prepared")
    official.monuseg(root / "m", [*NAMES, "TCGA-HT-8564-01Z-00-DX1"])
    official.glas(root / "g")
    official.pannuke(root / "p")
    for name, source in (("monuseg", "m"), ("glas", "g"), ("pannuke", "p")):
        prepare(name, root / source, root / "data")
    return root / "data"


def _open(data_dir, name="monuseg", split="all", **options):
    return open_source(name, split=split, data_dir=data_dir, **options)


@pytest.mark.parametrize("seed", [0, 1])
def test_train_is_split_by_patient_and_test_is_the_official(data_dir, seed):
    train, val = (_open(data_dir, split=split, seed=seed) for split in ("train", "val"))
    expected_train, expected_val = split_groups(PATIENTS, seed=seed)
    assert set(train.groups) == set(expected_train)
    assert set(val.groups) == set(expected_val)
    assert sorted(train.names + val.names) == NAMES
    assert _open(data_dir, split="test").names == ["TCGA-HT-8564-01Z-00-DX1"]
    assert len(_open(data_dir, split="all")) == 11


def test_official_arrangements_are_variants(data_dir):
    assert _open(data_dir, "pannuke", "val").names == ["fold2-0000", "fold2-0001"]
    assert _open(data_dir, "pannuke/3", "train").names == ["fold3-0000", "fold3-0001"]
    with pytest.raises(UserError, match=r"no variant '4': choose one of pannuke, pannuke/1"):
        _open(data_dir, "pannuke/4")


@pytest.mark.faults
def test_a_test_patient_who_trains_is_warned_of(data_dir, caplog):
    with caplog.at_level(logging.WARNING):
        train = _open(data_dir, "glas", "train")
        assert not caplog.messages
        test = _open(data_dir, "glas", "test")
    assert any("1 groups of test are in training too" in line for line in caplog.messages)
    assert test.names == ["testA_1", "testB_1"]
    assert not set(train.groups) & set(_open(data_dir, "glas", "val").groups)


def test_group_pattern_makes_other_groups(data_dir):
    source = _open(data_dir, group_pattern=r"(TCGA-..)")
    assert set(source.groups) == {"TCGA-AA", "TCGA-HT"}
    with pytest.raises(UserError, match=r"all of one group \('TCGA-AA'\)"):
        _open(data_dir, split="train", group_pattern=r"(TCGA-..)")


def test_records_are_kept_up_to_the_bound_and_are_read_only(data_dir):
    source = _open(data_dir)
    record = source[0]
    assert source[0]["hr"] is record["hr"]
    with pytest.raises(ValueError, match="read-only"):
        record["hr"][0, 0] = 0
    assert source[-1]["name"] == source.names[-1]
    with pytest.raises(IndexError):
        source[len(source)]
    size = sum(record[field].nbytes for field in ("hr", "instances", "mask"))
    small = _open(data_dir, cache_bytes=2 * size)
    first = small[0]
    small[1], small[2]
    assert small[0]["hr"] is not first["hr"]
    assert small[2]["hr"] is small[2]["hr"]


def test_a_pickled_source_reads_the_same(data_dir):
    source = _open(data_dir)
    expected = source[3]
    copy = pickle.loads(pickle.dumps(source))
    assert len(pickle.dumps(copy)) < 20_000
    np.testing.assert_array_equal(copy[3]["instances"], expected["instances"])
    assert copy.fingerprint() == source.fingerprint()


def test_it_feeds_training(data_dir):
    config = {**PIPELINE, "crop": 32}
    source = _open(data_dir, split="train", crop=32)
    batches = train_batches(source, config, fields=("lr", "hr", "mask"), batch_size=2, seed=0)
    batch = next(iter(batches))
    assert batch["hr"].shape == (2, 32, 32, 3)
    assert batch["lr"].shape == (2, 8, 8, 3)


def test_an_image_smaller_than_the_crop_is_named(data_dir):
    with pytest.raises(UserError, match=r"40 x 48 px, is smaller than the crop of 64 px"):
        _open(data_dir, crop=64)


def test_a_set_that_is_not_there_says_how_to_prepare_it(data_dir, monkeypatch, tmp_path):
    with pytest.raises(UserError, match=r"'tnbc' is not prepared in .*--dataset=tnbc --source"):
        _open(data_dir, "tnbc")
    with pytest.raises(UserError, match=r"'imagenet' is unknown.*or the name of a prepared set"):
        _open(data_dir, "imagenet")
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    assert len(open_source("monuseg", split="all")) == 11
    assert prepared.prepared_names() == ["glas", "monuseg", "pannuke"]
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "none"))
    with pytest.raises(UserError, match="is not prepared"):
        open_source("monuseg", split="all")


@pytest.mark.faults
def test_damage_is_named(tmp_path):
    official.monuseg(tmp_path / "m", NAMES[:4])
    folder = prepare("monuseg", tmp_path / "m", tmp_path / "data")
    records = next(folder.glob("*.array_record*"))
    whole = records.read_bytes()
    records.write_bytes(whole[: len(whole) // 3])
    with pytest.raises(UserError, match=r"cannot be read .*prepare the set again") as refusal:
        _open(tmp_path / "data")[0]
    assert "\n" not in str(refusal.value)
    records.unlink()
    with pytest.raises(UserError, match=r"cannot be read .*prepare the set again"):
        _open(tmp_path / "data")[0]
    (folder / "metadata.json").write_text("{}")
    with pytest.raises(UserError, match="is not the metadata of a prepared set"):
        _open(tmp_path / "data")


@pytest.mark.faults
def test_large_images_and_many_instances_come_back_as_they_were(tmp_path, monkeypatch):
    labels = np.zeros((400, 800), np.uint32)
    labels[::2, ::2] = np.arange(1, 80_001).reshape(200, 400)
    labels[labels > 70_000] = 0
    for folder in ("images", "instances"):
        (tmp_path / "set" / folder).mkdir(parents=True)
    for name in "ab":
        tifffile.imwrite(tmp_path / "set" / "instances" / f"{name}.tif", labels)
        Image.new("RGB", (800, 400), (250, 249, 251)).save(
            tmp_path / "set" / "images" / f"{name}.png"
        )
    prepare("folder", tmp_path / "set", tmp_path / "data", name="many")
    # Pillow's own guard, which is below max_pixels, as it would meet a larger image.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    record = _open(tmp_path / "data", "many")[0]
    assert record["hr"].shape == (400, 800, 3)
    np.testing.assert_array_equal(record["instances"], labels)
    assert record["mask"].sum() == 70_000
