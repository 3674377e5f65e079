import collections
import dataclasses
import json
import logging
import pickle
import shutil

import numpy as np
import pytest
from PIL import Image

from histojax.data import stain_matching
from histojax.data.sources.base import Source
from histojax.data.sources.specs import open_source
from histojax.data.stain_matching import NormalizedSource
from histojax.errors import UserError
from histojax.experiments import chain, check
from histojax.inference import labeling, tiled
from histojax.inference.batch import predict_files
from histojax.runs import workdirs
from histojax.stain.normalization import Method, fit, normalize
from histojax.stain.targets import DEFAULT, target_fit
from tests import stained, tiny

METHOD = Method("macenko")
TARGET = target_fit(DEFAULT, METHOD)


def settings_with(**changes):
    config = tiny.config("segmentation")
    config.data.stain.update(method="macenko", **changes)
    return config


def test_it_is_off_unless_asked_for():
    assert stain_matching.build(tiny.config("segmentation")) is None


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(workdir of a run, its config, what it matches images to); the target's image is gone."""
    folder = tmp_path_factory.mktemp("stain")
    target = folder / "target.png"
    Image.fromarray(stained.image(5)).save(target)
    config = settings_with(target=str(target))
    chain.run(config, folder / "run")
    matching = stain_matching.build(config)
    target.unlink()
    return folder / "run", config, matching


def test_a_run_reads_images_as_it_was_trained_on_them(trained, tmp_path):
    workdir, _, matching = trained
    run = workdirs.load(workdir)
    assert run.meta["stain_target"] == json.loads(json.dumps(dataclasses.asdict(matching.target)))
    image = stained.image(1, side=64)
    network = tiled.segmenter(run)
    expected = normalize(image, fit([image], matching.method, name="a"), matching.target)
    run.config.data.stain.method = "none"
    plain = tiled.segmenter(run)
    np.testing.assert_array_equal(network(image)["mask"], plain(expected)["mask"])
    assert (network(image)["mask"] != plain(image)["mask"]).any()
    Image.fromarray(image).save(tmp_path / "a.png")
    (made,) = predict_files(workdir, [tmp_path / "a.png"], tmp_path / "out")
    found = labeling.find(run, plain(expected), None)
    np.testing.assert_array_equal(np.asarray(Image.open(made.files["labels"])), found.instances)


def test_a_run_goes_on_without_the_image_of_its_target(trained, tmp_path):
    workdir, config, _ = trained
    shutil.copytree(workdir, tmp_path / "run")
    chain.run(config, tmp_path / "run")  # done already
    longer = config.copy_and_resolve_references()
    longer.steps += 2
    assert chain.run(longer, tmp_path / "run")["steps"] == longer.steps


@pytest.mark.faults
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"method": "vahadane"},
            r"data.stain.method='vahadane' is not known; choose one of none, s",
        ),
        (
            {"sparsity": 0.0},
            r"stain.sparsity=0.0 has to be a number of 0.5 or less and above 0",
        ),
        ({"target": "there.png"}, r"'there.png' is neither an image file nor a known target"),
    ],
)
def test_what_cannot_be_used_is_refused_before_training(changes, said, tmp_path):
    config = settings_with()
    config.data.stain.update(changes)
    with pytest.raises(UserError, match=said):
        chain.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.faults
def test_a_run_that_enhances_keeps_the_colors():
    config = tiny.config("joint")
    config.data.stain.method = "spcn"
    with pytest.raises(UserError, match=r"a joint run is to keep the colours of its images"):
        stain_matching.build(config)


@pytest.mark.faults
def test_a_segmenter_of_other_colors_is_no_start():
    config = tiny.config("joint")
    config.init_from.segmenter.data.stain.method = "macenko"
    with pytest.raises(
        UserError, match=r"joint starts from the segmenter of segmentation, which r"
    ):
        check.check_stain_of_start(config)


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
    own = fit([image], METHOD, name=name)
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

    def counted(strips, method, *, name):
        fitted.append(name)
        return fit(strips, method, name=name)

    monkeypatch.setattr(stain_matching, "fit", counted)
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
        own = fit([image], METHOD, name=role)
        np.testing.assert_array_equal(record[role], normalize(image, own, target))
    # The folder's own image is as it was.
    np.testing.assert_array_equal(folder[0]["hr"], hr)
