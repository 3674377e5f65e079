import dataclasses

import numpy as np
import pytest
from PIL import Image

from histojax.data import degradation
from histojax.data.pairs import image_pair
from histojax.errors import UserError
from histojax.evaluation.images import differences_of, score_images, summary_of
from histojax.evaluation.rows import Methods, methods_of, untrained
from histojax.inference.labeling import Found
from histojax.metrics import image_quality
from tests import tiny

MASK_METRICS = {"dice", "iou", "miou", "aji", "aji_plus", "pq", "dq", "sq", "f1"}
CLASSES = ["background", "tumour cells", "stroma"]


class Two:
    """Two annotated images; the second one's sides are no multiples of 4."""

    objects = "nuclei"

    def __init__(self, lr=None):
        self._samples = []
        for index, side in enumerate((64, 66)):
            image, instances = tiny.tissue(index, side)
            sample = {"name": f"n{index}", "hr": image, "instances": instances}
            if lr is not None:
                sample["lr"] = np.full((side // 4, side // 4, 3), lr, np.uint8)
            self._samples.append(sample)
        self.groups, self.mpp = ["a", "b"], None

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return self._samples[index]


def methods(source, *, enhancers, segmenters=None, rows=()):
    return Methods(enhancers, segmenters or {}, rows, {})


def nothing(image):
    return Found(np.zeros(image.shape[:2], bool), np.zeros(image.shape[:2], np.int32))


def by_lr(source, config, answer):
    """A function of lr that gives `answer(hr, truth)` of the image that it was made of."""
    recipe = degradation.Degradation.from_config(config.data.degradation, 4)
    known = {}
    for sample in source:
        hr, lr, truth = image_pair(sample, recipe, config.seed)
        known[lr.tobytes()] = known[hr.tobytes()] = answer(hr, truth)
    return lambda image: known[image.tobytes()]


def test_a_perfect_enhancer_and_segmenter_score_perfectly():
    source, config = Two(), tiny.config("joint")
    found = methods(
        source,
        enhancers={"perfect": by_lr(source, config, lambda hr, truth: hr)},
        segmenters={
            "right": by_lr(source, config, lambda hr, truth: Found(truth > 0, truth)),
            "nothing": nothing,
            "one": by_lr(source, config, lambda hr, truth: Found(truth > 0, (truth > 0) * 1)),
        },
        rows=[
            ("sr", "perfect", "right"),
            ("hr", None, "right"),
            ("none", None, "nothing"),
            ("one", None, "one"),
        ],
    )
    results, (_, pictures), _ = zip(*score_images(found, source, config), strict=True)
    assert [row["name"] for row in results] == ["n0", "n1"]
    assert [row["group"] for row in results] == ["a", "b"]
    for row in results:
        assert row["ssim_rgb_perfect"] == pytest.approx(1)
        assert row["psnr_rgb_perfect"] > 60
        assert row["power_spectrum_error_perfect"] == pytest.approx(0, abs=1e-9)
        for metric in MASK_METRICS:
            assert row[f"{metric}_sr"] == row[f"{metric}_hr"] == 1
        assert row["dice_none"] == row["aji_none"] == 0
        # Every nucleus found, and all of them taken for one.
        assert row["dice_one"] == 1
        assert row["f1_one"] < 1
        assert row["merged_sr"] == 0
        assert row["merged_one"] == 1
    assert pictures["hr"].shape == (64, 64, 3)
    assert pictures["annotation"].shape == (64, 64, 3)


@pytest.mark.parametrize("scale", [2, 3, 8])
def test_whole_images_are_scored_at_every_scale(scale):
    run = tiny.run("joint", scale)
    source = Two()
    found = methods_of({"joint": run}, source, run.config)
    results, pictures, _ = zip(*score_images(found, source, run.config), strict=True)
    rows = {"psnr_rgb_joint", "psnr_rgb_bicubic", "dice_joint", "dice_hr_to_joint"}
    assert rows <= set(results[1])
    # 66 px are cut at the bottom and on the right to what the scale divides.
    side = {2: 66, 3: 66, 8: 64}[scale]
    hr = Image.fromarray(source[1]["hr"][:side, :side])
    lr = hr.resize((side // scale, side // scale), Image.Resampling.BICUBIC)
    bicubic = lr.resize((side, side), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(pictures[1]["lr"], lr)
    luma = [
        image_quality.luma_bt601(np.asarray(image))[scale:-scale, scale:-scale]
        for image in (hr, bicubic)
    ]
    assert results[1]["psnr_y_bicubic"] == pytest.approx(image_quality.psnr(*luma))
    assert pictures[0]["hr"].shape[0] == {2: 64, 3: 63, 8: 64}[scale]


def test_real_low_resolution_images_replace_the_degradation():
    seen = []

    def enhancer(lr):
        seen.append(lr)
        return lr.repeat(4, 0).repeat(4, 1)

    source = Two(lr=77)
    list(score_images(methods(source, enhancers={"x": enhancer}), source, tiny.config()))
    assert [lr.shape for lr in seen] == [(16, 16, 3), (16, 16, 3)]
    assert all((lr == 77).all() for lr in seen)


@pytest.mark.faults
def test_masks_are_not_scored_without_annotation():
    source = Two()
    del source[1]["instances"]
    segment = {"s": nothing}
    found = methods(source, enhancers={}, segmenters=segment, rows=[("hr_to_s", None, "s")])
    with pytest.raises(UserError, match="n1 has no instances or mask"):
        list(score_images(found, source, tiny.config()))
    found = methods(source, enhancers={"bicubic": untrained("bicubic", 4)})
    assert len(list(score_images(found, source, tiny.config()))) == 2


def test_means_and_differences_are_taken_over_images():
    results = [
        {"name": "a", "group": "a", "x": 1.0, "y": 0.0},
        {"name": "b", "group": "b", "x": 3.0, "y": 2.5},
    ]
    assert summary_of(results)["x"]["mean"] == 2
    differences = differences_of(results, [("x", "y"), ("x", "absent")])
    assert list(differences) == ["x - y"]
    assert differences["x - y"]["mean"] == 0.75


def test_images_without_instances_are_left_out_of_their_scores():
    rows = [
        {"name": "a", "group": "1", "dice_hr_to_s": 0.5},
        {"name": "b", "group": "2", "dice_hr_to_s": 0.7, "aji_hr_to_s": 0.6},
    ]
    summary = summary_of(rows)
    assert summary["dice_hr_to_s"]["n"] == 2
    assert (summary["aji_hr_to_s"]["n"], summary["aji_hr_to_s"]["mean"]) == (1, 0.6)


class Classed(Two):
    """The two images with a class for each nucleus, 1 or 2 in turn."""

    classes = CLASSES

    def __getitem__(self, index):
        sample = super().__getitem__(index)
        instances = sample["instances"]
        return {**sample, "mask": np.where(instances > 0, 1 + instances % 2, 0).astype(np.uint8)}


def test_classes_are_scored_where_a_row_tells_them_apart():
    source, config = Classed(), tiny.config("pyramid")
    masks = {sample["hr"][:64, :64].tobytes(): sample["mask"][:64, :64] for sample in source}

    def right(image):
        mask = masks[image.tobytes()]
        return Found(mask > 0, mask.astype(np.int32), mask)

    def swapped(image):
        found = right(image)
        return dataclasses.replace(found, classes=np.array([0, 2, 1], np.uint8)[found.classes])

    found = methods(
        source,
        enhancers={},
        segmenters={"right": right, "swapped": swapped, "nothing": nothing},
        rows=[(name, None, name) for name in ("right", "swapped", "nothing")],
    )
    results, _, matrices = zip(*score_images(found, source, config), strict=True)
    assert [list(by_row) for by_row in matrices] == [["right", "swapped"]] * 2
    names = ["class_miou", *(f"class_dice_{c}" for c in ("background", "tumour_cells", "stroma"))]
    for row, by_row in zip(results, matrices, strict=True):
        matrix = by_row["swapped"]
        assert [row[f"{name}_right"] for name in names] == [1] * 4
        assert [row[f"{name}_swapped"] for name in names] == [pytest.approx(1 / 3), 1, 0, 0]
        assert row["dice_swapped"] == 1
        assert not [key for key in row if key.startswith("class_") and key.endswith("nothing")]
        assert matrix.sum() == 64 * 64
        assert matrix[1, 1] == matrix[2, 2] == 0


class Glands(Two):
    """The two images, their instances called glands."""

    objects = "glands"


def test_glands_are_scored_as_the_contest_ranks_them():
    source, config = Glands(), tiny.config("segmentation")
    right = by_lr(source, config, lambda hr, truth: Found(truth > 0, truth))
    found = methods(
        source,
        enhancers={},
        segmenters={"right": right, "nothing": nothing},
        rows=[("right", None, "right"), ("nothing", None, "nothing")],
    )
    results = [scored.scores for scored in score_images(found, source, config)]
    for row in results:
        assert (row["object_f1_right"], row["object_dice_right"]) == (1, 1)
        assert row["object_hausdorff_right"] == 0
        assert (row["object_f1_nothing"], row["object_dice_nothing"]) == (0, 0)
        assert row["object_hausdorff_nothing"] == np.inf
        assert row["aji_right"] == 1
    summary = summary_of(results)
    assert (summary["object_hausdorff_nothing"]["n"], summary["object_f1_right"]["n"]) == (0, 2)
    nuclei = next(score_images(found, Two(), config)).scores
    assert not [key for key in nuclei if key.startswith("object")]
