import json

import numpy as np
import pytest
import skimage.io

from histojax.metrics import instances
from histojax.nuclei import classical
from histojax.nuclei.classical import Parameters

PINK, BLUE = (230, 160, 200), (80, 60, 140)
# Without smoothing, and with no condition on the surroundings.
PLAIN = Parameters(sigma=0, contrast=0, opening=0, min_area=20, max_hole=0, smoothing=0)


def field(side=96, disks=((30, 40, 12),), zoom=1):
    """(image of blue disks y, x, radius on pink, their mask), `zoom` times as large."""
    y, x = np.mgrid[: side * zoom, : side * zoom] / zoom
    inside = np.any([(y - b) ** 2 + (x - a) ** 2 <= r * r for b, a, r in disks], axis=0)
    return np.where(inside[..., None], BLUE, PINK).astype(np.uint8), inside


def test_blue_on_pink_is_found():
    image, inside = field()
    np.testing.assert_array_equal(classical.find(image, PLAIN), inside)
    # Smoothing moves the contour by about a px and no more.
    found = classical.find(image, Parameters())
    assert instances.aji(instances.overlap_table(found, inside.astype(np.int32))) > 0.8


def test_two_disks_that_overlap_are_two_nuclei():
    # Two maxima of 12 px, and 12 sin(45 degrees) = 8.5 px in the neck between them.
    image, inside = field(disks=((40, 30, 12), (40, 47, 12)))
    found = classical.find(image, PLAIN)
    np.testing.assert_array_equal(found > 0, inside)
    assert found.max() == 2
    assert (found[40, 30], found[40, 47]) == (1, 2)
    deep = Parameters(**{**vars(PLAIN), "depth": 5.0})
    assert classical.find(image, deep).max() == 1


def test_parts_below_the_smallest_area_are_dropped_and_holes_filled():
    image, inside = field(disks=((30, 40, 12), (80, 80, 2)))
    image[30, 40] = PINK
    found = classical.find(image, Parameters(**{**vars(PLAIN), "max_hole": 1}))
    inside[70:] = False
    np.testing.assert_array_equal(found, inside)


def test_lengths_and_areas_follow_the_scale():
    p = Parameters().at(0.5)
    q = Parameters
    assert (p.sigma, p.surround, p.min_area) == (q.sigma / 2, q.surround / 2, q.min_area / 4)
    assert (p.threshold, p.contrast, p.mpp) == (Parameters.threshold, Parameters.contrast, 0.5)
    assert Parameters().at(None) == Parameters()
    assert Parameters(mpp=None).at(0.5) == Parameters(mpp=None)
    # A spot of 29 px is a nucleus at 0.5 um per px, where it stands for 116, and none at 0.25.
    image, _ = field(disks=((40, 40, 3),))
    assert [classical.find(image, Parameters(), mpp).max() for mpp in (0.5, 0.25)] == [1, 0]


@pytest.mark.faults
@pytest.mark.parametrize("color", [(255, 255, 255), (242, 240, 243), (128, 128, 128), (0, 0, 0)])
def test_nothing_is_found_on_one_color(color):
    assert classical.find(np.full((8, 8, 3), color, np.uint8), Parameters()).sum() == 0


@pytest.mark.faults
@pytest.mark.parametrize("color", [(255, 255, 255), (242, 240, 243), (225, 222, 228)])
def test_nothing_is_found_in_the_noise_of_blank_glass(color):
    image = np.random.default_rng(0).normal(color, 3, (128, 128, 3)).clip(0, 255).round()
    assert classical.find(image.astype(np.uint8), Parameters()).sum() == 0
    # A pale nucleus on the same glass is found: 60 grey levels of red and green are absorbed.
    image[40:60, 40:60, :2] -= 60
    found = classical.find(image.clip(0, 255).astype(np.uint8), Parameters())
    assert (found[45:55, 45:55] > 0).all()
    assert not found[:30].any()


def test_real_tissue_is_no_straw_man(real_data):
    folder = real_data / "monuseg"
    scores = []
    for name in json.loads((folder / "splits.json").read_text())["val"]:
        image, truth = (
            skimage.io.imread(next((folder / kind).glob(f"{name.split('.')[0]}.*")))
            for kind in ("images", "instances")
        )
        found = classical.find(image[..., :3], Parameters(), 0.25)
        scores.append(instances.aji(instances.overlap_table(found, truth)))
    # Connected components of Otsu's mask reach 0.194, a distance watershed of it 0.438.
    assert np.mean(scores) > 0.45
