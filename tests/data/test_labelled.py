import itertools

import numpy as np
import pytest

from histojax import runs
from histojax.data import labelled
from histojax.errors import UserError
from tests import tiny


class Images:
    """Three images of each of ten patients."""

    mpp, classes = 0.25, ["background", "nucleus"]

    def __init__(self, prefix="p", patients=10):
        self.groups = [f"{prefix}{n}" for n in range(patients) for _ in range(3)]
        self.names = [f"{group}_{i % 3}" for i, group in enumerate(self.groups)]

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):
        mask = np.zeros((4, 4), np.int32)
        return {"name": self.names[index], "hr": np.zeros((4, 4, 3), np.uint8), "instances": mask}

    def fingerprint(self):
        return "f"


@pytest.mark.parametrize(("share", "patients"), [(0.2, 2), (0.4, 4), (0.01, 1), (1.0, 10)])
def test_a_share_is_of_patients_and_of_all_their_images(share, patients):
    part = labelled.labelled_part(Images(), share, seed=0)
    assert len(set(part.groups)) == patients
    assert len(part) == 3 * patients
    assert [part[i]["name"] for i in range(len(part))] == part.names
    assert [name.partition("_")[0] for name in part.names] == part.groups


def test_a_larger_share_holds_the_smaller_and_another_seed_draws_others():
    shares = [labelled.labelled_part(Images(), s, seed=0) for s in (0.2, 0.4, 0.6, 0.8)]
    for small, large in itertools.pairwise(shares):
        assert set(small.names) < set(large.names)
    drawn = {tuple(labelled.labelled_part(Images(), 0.2, seed=s).names) for s in range(5)}
    assert len(drawn) > 1
    assert len({part.fingerprint() for part in shares}) == 4


def test_extra_images_make_up_their_weight_of_the_crops():
    real = labelled.labelled_part(Images(), 0.2, seed=0)
    mixed = labelled.with_extra(real, Images("s", 8), 0.75)
    count = sum(name.startswith("extra-") for name in mixed.names)
    assert count / len(mixed) == pytest.approx(0.75)
    assert {name.removeprefix("real-") for name in mixed.names if name.startswith("real-")} == set(
        real.names
    )


def test_a_run_sees_its_share_of_the_training_split_and_the_whole_of_the_others(tmp_path):
    tiny.folder(tmp_path / "data", count=6)
    tiny.folder(tmp_path / "extra", count=3)
    settings = tiny.config("segmentation")
    settings.data.source = f"folder:{tmp_path / 'data'}"
    whole = {split: runs.open_split(settings, split).names for split in ("train", "val")}
    settings.data.labelled = 0.4
    train = runs.open_split(settings, "train")
    assert len(train) == 2
    assert set(train.names) < set(whole["train"])
    assert runs.open_split(settings, "val").names == whole["val"]
    assert not set(train.names) & set(whole["val"])
    settings.data.extra = f"folder:{tmp_path / 'extra'}"
    mixed = runs.open_split(settings, "train")
    assert {name.partition("-")[0] for name in mixed.names} == {"real", "extra"}
    assert runs.open_split(settings, "val").names == whole["val"]


@pytest.mark.faults
@pytest.mark.parametrize("share", [0.0, 1.5, -0.2, "all", True])
def test_a_share_out_of_range_is_refused(share):
    with pytest.raises(UserError, match=r"data\.labelled=.* above 0, up to 1"):
        labelled.labelled_part(Images(), share, seed=0)


def test_the_manifest_names_what_is_seen_and_nothing_else(tmp_path):
    tiny.folder(tmp_path / "data", count=6)
    tiny.folder(tmp_path / "extra", count=3)
    settings = tiny.config("segmentation")
    settings.data.source, settings.data.labelled = f"folder:{tmp_path / 'data'}", 0.4
    train = set(runs.open_split(settings, "train").names)
    settings.data.extra = f"folder:{tmp_path / 'extra'}"
    seen = runs.manifest(settings)
    assert set(seen["train"]) == train
    assert len(train) == 2
    assert not train & set(seen["val"])
    assert seen["extra"] == settings.data.extra


def test_at_weight_one_only_the_extra_images_are_left():
    extra = Images("s")
    assert labelled.with_extra(Images(), extra, 1.0) is extra


@pytest.mark.faults
def test_sets_of_different_classes_are_refused():
    other = Images("s")
    other.classes = ["background", "gland"]
    with pytest.raises(UserError, match=r"data\.extra has the classes background, gland and"):
        labelled.with_extra(Images(), other, 0.5)


@pytest.mark.faults
@pytest.mark.parametrize("weight", [0.0, 1.5, 2.0, "half"])
def test_a_weight_out_of_range_is_refused(weight):
    with pytest.raises(UserError, match=r"data\.extra_weight=.* above 0, up to 1"):
        labelled.with_extra(Images(), Images("s"), weight)
