import itertools
import shutil

import numpy as np
import pytest
from PIL import Image

from histojax.data import pipeline, stain_matching
from histojax.data.sources import subsets
from histojax.data.sources.base import Source
from histojax.errors import UserError
from histojax.runs import run_data
from tests import tiny
from tests.data.coordinates import PIPELINE


class Images(Source):
    """Three images of each of ten patients."""

    mpp, classes, objects = 0.25, ["background", "nucleus"], "nuclei"

    def __init__(self, prefix="p", patients=10):
        self.groups = [f"{prefix}{n}" for n in range(patients) for _ in range(3)]
        self.names = [f"{group}_{i % 3}" for i, group in enumerate(self.groups)]

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):
        mask = np.zeros((4, 4), np.int32)
        return {"name": self.names[index], "hr": np.zeros((4, 4, 3), np.uint8), "instances": mask}

    def digests(self, index):
        return self.names[index], "labels"


@pytest.mark.parametrize(("share", "patients"), [(0.2, 2), (0.4, 4), (0.01, 1), (1.0, 10)])
def test_a_share_is_of_patients_and_of_all_their_images(share, patients):
    part = subsets.labelled_part(Images(), share, seed=0)
    assert len(set(part.groups)) == patients
    assert len(part) == 3 * patients
    assert [part[i]["name"] for i in range(len(part))] == part.names
    assert [name.partition("_")[0] for name in part.names] == part.groups


def test_a_larger_share_holds_the_smaller():
    shares = [subsets.labelled_part(Images(), s, seed=0) for s in (0.2, 0.4, 0.6, 0.8)]
    for small, large in itertools.pairwise(shares):
        assert set(small.names) < set(large.names)
    drawn = {tuple(subsets.labelled_part(Images(), 0.2, seed=s).names) for s in range(5)}
    assert len(drawn) > 1
    assert len({part.fingerprint() for part in shares}) == 4


def test_extra_images_make_up_their_weight_of_the_crops():
    real = subsets.labelled_part(Images(), 0.2, seed=0)
    mixed = subsets.with_extra(real, Images("s", 8), 0.75)
    count = sum(name.startswith("extra-") for name in mixed.names)
    assert count / len(mixed) == pytest.approx(0.75)
    assert {name.removeprefix("real-") for name in mixed.names if name.startswith("real-")} == set(
        real.names
    )


def test_a_run_reads_its_share_of_the_training_split_alone(tmp_path):
    tiny.folder(tmp_path / "data", count=6)
    tiny.folder(tmp_path / "extra", count=3)
    config = tiny.config("segmentation")
    config.data.source = f"folder:{tmp_path / 'data'}"
    whole = {split: run_data.open_split(config, split).names for split in ("train", "val")}
    config.data.labelled = 0.4
    train = run_data.open_split(config, "train")
    assert len(train) == 2
    assert set(train.names) < set(whole["train"])
    assert run_data.open_split(config, "val").names == whole["val"]
    assert not set(train.names) & set(whole["val"])
    config.data.extra = f"folder:{tmp_path / 'extra'}"
    mixed = run_data.open_split(config, "train")
    assert {name.partition("-")[0] for name in mixed.names} == {"real", "extra"}
    assert run_data.open_split(config, "val").names == whole["val"]


@pytest.mark.faults
@pytest.mark.parametrize("share", [0.0, 1.5, -0.2, "all", True])
def test_a_share_out_of_range_is_refused(share):
    with pytest.raises(UserError, match=r"data\.labelled=.* a share .* of 1 or less and above 0"):
        subsets.labelled_part(Images(), share, seed=0)


def test_the_manifest_names_what_is_seen_and_nothing_else(tmp_path):
    tiny.folder(tmp_path / "data", count=6)
    tiny.folder(tmp_path / "extra", count=6)
    config = tiny.config("segmentation")
    config.data.source, config.data.labelled = f"folder:{tmp_path / 'data'}", 0.4
    train = set(run_data.open_split(config, "train").names)
    config.data.extra = f"folder:{tmp_path / 'extra'}"
    with pytest.raises(UserError, match=r"1 of the 1 images of the val split .*\('p5' has the pix"):
        known = run_data.known_data(config, kept=None)
    shutil.rmtree(tmp_path / "extra")
    other = tiny.folder(tmp_path / "extra", count=3)
    for path in (other / "images").iterdir():
        Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
        path.rename(path.with_stem(f"other{path.stem}"))
        label = other / "instances" / path.name
        label.rename(label.with_stem(f"other{label.stem}"))
    (other / "splits.json").unlink()
    known = run_data.known_data(config, kept=None)
    names = {part: {entry["name"] for entry in known.manifest[part]} for part in ("train", "val")}
    assert names == {"train": train, "val": {"p5"}}
    assert len(train) == 2
    assert len(known.manifest["splits"]["train"]) == 5
    assert [entry["name"] for entry in known.manifest["extra"]] == ["otherp0", "otherp1", "otherp2"]


def test_at_weight_one_only_the_extra_images_are_left():
    extra = Images("s")
    assert subsets.with_extra(Images(), extra, 1.0) is extra


@pytest.mark.faults
def test_sets_of_different_classes_are_refused():
    other = Images("s")
    other.classes = ["background", "gland"]
    with pytest.raises(UserError, match=r"data\.extra has the classes background, gland and"):
        subsets.with_extra(Images(), other, 0.5)


@pytest.mark.faults
@pytest.mark.parametrize("weight", [0.0, 1.5, 2.0, "half"])
def test_a_weight_out_of_range_is_refused(weight):
    with pytest.raises(
        UserError, match=r"data\.extra_weight=.* a share .* of 1 or less and above 0"
    ):
        subsets.with_extra(Images(), Images("s"), weight)


def semi_supervised(tmp_path, **changes):
    """A tiny config on a third of the patients of a folder, the rest without their labels.

    Every image is annotated as having a nucleus.
    """
    config = tiny.config("segmentation")
    tiny.folder(tmp_path / "data", count=7)
    nucleus = np.zeros((64, 64), np.uint16)
    nucleus[20:44, 20:44] = 1
    for path in (tmp_path / "data" / "instances").iterdir():
        Image.fromarray(nucleus).save(path)
    config.data.update(source=f"folder:{tmp_path / 'data'}", labelled=0.34, unlabelled="rest")
    config.teacher.weight = 1.0
    config.data.update(changes)
    return config


def unlabelled_folder(root, names=("q0", "q1"), size=64):
    """A folder of images whose labels are left out."""
    tiny.folder(root, count=len(names), size=size)
    for part in ("instances", "splits.json"):
        path = root / part
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for old, new in zip(sorted((root / "images").iterdir()), names, strict=True):
        old.rename(old.with_stem(new))
    return f"folder:{root}"


def test_what_is_left_out_is_all_the_rest():
    part, rest = (f(Images(), 0.2, seed=0) for f in (subsets.labelled_part, subsets.left_out))
    assert len(part) + len(rest) == 30
    assert not set(part.groups) & set(rest.groups)
    assert len(subsets.left_out(Images(), 1.0, seed=0)) == 0


def test_unlabelled_images_are_flagged_and_hold_no_label():
    nuclei = {"instances": np.full((4, 4), 7, np.int32), "mask": np.ones((4, 4), np.uint8)}
    record = {**Images()[0], **nuclei, "lr": np.zeros((1, 1, 3), np.uint8)}

    class Annotated(Images):
        def __getitem__(self, index):
            return record

    flagged = subsets.FlaggedSource(Annotated(), labelled=True)
    assert set(flagged[0]) == {*record, "labelled"}
    assert (flagged[0]["labelled"] == 1).all()
    assert (flagged[0]["instances"] == 7).all()
    blank = subsets.FlaggedSource(Annotated(), labelled=False)
    for field, kind in (("labelled", np.uint8), ("mask", np.uint8), ("instances", np.int32)):
        assert blank[0][field].shape == (4, 4)
        assert blank[0][field].dtype == kind
        assert not blank[0][field].any()
    assert blank[0]["hr"] is record["hr"]
    assert blank[0]["lr"] is record["lr"]
    assert flagged.digests(0) == (flagged.names[0], "labels")
    assert blank.digests(0) == (blank.names[0], "")


@pytest.mark.parametrize("placement", ["host", "device"])
def test_no_label_of_an_unlabelled_image_reaches_a_batch(tmp_path, placement):
    """Nor do its images reach who does not ask which are labelled."""
    config = semi_supervised(tmp_path, unlabelled_weight=0.75, placement=placement)
    heads = ("mask", "marker", "contour", "distance")
    fields = ("hr", "instances", *heads, "labelled")
    source = run_data.open_split(config, "train", fields=fields, crop=16)
    part, rest = run_data.open_split(config, "train"), run_data.open_unlabelled(config)
    assert (len(part), len(rest)) == (2, 4)
    assert {name.partition("-")[2] for name in source.names} == {*part.names, *rest.names}
    config.data.crop = 64  # whole images, so that a nucleus is in each
    batches = pipeline.train_batches(source, config.data, fields=fields, batch_size=16, seed=0)
    flagged = []
    for _ in range(4):
        batch = {field: np.asarray(array) for field, array in next(batches).items()}
        assert batch["labelled"].dtype == np.uint8
        flagged += batch["labelled"].mean((1, 2)).tolist()
        for field in ("instances", *heads):
            shown = batch[field].any((1, 2))
            np.testing.assert_array_equal(shown, batch["labelled"].any((1, 2)))
    batches.close()
    assert set(flagged) == {0.0, 1.0}
    assert np.mean(flagged) == pytest.approx(0.25, abs=0.1)
    held_out = run_data.open_split(config, "val", fields=fields)
    assert held_out[0]["labelled"].all()
    assert held_out[0]["mask"].any()


def test_turned_crops_beyond_the_image_are_unlabelled_there():
    """Black, and background: the image counts as labelled by what is left of it."""
    source = subsets.FlaggedSource(Images(), labelled=True)
    augmentation = {"translate": 0.9, "rotate": 45.0}
    config = {**PIPELINE, "crop": 4, "augmentation": augmentation}
    fields = ("hr", "mask", "labelled")
    batches = pipeline.train_batches(source, config, fields=fields, batch_size=32, seed=0)
    flagged = next(batches)["labelled"]
    batches.close()
    assert set(np.unique(flagged)) == {0, 1}


def test_further_images_take_scale_and_classes_of_the_labelled(tmp_path, caplog):
    config = semi_supervised(tmp_path)
    (tmp_path / "data" / "dataset.json").write_text('{"mpp": 0.25, "classes": ["none", "a", "b"]}')
    config.data.unlabelled = unlabelled_folder(tmp_path / "more")
    fields = ("hr", "mask", "marker", "labelled")
    source = run_data.open_split(config, "train", fields=fields, crop=16)
    assert source.mpp == 0.25
    assert source.classes == ["none", "a", "b"]
    names = {name for name in source.names if name.startswith("unlabelled-")}
    assert names == {"unlabelled-q0", "unlabelled-q1"}
    for index, name in enumerate(source.names):
        assert source[index]["marker"].any() == name.startswith("labelled-")
    assert not caplog.text
    # Of another scale they are still of use, and that is said.
    (tmp_path / "more" / "dataset.json").write_text('{"mpp": 0.5}')
    assert run_data.open_split(config, "train", fields=fields).mpp == 0.25
    assert "data.source has 0.25 um per px and data.unlabelled 0.5" in caplog.text
    manifest = run_data.known_data(config, kept=None).manifest
    assert [entry["name"] for entry in manifest["unlabelled"]] == ["q0", "q1"]
    assert len(manifest["train"]) == 2


def test_unlabelled_images_are_normalized_like_the_others(tmp_path):
    config = semi_supervised(tmp_path)
    config.data.stain.method = "reinhard"
    fields = ("hr", "mask", "labelled")
    source = run_data.open_split(config, "train", fields=fields)
    matched = stain_matching.build(config).source(source)
    for index in (0, len(source) - 1):
        assert not np.array_equal(matched[index]["hr"], source[index]["hr"])
        np.testing.assert_array_equal(matched[index]["labelled"], source[index]["labelled"])


def test_extra_images_are_among_the_labelled(tmp_path):
    tiny.folder(tmp_path / "extra", count=3)
    config = semi_supervised(tmp_path, extra=f"folder:{tmp_path / 'extra'}")
    source = run_data.open_split(config, "train", fields=("hr", "mask", "labelled"))
    count = sum(name.startswith("labelled-extra-") for name in source.names)
    assert count / len(source) == pytest.approx(0.25)


@pytest.mark.faults
def test_a_rest_of_nothing_is_refused(tmp_path):
    config = semi_supervised(tmp_path, labelled=1.0)
    with pytest.raises(UserError, match=r"data\.labelled=1\.0 leaves out, and there are none"):
        run_data.open_split(config, "train", fields=("hr", "mask", "labelled"))
    config.data.labelled = 0.99  # of six patients
    with pytest.raises(UserError, match=r"data\.labelled=0\.99 leaves out, and there are none"):
        run_data.open_split(config, "train", fields=("hr", "mask", "labelled"))


@pytest.mark.faults
def test_the_data_themselves_and_images_too_small_are_refused(tmp_path):
    config = semi_supervised(tmp_path)
    config.data.unlabelled = config.data.source
    with pytest.raises(UserError, match=r"is data\.source, held-out images and all"):
        run_data.open_unlabelled(config)
    config.data.unlabelled = unlabelled_folder(tmp_path / "more", size=32)
    with pytest.raises(UserError, match=r"q0.* smaller than the crop of 48 px"):
        run_data.open_unlabelled(config, crop=48)


@pytest.mark.faults
def test_a_patient_among_the_labelled_or_held_out_is_refused(tmp_path):
    config = semi_supervised(tmp_path)
    barcodes = [f"TCGA-AA-000{n}" for n in range(7)]
    root = tmp_path / "data"
    for folder in ("images", "instances"):
        for path in sorted((root / folder).iterdir()):
            path.rename(path.with_stem(f"{barcodes[int(path.stem[1:])]}-01Z"))
    text = (root / "splits.json").read_text()
    for number, barcode in enumerate(barcodes):
        text = text.replace(f"p{number}", f"{barcode}-01Z")
    (root / "splits.json").write_text(text)
    part, rest = run_data.open_split(config, "train"), run_data.open_unlabelled(config)
    held_out = run_data.open_split(config, "val")
    for number, (group, refused) in enumerate(
        ((part.groups[0], True), (held_out.groups[0], True), (rest.groups[0], False))
    ):
        names = ("q0", f"{group}-02Z")
        config.data.unlabelled = unlabelled_folder(tmp_path / f"more{number}", names)
        if not refused:
            assert len(run_data.open_unlabelled(config)) == 2
            continue
        said = rf"{group} is in data\.unlabelled=.* and among the labelled or held-out"
        with pytest.raises(UserError, match=said):
            run_data.open_split(config, "train", fields=("hr", "mask", "labelled"))


@pytest.mark.faults
@pytest.mark.parametrize("weight", [0.0, 1.0, 2.0, "half"])
def test_a_share_of_unlabelled_crops_out_of_range_is_refused(weight):
    with pytest.raises(UserError, match=r"data\.unlabelled_weight=.* above 0 and below 1"):
        subsets.with_unlabelled(Images(), Images("s"), weight)
