import collections
import logging
import pickle

import numpy as np
import pytest
from PIL import Image

from histojax.data.sources import normalized
from histojax.data.sources.base import Source
from histojax.data.sources.normalized import NormalizedSource
from histojax.data.sources.specs import open_source
from histojax.stain.normalization import Method, fit, normalize
from histojax.stain.targets import DEFAULT, target_fit
from tests import stained

METHOD = Method("macenko")
TARGET = target_fit(DEFAULT, METHOD)


class Images(Source):
    """Two images of tissue, one of glass, and the first again, as a mixture repeats images."""

    def __init__(self):
        self.names = ["a", "b", "glass", "a"]
        self.groups = ["1", "2", "2", "1"]
        self.mpp = 0.25
        self.classes = ["background", "nucleus"]
        self.objects = "nuclei"
        self.reads = collections.Counter()
        self._images = {
            "a": stained.image(0),
            "b": stained.image(1, maxima=(1.5, 1.5)),
            "glass": np.full((32, 48, 3), 255, np.uint8),
        }

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):
        name = self.names[index]
        self.reads[name] += 1
        hr = self._images[name].copy()
        hr.flags.writeable = False
        return {"name": name, "hr": hr, "mask": np.ones(hr.shape[:2], np.uint8)}

    def digests(self, index):
        return self.names[index], ""


def expected(name):
    image = Images()._images[name]
    own = fit(image, METHOD, name=name)
    return normalize(image, own, target_fit(DEFAULT, METHOD))


def test_images_are_normalized_and_all_else_passes_through():
    source = NormalizedSource(Images(), METHOD, TARGET)
    assert len(source) == 4
    assert source.names == ["a", "b", "glass", "a"]
    assert source.groups == ["1", "2", "2", "1"]
    assert (source.mpp, source.classes) == (0.25, ["background", "nucleus"])
    for index, name in ((0, "a"), (1, "b"), (-1, "a")):
        record = source[index]
        assert set(record) == {"name", "hr", "mask"}
        assert record["name"] == name
        np.testing.assert_array_equal(record["hr"], expected(name))
        assert record["mask"].all()
        assert not record["hr"].flags.writeable
    with pytest.raises(IndexError):
        source[4]


def test_what_is_kept_is_neither_read_nor_fitted_again(monkeypatch):
    fitted = []

    def counted(image, method, *, name):
        fitted.append(name)
        return fit(image, method, name=name)

    monkeypatch.setattr(normalized, "fit", counted)
    inner = Images()
    size = 64 * 64 * 4  # of the record of one image and its mask
    source = NormalizedSource(inner, METHOD, TARGET, cache_bytes=size)
    first = source[0]["hr"]
    np.testing.assert_array_equal(source[0]["hr"], first)
    assert inner.reads["a"] == 1
    source[1]  # which takes the place of the first
    np.testing.assert_array_equal(source[0]["hr"], first)
    source[3]
    assert inner.reads["a"] == 3
    assert fitted == ["a", "b"]


@pytest.mark.faults
def test_glass_stays_and_is_warned_of_once(caplog):
    source = NormalizedSource(Images(), METHOD, TARGET, cache_bytes=0)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            np.testing.assert_array_equal(source[2]["hr"], 255)
    (message,) = caplog.messages
    assert message.startswith("glass keeps its colours, because")


def test_pickled_it_gives_the_same(caplog):
    source = NormalizedSource(Images(), METHOD, TARGET)
    before = [source[index]["hr"] for index in range(4)]
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        copy = pickle.loads(pickle.dumps(source))
        after = [copy[index]["hr"] for index in range(4)]
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)
    # It brought its fits along, that of glass among them.
    assert not caplog.messages
    assert copy.fingerprint() == source.fingerprint()
    assert len(pickle.dumps(source)) < len(pickle.dumps(source._source)) + 5000


def test_a_folder_with_low_resolution_images(tmp_path, caplog):
    hr = stained.image(0, side=128)
    for folder, image in (("images", hr), ("lr", hr[::4, ::4])):
        (tmp_path / folder).mkdir()
        Image.fromarray(image).save(tmp_path / folder / "a.png")
    folder = open_source(f"folder:{tmp_path}", split="all", require_labels=False)
    record = NormalizedSource(folder, METHOD, TARGET)[0]
    target = target_fit(DEFAULT, METHOD)
    for role, image in (("hr", hr), ("lr", hr[::4, ::4])):
        own = fit(image, METHOD, name=role)
        np.testing.assert_array_equal(record[role], normalize(image, own, target))
    # The folder's own image is as it was.
    np.testing.assert_array_equal(folder[0]["hr"], hr)
