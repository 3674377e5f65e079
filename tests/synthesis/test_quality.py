import dataclasses

import numpy as np
import pytest

from histojax.errors import UserError
from histojax.evaluation import rows
from histojax.inference import labeling
from histojax.synthesis import quality
from histojax.synthesis.tissue import Synthesizer
from tests import tiny


class Images:
    """Two tissue images as a source, and one without nuclei."""

    names = groups = ("a", "b", "c")

    def __len__(self):
        return 3

    def __getitem__(self, index):
        image, instances = tiny.tissue(index)
        return {"name": self.names[index], "hr": image, "instances": instances * (index < 2)}


@pytest.fixture(scope="module")
def windows():
    return quality.windows_of(Images(), 32)


@pytest.fixture(scope="module")
def pyramid():
    return dataclasses.replace(tiny.run("pyramid"), workdir="runs/pyramid")


def test_windows_are_squares_with_nuclei_of_every_image(windows):
    side = tiny.tissue(0)[0].shape[0]
    assert windows.images.shape[1:] == (32, 32, 3)
    assert set(windows.names) == {"a", "b"}
    assert len(windows) <= 2 * (side // 32) ** 2
    assert windows.labels.reshape(len(windows), -1).any(1).all()
    image, instances = tiny.tissue(0)
    first = next(
        (y, x)
        for y in range(0, side - 31, 32)
        for x in range(0, side - 31, 32)
        if instances[y : y + 32, x : x + 32].any()
    )
    part = np.s_[first[0] : first[0] + 32, first[1] : first[1] + 32]
    np.testing.assert_array_equal(windows.images[0], image[part])
    np.testing.assert_array_equal(windows.labels[0], instances[part])
    few = windows.spread(3)
    assert len(few) == 3
    np.testing.assert_array_equal(few.images[-1], windows.images[-1])
    assert len(windows.spread(10**6)) == len(windows)


def test_too_few_windows_are_refused():
    with pytest.raises(UserError, match=r"hold 0 squares of 4096 px with nuclei.*smaller --size"):
        quality.windows_of(Images(), 4096)


def test_every_method_makes_an_image_for_each_mask(windows, pyramid):
    few = windows.spread(2)
    synthesizer = Synthesizer(pyramid)
    one = quality.pyramid_images(synthesizer, few.labels, seed=0)
    assert one.shape == few.images.shape
    assert one.dtype == np.uint8
    assert set(np.unique(synthesizer.labels_of(few.labels[1]))) == {0, 1, 2}
    np.testing.assert_array_equal(
        one[1], synthesizer.image(few.labels[1], seed=(0, 1, 0), look=(0, 1))
    )
    other = quality.pyramid_images(synthesizer, few.labels, seed=0, noise=1)
    assert not np.array_equal(one, other)
    tissue = quality.builtin_images(few.labels, seed=0)
    assert tissue.shape == few.images.shape
    np.testing.assert_array_equal(tissue, quality.builtin_images(few.labels, seed=0))


def test_tissue_of_classes_is_not_measured(windows, pyramid):
    stage = dataclasses.replace(
        pyramid.stage, labels=dataclasses.replace(pyramid.stage.labels, kind="classes")
    )
    meta = {**pyramid.meta, "classes": ["background", "gland"]}
    synthesizer = Synthesizer(dataclasses.replace(pyramid, stage=stage, meta=meta))
    with pytest.raises(UserError, match=r"classes.*pyramid\.labels='contour' or 'mask'"):
        quality.pyramid_images(synthesizer, windows.labels, seed=0)


def test_features_are_those_of_each_image_by_itself():
    run = dataclasses.replace(tiny.run("segmentation"), workdir="runs/s")
    network = rows.own_features({"s": run})["segmenter"]
    images = quality.windows_of(Images(), 16).spread(9).images
    features = quality.pooling(network)
    found = features(images)
    alone = features(images[8:])
    np.testing.assert_allclose(found[8:], alone, atol=1e-5)
    assert len(found) == 9
    assert found.std(0).max() > 0
    same = quality.standardized(found, found)
    np.testing.assert_allclose(same.mean(0), 0, atol=1e-4)
    assert same.std(0).max() == pytest.approx(1, abs=1e-3)


def test_fidelity_is_of_the_nuclei_that_are_read_back(windows):
    def find(image):
        index = next(i for i, other in enumerate(windows.images) if np.array_equal(other, image))
        labels = windows.labels[index].copy()
        if index == 0:
            labels[:] = 0
        return labeling.Found(labels > 0, labels.astype(np.int32))

    two = windows.spread(2)
    scores = quality.fidelity(find, two.images, two.labels)
    # Nothing is found in the first, all in the last.
    assert scores == {"dice": pytest.approx(0.5), "aji": pytest.approx(0.5)}
