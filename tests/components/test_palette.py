import json

import numpy as np

from histojax.components import palette, scales
from histojax.stages import build_stage
from tests import tiny

LABELS = scales.Labels("contour", 3)


def image_of(height=40, width=40):
    """A record with a square nucleus of one colour, its rim at the top, on another."""
    mask, contour = np.zeros((2, height, width), np.uint8)
    mask[8:30, 8:30], contour[8:10, 8:30] = 1, 1
    image = np.where(mask[..., None] > 0, np.uint8([51, 0, 102]), np.uint8([255, 204, 153]))
    return {"hr": image, "mask": mask, "contour": contour}


def test_looks_are_of_training_images_and_name_missing_labels():
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


def test_a_pyramid_that_starts_from_gray_needs_none():
    config = tiny.config("pyramid")
    stage = build_stage(config, {})
    assert len(stage.palette_of([image_of()])) == 4
    config.pyramid.base = "gray"
    assert build_stage(config, {}).palette_of([image_of()]) == []


def test_colors_are_of_an_image_that_held_what_is_to_be_painted():
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


def test_the_color_of_nuclei_as_one_is_the_mean_of_their_pixels():
    labels = np.uint8([[0, 1, 1], [2, 1, 0]])
    colors = np.array([[0.9] * 3, [0.2, 0.4, 0.6], [0.6, 0.0, 0.2]], np.float32)
    parts, moved = palette.nuclei_as_one(labels, colors)
    np.testing.assert_array_equal(parts, [[0, 1, 1], [1, 1, 0]])
    np.testing.assert_allclose(moved, [[0.9] * 3, [0.3, 0.3, 0.5]], rtol=1e-6)
    _, none = palette.nuclei_as_one(np.zeros_like(labels), colors)
    assert np.isfinite(none).all()


def test_a_whole_image_gets_the_mean_colors_of_its_labels():
    labels = np.uint8([[0, 0, 1, 1]])
    image = np.uint8([[[0] * 3, [20] * 3, [100] * 3, [240] * 3]])
    found = palette.recolored(image, labels, np.array([[0.2, 0.4, 0.6], [200 / 255] * 3]))
    # 51, 102, 153 and 200 in the mean; what uint8 cannot hold is cut.
    np.testing.assert_array_equal(found[0, :2], [[41, 92, 143], [61, 112, 163]])
    np.testing.assert_array_equal(found[0, 2:], [[130] * 3, [255] * 3])
