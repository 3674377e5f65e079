import numpy as np
import pytest

from histojax.components import scoring
from histojax.nuclei.watershed import InstanceParameters

WEIGHT = np.asarray([1, 1, 0], np.float32)


def test_images_are_scored_one_by_one_and_padding_left_out():
    hr = np.random.default_rng(0).integers(20, 230, (3, 16, 16, 3)).astype(np.uint8)
    sr = hr + np.asarray([1, 10, 99], np.uint8)[:, None, None, None]
    total, count = scoring.score_images(sr, hr, WEIGHT)["psnr_rgb"]
    # PSNR of a uniform error e is 20 log10(255 / e).
    assert total == pytest.approx(20 * np.log10(255 / 1) + 20 * np.log10(255 / 10))
    assert count == 2


def test_detail_is_scored_image_by_image_and_padding_left_out():
    signs = np.random.default_rng(0).choice([-1, 1], (64, 64, 1))
    images = [np.broadcast_to(128 + a * signs, (64, 64, 3)).astype(np.uint8) for a in (20, 40, 80)]
    sr, hr = np.stack(images), np.stack([images[0]] * 3)
    total, count = scoring.score_detail(sr, hr, WEIGHT, 4)["power_spectrum_excess"]
    # Equal, and twice the amplitude.
    assert total == pytest.approx(0 + 20 * np.log10(2), abs=0.02)
    assert count == 2


def test_masks_are_pooled_over_pixels():
    mask = np.zeros((3, 4, 4), np.uint8)
    mask[0, :2] = 3  # 8 px of a class above 0
    probability = np.zeros((3, 4, 4), np.float32)
    probability[0, 0] = 0.6  # 4 px right, 4 missed
    probability[1, 0] = 0.5  # 4 px wrong: the threshold itself is foreground
    probability[2] = 1.0
    sums = scoring.score_masks(probability, mask, WEIGHT, 0.5)
    assert sums["dice_pooled"] == (8.0, 16.0)
    assert sums["iou_pooled"] == (4.0, 12.0)


@pytest.mark.faults
def test_an_exact_crop_counts_as_one_changed_by_rounding():
    hr = np.full((3, 16, 16, 3), 255, np.uint8)
    sr = hr.copy()
    sr[1, :, ::2] -= 1  # a mean squared error of 1/2
    sums = scoring.score_images(sr, hr, np.ones(3, np.float32))
    total, count = sums["psnr_rgb"]
    # The variance of rounding is 1/12: six times less, so that the exact crop is never the worse.
    half = 20 * np.log10(255) + 10 * np.log10(2)
    assert total == pytest.approx(half + 2 * (half + 10 * np.log10(6)))
    assert count == 3
    assert sums["ssim_rgb"][0] > 2.99


def test_aji_is_the_mean_over_crops_that_hold_nuclei():
    truth = np.zeros((4, 32, 32), np.int32)
    truth[0, 4:14, 4:14], truth[0, 18:28, 4:14] = 1, 2
    truth[1, 4:14, 4:14] = 5
    maps = {name: (truth > 0)[..., None].astype(np.float32) for name in ("mask", "marker")}
    maps["mask"][1, 4:14, 4:9] = 0  # half of the nucleus
    maps["mask"][3] = 1
    weight = np.asarray([1, 1, 1, 0], np.float32)
    sums = scoring.score_nuclei(maps, truth, weight, InstanceParameters())
    # The third crop holds nothing, and nothing is found in it; the fourth is padding.
    assert sums["aji"] == pytest.approx((1 + 0.5, 2))


def test_a_map_that_is_not_a_number_finds_nothing():
    truth = np.zeros((1, 32, 32), np.int32)
    truth[0, 4:14, 4:14] = 1
    maps = {name: np.full((1, 32, 32, 1), np.nan, np.float32) for name in ("mask", "marker")}
    sums = scoring.score_nuclei(maps, truth, np.ones(1), InstanceParameters())
    assert sums["aji"] == (0, 1)


def test_classes_are_pooled_over_pixels_before_their_mean():
    mask = np.zeros((3, 4, 4), np.uint8)
    mask[0, :2], mask[1, 0] = 1, 2
    found = np.zeros((3, 4, 4), np.uint8)
    found[0, 0], found[1, :2], found[2] = 1, 2, 3  # the third image is padding
    maps = {"mask": (found > 0)[..., None].astype(np.float32)}
    maps |= {f"class_{k}": (found == k)[..., None].astype(np.float32) for k in (1, 2, 3)}
    (hit, union) = scoring.score_classes(maps, mask, WEIGHT)["class_miou_pooled"]
    np.testing.assert_array_equal(hit, [16, 4, 4, 0])
    np.testing.assert_array_equal(union, [24, 8, 8, 0])
    # Two such batches score what one does; the last class is nowhere, and does not count.
    assert scoring.divided(2 * hit, 2 * union) == pytest.approx((16 / 24 + 1 / 2 + 1 / 2) / 3)
    assert scoring.score_classes({"mask": maps["mask"]}, mask, WEIGHT) == {}


def test_a_sum_is_divided_by_its_count():
    assert scoring.divided(3.0, 4.0) == 0.75
    assert scoring.divided(0.0, 0.0) == 1
    assert scoring.divided(np.zeros(2), np.zeros(2)) == 1
    assert np.isnan(scoring.divided(np.nan, 2.0))
