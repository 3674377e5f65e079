import pickle
import zlib

import numpy as np
import pytest
import scipy.ndimage

from histojax.data import pipeline
from histojax.data.sources.base import Source
from histojax.data.sources.targets import TargetSource
from histojax.errors import UserError
from histojax.tissue import rendering
from tests import tiny
from tests.data.coordinates import PIPELINE

SETTINGS = {
    "marker": "shape",
    "center_radius": 4,
    "contour_width": 2,
    "physical": False,
    "legacy": False,
}


class Two(Source):
    """A 5 x 5 nucleus, and an 11 x 30 one (330 px: eroded by the octagon of 37 px)."""

    names, groups, mpp, classes = ["a"], ["a"], 0.5, ["background", "nucleus"]
    objects = "nuclei"

    def __init__(self):
        self.reads = 0
        self.instances = np.zeros((64, 64), np.int32)
        self.instances[2:7, 2:7] = 1
        self.instances[20:31, 20:50] = 7

    def __len__(self):
        return 1

    def __getitem__(self, index):
        self.reads += 1
        hr = np.zeros((64, 64, 3), np.uint8)
        return {"name": "a", "hr": hr, "instances": self.instances, "mask": self.instances > 0}

    def digests(self, index):
        return "image", "labels"


def test_targets_are_those_of_the_whole_image():
    record = TargetSource(Two(), ("marker", "contour", "distance"), SETTINGS)[0]
    small, large = np.s_[2:7, 2:7], np.s_[20:31, 20:50]
    for field in ("marker", "contour", "distance"):
        assert record[field].dtype == np.uint8
        assert not record[field][record["instances"] == 0].any()
    # 25 px: not eroded at all; the octagon reaches 3 px.
    assert record["marker"][small].all()
    np.testing.assert_array_equal(record["marker"][23:28, 23:47], 1)
    assert record["marker"][large].sum() == 5 * 24
    assert record["contour"][large].sum() == 11 * 30 - 7 * 26
    # Of five rows of a square the middle pixel is the deepest, 3 px, and the rim lies 1 px deep.
    assert record["distance"][4, 4] == 255
    assert record["distance"][2, 4] == 85
    assert record["distance"][large].max() == 255


def test_physical_markers_follow_the_scale_of_the_images():
    # At .5 um per px the 330 px of the large nucleus are 1,320 of .25: its disk's radius is 6 / 2.
    record = TargetSource(Two(), ("marker",), {**SETTINGS, "physical": True})[0]
    assert record["marker"][20:31, 20:50].sum() == (11 - 4) * (30 - 4)
    # And of the small one's 100 px, which were eroded by 1 px, one in two: rounded up.
    assert record["marker"][2:7, 2:7].sum() == 9


def test_center_markers_have_the_radius_asked_for():
    record = TargetSource(Two(), ("marker",), {**SETTINGS, "marker": "center", "center_radius": 1})[
        0
    ]
    expected = np.zeros((64, 64), np.uint8)
    expected[4, 3:6] = expected[3:6, 4] = 1
    np.testing.assert_array_equal(record["marker"][:10, :10], expected[:10, :10])
    assert record["marker"].sum() == 10


def test_legacy_labels_lose_a_rim_and_nothing_else():
    config = {**SETTINGS, "legacy": True}
    record = TargetSource(Two(), ("marker", "distance"), config)[0]
    plain = TargetSource(Two(), ("marker", "distance"), SETTINGS)[0]
    for field in ("mask", "marker"):
        lost = plain[field].astype(bool) & ~record[field].astype(bool)
        assert not (record[field].astype(bool) & ~plain[field].astype(bool)).any()
        rim = plain[field].astype(bool) & ~scipy.ndimage.binary_erosion(
            plain[field], np.ones((3, 3))
        )
        assert lost.any()
        assert not (lost & ~rim).any()
    np.testing.assert_array_equal(record["distance"], plain["distance"])


def test_targets_are_made_once_and_not_carried_to_workers():
    source = TargetSource(Two(), ("marker",), SETTINGS)
    first = source[0]["marker"]
    assert source[0]["marker"] is first
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(source))[0]["marker"], first)
    assert source.digests(0) == ("image", "labels")
    assert (len(source), source.names, source.mpp) == (1, ["a"], 0.5)


def test_batches_hold_crops_of_the_targets():
    source = TargetSource(Two(), ("marker",), SETTINGS)
    batches = pipeline.train_batches(
        source,
        {**PIPELINE, "crop": 32},
        fields=("hr", "instances", "marker"),
        batch_size=4,
        seed=0,
    )
    batch = next(batches)
    batches.close()
    assert batch["marker"].shape == (4, 32, 32)
    assert (batch["instances"][batch["marker"] > 0] > 0).all()
    assert batch["marker"].any()


@pytest.mark.faults
def test_a_source_of_masks_alone_is_refused():
    class Masks(Two):
        def __getitem__(self, index):
            record = super().__getitem__(index)
            del record["instances"]
            return record

    with pytest.raises(UserError, match=r"image 'a' has no instances, and the network learns m"):
        TargetSource(Masks(), ("marker",), SETTINGS)[0]


@pytest.mark.faults
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"marker": "round"}, "config.data.targets.marker='round' is not known"),
        ({"center_radius": -1}, "center_radius=-1 has to be a whole number of px of 0 or more"),
        ({"contour_width": 0}, "contour_width=0 has to be a whole number of px of 1 or more"),
        ({"contour_width": 1.5}, "contour_width=1.5 has to be a whole number"),
        ({"physical": "yes"}, "physical='yes' has to be True or False"),
        ({"radius": 3}, "config.data.targets.radius is not known"),
    ],
)
def test_a_bad_setting_is_named(change, said):
    with pytest.raises(UserError, match=said):
        TargetSource(Two(), ("marker",), {**SETTINGS, **change})


def test_tissue_is_drawn_around_nuclei_and_kept_by_name(monkeypatch):
    two = Two()
    record = TargetSource(two, ("tissue",), SETTINGS)[0]
    assert record["tissue"].shape == (64, 64, 3)
    assert record["tissue"].dtype == np.uint8
    number = zlib.crc32(b"a")
    wanted = rendering.tissue_of(two.instances, 0, number)
    np.testing.assert_array_equal(record["tissue"], wanted)
    # An image that a mixture holds twice is drawn once.
    drawn = []
    monkeypatch.setattr(rendering, "tissue_of", lambda *_, **__: drawn.append(1) or wanted)
    source = TargetSource(two, ("tissue",), SETTINGS)
    for index in (0, 1):
        np.testing.assert_array_equal(source[index]["tissue"], wanted)
    assert len(drawn) == 1


def test_a_stage_with_heads_opens_its_data_with_their_targets(tmp_path):
    tiny.folder(tmp_path / "set")
    config = tiny.config("segmentation")
    config.data.source = f"folder:{tmp_path / 'set'}"
    from histojax.runs import run_data

    source = run_data.open_split(config, "train", fields=("hr", "mask", "marker"))
    assert isinstance(source, TargetSource)
    assert set(source[0]) >= {"hr", "mask", "marker"}
    plain = run_data.open_split(config, "train", fields=("hr", "mask"))
    assert "marker" not in plain[0]
