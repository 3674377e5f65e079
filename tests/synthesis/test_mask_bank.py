import itertools
import json

import numpy as np
import pytest
import scipy.ndimage

from histojax.data.sources.base import Source
from histojax.errors import UserError
from histojax.imaging.labels import read_labels
from histojax.synthesis import mask_bank
from tests import tiny


class Labelled(Source):
    """Images of given instances."""

    mpp = None

    def __init__(self, *instances):
        self.instances = instances
        self.names = self.groups = [f"i{index}" for index in range(len(instances))]

    def __len__(self):
        return len(self.instances)

    def __getitem__(self, index):
        return {"name": f"i{index}", "instances": self.instances[index]}

    def digests(self, index):
        return f"pixels of {index}", "labels"


def squares(size=64, side=8, step=16):
    """A grid of square nuclei that touch neither each other nor the border."""
    mask = np.zeros((size, size), np.int32)
    for number, (y, x) in enumerate(np.ndindex(size // step, size // step), 1):
        mask[y * step + 4 : y * step + 4 + side, x * step + 4 : x * step + 4 + side] = number
    return mask


def test_a_bank_holds_whole_nuclei_and_all_places():
    mask = squares()
    mask[0:3, 0:20] = 99  # at the border: a place, no shape
    mask[30:32, 30:32] = 100  # a crumb
    bank = mask_bank.collect(Labelled(mask))
    assert len(bank.nuclei[0]) == 16
    assert all(shape.shape == (8, 8) and shape.all() for shape in bank.nuclei[0])
    assert len(bank.places[0]) == 18
    assert bank.sizes == ((64, 64),)
    assert [8.0, 8.0] in bank.places[0].tolist()


@pytest.mark.parametrize("size", [(64, 64), (40, 100), (150, 130)])
def test_nuclei_are_placed_whole_and_without_overlap(size):
    bank = mask_bank.collect(Labelled(squares(), squares(48)))
    rng = np.random.default_rng(0)
    mask = mask_bank.replaced(bank, *size, rng)
    assert (mask.shape, mask.dtype) == (size, np.int32)
    labels = np.unique(mask)[1:]
    np.testing.assert_array_equal(labels, np.arange(1, len(labels) + 1))
    # One nucleus in 256 px, few of which find no room.
    assert 0.8 < len(labels) / (size[0] * size[1] / 256) < 1.3
    for label, (rows, columns) in enumerate(scipy.ndimage.find_objects(mask), 1):
        area = (mask[rows, columns] == label).sum()
        cut = rows.start == 0 or columns.start == 0
        cut |= rows.stop == size[0] or columns.stop == size[1]
        assert area == 64 or (cut and area < 64)


def test_counts_and_sizes_follow_the_data():
    _, mask = tiny.tissue(0, 256)
    bank = mask_bank.collect(Labelled(mask))
    rng = np.random.default_rng(0)
    made = [mask_bank.replaced(bank, 256, 256, rng) for _ in range(8)]
    count = np.mean([m.max() for m in made])
    assert count == pytest.approx(len(np.unique(mask)) - 1, rel=0.2)
    share = np.mean([(m > 0).mean() for m in made])
    assert share == pytest.approx((mask > 0).mean(), rel=0.2)
    again = mask_bank.replaced(bank, 256, 256, np.random.default_rng(0))
    np.testing.assert_array_equal(again, made[0])
    assert not np.array_equal(made[0], made[1])


def test_nuclei_take_the_places_of_others_of_their_own_image():
    """Few large nuclei of one image and many small ones of another are not mixed."""
    large, small = squares(96, side=20, step=32), squares(96, side=6, step=12)
    bank = mask_bank.collect(Labelled(large, small))
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(12):
        mask = mask_bank.replaced(bank, 96, 96, rng)
        whole = [
            (mask == label).sum()
            for label, box in enumerate(scipy.ndimage.find_objects(mask), 1)
            if all(cut.start > 0 and cut.stop < 96 for cut in box)
        ]
        assert len(set(whole)) == 1
        wanted = {400: (large > 0).mean(), 36: (small > 0).mean()}[int(whole[0])]
        assert (mask > 0).mean() == pytest.approx(wanted, rel=0.2)
        seen.add(int(whole[0]))
    assert seen == {36, 400}
    # Of an image whose nuclei are all cut off by its border those of the others.
    cut = np.zeros((32, 32), np.int32)
    cut[:6, 8:20] = 1
    bank = mask_bank.collect(Labelled(cut, small))
    assert [len(nuclei) for nuclei in bank.nuclei] == [0, 64]
    made = [mask_bank.replaced(bank, 32, 32, rng) for _ in range(8)]
    assert all(mask.any() for mask in made)


def test_a_turned_window_is_one_of_a_labelled_image():
    mask = 1 + np.random.default_rng(0).permutation(24 * 24).reshape(24, 24).astype(np.int32)
    window = mask_bank.turned(mask, 8, np.random.default_rng(1))
    wanted = window.ravel().argsort()
    options = [
        np.rot90(mask[y : y + 8, x : x + 8], k)[:, ::step]
        for y in range(17)
        for x in range(17)
        for k in range(4)
        for step in (1, -1)
    ]
    assert sum(np.array_equal(option.ravel().argsort(), wanted) for option in options) == 1
    np.testing.assert_array_equal(np.sort(window.ravel()), np.arange(1, 65))


@pytest.mark.parametrize("kind", mask_bank.KINDS)
def test_masks_are_written_as_label_images_by_the_seed(tmp_path, kind):
    source = Labelled(squares(), squares(48))
    for name in ("a", "b"):
        mask_bank.write_masks(source, tmp_path / name, kind=kind, count=2, size=32, seed=5)
    *files, seen = sorted((tmp_path / "a").iterdir())
    assert [path.name for path in files] == ["mask00000.tif", "mask00001.tif"]
    assert [entry["name"] for entry in json.loads(seen.read_text())["images"]] == ["i0", "i1"]
    found = [read_labels(path) for path in files]
    assert all(mask.shape == (32, 32) and mask.any() for mask in found)
    assert not np.array_equal(*found)
    again = read_labels(tmp_path / "b" / "mask00000.tif")
    np.testing.assert_array_equal(again, found[0])


def test_bare_background_is_left_out():
    mask = np.zeros((64, 64), np.int32)
    mask[20:28, 20:28] = 1
    made = mask_bank.masks(Labelled(mask), "turned", 8, 0)
    assert all(mask.any() for mask in itertools.islice(made, 5))


@pytest.mark.faults
def test_a_folder_with_files_in_it_is_refused(tmp_path):
    (tmp_path / "x.tif").touch()
    with pytest.raises(UserError, match=r"--output=.* is not empty"):
        mask_bank.write_masks(Labelled(squares()), tmp_path, kind="turned", count=1, size=8, seed=0)


@pytest.mark.faults
def test_what_gives_no_masks_is_named():
    with pytest.raises(UserError, match=r"the 1 labelled images hold no whole nucleus of 30 px"):
        mask_bank.collect(Labelled(np.zeros((16, 16), np.int32)))
    with pytest.raises(UserError, match=r"no labelled image of 72 x 72 px or more has a nucleus"):
        next(mask_bank.masks(Labelled(squares(), np.zeros((99, 99), np.int32)), "turned", 72, 0))

    class Masks(Labelled):
        def __getitem__(self, index):
            return {"name": "m"}

    with pytest.raises(UserError, match=r"image 'm' of the data has no instances"):
        mask_bank.collect(Masks(None))
