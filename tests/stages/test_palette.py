import json

import numpy as np
import pytest

from histojax.stages import build_stage, palette, scales
from tests import tiny

LABELS = scales.Labels("contour", 3)


def image_of(height=40, width=40):
    """A record with a square nucleus of one colour, its rim at the top, on another."""
    mask, contour = np.zeros((2, height, width), np.uint8)
    mask[8:30, 8:30], contour[8:10, 8:30] = 1, 1
    image = np.where(mask[..., None] > 0, np.uint8([51, 0, 102]), np.uint8([255, 204, 153]))
    return {"hr": image, "mask": mask, "contour": contour}


def test_looks_are_of_training_images_and_tell_what_they_do_not_hold():
    full = image_of()
    bare = {**full, "mask": 0 * full["mask"], "contour": 0 * full["mask"]}
    looks = palette.collect([bare, full], LABELS, 32)
    assert len(looks) == 8
    assert [look[1:] for look in looks[:4]] == [[None, None]] * 4
    np.testing.assert_allclose([look[0] for look in looks[4:]], [[1, 0.8, 0.6]] * 4, atol=1e-4)
    inside = [look[1:] for look in looks[4:]]
    np.testing.assert_allclose(inside, [[[0.2, 0, 0.4]] * 2] * 4, atol=1e-4)
    assert json.loads(json.dumps(looks)) == looks
    # Many images are read but in part, the first and the last among them.
    some = palette.collect([full] * 8 + [bare], LABELS, 32, images=3, windows=1)
    assert [look[1] is None for look in some] == [False, False, True]


def test_a_pyramid_that_starts_from_grey_needs_none():
    settings = tiny.config("pyramid")
    stage = build_stage(settings, {})
    assert len(stage.palette_of([image_of()])) == 4
    settings.pyramid.start = "grey"
    assert build_stage(settings, {}).palette_of([image_of()]) == []


def test_colours_are_of_an_image_that_held_what_is_to_be_painted():
    def drawn(looks, numbers):
        found = [palette.draw(looks, 3, numbers, (seed,)) for seed in range(9)]
        assert all(np.array_equal(look, found[0]) for look in found)
        return found[0].astype(float).round(3).tolist()

    a, b, c = [0.1] * 3, [0.2] * 3, [0.3] * 3
    whole, bare = [a, b, c], [c, None, None]
    # Of labels 0 and 1 the first alone held both; what it did not hold is a mean of the others.
    assert drawn([whole, bare], [0, 1]) == whole
    assert drawn([[a, b, None], bare, [None, None, c]], [0, 1]) == [a, b, c]
    assert drawn([bare], [0, 2]) == [c, [0.5] * 3, [0.5] * 3]
    assert drawn([], [0, 1]) == [[0.5] * 3] * 3
    both = {tuple(palette.draw([whole, [c, b, a]], 3, [0], (seed,))[0]) for seed in range(9)}
    assert len(both) == 2


def test_a_whole_image_gets_dyes_that_bring_its_labels_near_to_colours():
    rng = np.random.default_rng(0)
    labels = (rng.random((1030, 12)) < 0.3).astype(np.uint8)
    base = np.where(labels[..., None] > 0, [90, 40, 130], [220, 170, 200])
    image = (base + rng.integers(-20, 20, base.shape)).astype(np.uint8)
    image[5, 5] = 255
    colours = np.float32([[0.9, 0.8, 0.7], [0.5, 0.3, 0.3]])
    found = palette.dyed(image, labels, colours)
    assert found.dtype == np.uint8
    assert found.shape == image.shape
    for label, colour in enumerate(colours):
        assert found[labels == label].mean(0) == pytest.approx(255 * colour, abs=6)
    np.testing.assert_array_equal(found[5, 5], 255)
    # A colour has one other, in whatever strip of rows and under whatever label it lies.
    seen = {}
    for before, after in zip(image.reshape(-1, 3), found.reshape(-1, 3), strict=True):
        assert seen.setdefault(tuple(before), tuple(after)) == tuple(after)
    # A label that is not there asks for nothing.
    more = palette.dyed(image, labels, np.float32([*colours, [0.1, 0.9, 0.1]]))
    np.testing.assert_array_equal(more, found)
    # The training's form of the same.
    one_hot = np.eye(2, dtype=np.float32)[labels][None]
    own = scales.label_colours(image[None] / np.float32(255), one_hot)
    change = scales.change_of_dyes(own, one_hot.mean((1, 2)), colours[None])
    wanted = 255 * np.asarray(scales.dyed(image[None] / np.float32(255), change))[0]
    np.testing.assert_allclose(found, wanted, atol=0.51)
