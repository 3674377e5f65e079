import csv
import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from histojax.components import content
from histojax.data import degradation
from histojax.data.pairs import image_pair
from histojax.errors import UserError
from histojax.evaluation import scores as evaluation
from histojax.evaluation.rows import Methods, bicubic, feature_metric, methods_of
from histojax.experiments import chain
from histojax.inference import tiled
from histojax.inference.labeling import Found
from histojax.metrics import image_quality
from histojax.runs import workdirs
from tests import tiny

IMAGE_METRICS = {"psnr_rgb", "ssim_rgb", "psnr_y", "ssim_y", "power_spectrum_error"}
MASK_METRICS = {"dice", "iou", "miou", "aji", "aji_plus", "pq", "dq", "sq", "f1"}


class Two:
    """Two annotated images; the second one's sides are no multiples of 4."""

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
    pictures = {}
    results = evaluation.evaluate(
        found, source, config, figure=lambda name, made: pictures.update({name: made})
    )
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
    assert pictures["n1"]["hr"].shape == (64, 64, 3)
    assert pictures["n1"]["annotation"].shape == (64, 64, 3)


@pytest.mark.parametrize("scale", [2, 3, 8])
def test_whole_images_are_scored_at_every_scale(scale):
    run = tiny.run("joint", scale)
    source = Two()
    found = methods_of({"joint": run}, source, run.config)
    pictures = {}
    results = evaluation.evaluate(
        found, source, run.config, figure=lambda name, made: pictures.update({name: made})
    )
    rows = {"psnr_rgb_joint", "psnr_rgb_bicubic", "dice_joint", "dice_hr_to_joint"}
    assert rows <= set(results[1])
    # 66 px are cut at the bottom and on the right to what the scale divides.
    side = {2: 66, 3: 66, 8: 64}[scale]
    hr = Image.fromarray(source[1]["hr"][:side, :side])
    lr = hr.resize((side // scale, side // scale), Image.Resampling.BICUBIC)
    bicubic = lr.resize((side, side), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(pictures["n1"]["lr"], lr)
    luma = [
        image_quality.luma_bt601(np.asarray(image))[scale:-scale, scale:-scale]
        for image in (hr, bicubic)
    ]
    assert results[1]["psnr_y_bicubic"] == pytest.approx(image_quality.psnr(*luma))
    assert pictures["n0"]["hr"].shape[0] == {2: 64, 3: 63, 8: 64}[scale]


def test_pairs_that_are_shifted_are_not_scored(trained_chain, tmp_path):
    root = tiny.folder(tmp_path / "data", count=2, size=256, lr=4)
    metrics = scored(trained_chain / "generator", tmp_path, data=f"folder:{root}", split="all")
    assert metrics["psnr_rgb_bicubic"]["n"] == 2
    image = np.asarray(Image.open(root / "images" / "p1.png"))
    tiny.write_lr(root, "p1", np.roll(image, 5, axis=1), 4)
    with pytest.raises(UserError, match=r"1 of 2, 'p1' the furthest, (4\.9|5\.0|5\.1) hr px right"):
        scored(trained_chain / "generator", tmp_path, data=f"folder:{root}", split="all")
    config = {"data": f"folder:{root}", "split": "all"}
    # A segmenter is scored on the bicubic image too, unless it is to read hr images alone.
    with pytest.raises(UserError, match="'p1' the furthest"):
        scored(trained_chain / "segmentation", tmp_path, **config)
    scored(trained_chain / "segmentation", tmp_path, **config, enhancer="none")
    scored(trained_chain / "generator", tmp_path, **config, max_shift=6.0)


def test_real_low_resolution_images_replace_the_degradation():
    seen = []

    def enhancer(lr):
        seen.append(lr)
        return lr.repeat(4, 0).repeat(4, 1)

    source = Two(lr=77)
    evaluation.evaluate(methods(source, enhancers={"x": enhancer}), source, tiny.config())
    assert [lr.shape for lr in seen] == [(16, 16, 3), (16, 16, 3)]
    assert all((lr == 77).all() for lr in seen)


@pytest.mark.faults
def test_an_image_without_annotation_is_refused_where_masks_are_scored():
    source = Two()
    del source[1]["instances"]
    segment = {"s": nothing}
    found = methods(source, enhancers={}, segmenters=segment, rows=[("hr_to_s", None, "s")])
    with pytest.raises(UserError, match="n1 has no instances or mask"):
        evaluation.evaluate(found, source, tiny.config())
    found = methods(source, enhancers={"bicubic": bicubic(4)})
    assert len(evaluation.evaluate(found, source, tiny.config())) == 2


def test_a_chain_is_scored_in_every_row(trained_chain):
    table = json.loads((trained_chain / "summary.json").read_text())
    enhancers = ["bicubic", "generator", "srgan", "joint"]
    rows = [
        "otsu",
        "bicubic_to_s",
        "generator_to_s",
        "srgan_to_s",
        "hr_to_s",
        "joint",
        "hr_to_joint",
    ]
    expected = {f"{metric}_{name}" for metric in IMAGE_METRICS for name in enhancers}
    expected |= {f"{metric}_{row}" for metric in MASK_METRICS for row in rows}
    features = {key for key in table["metrics"] if key.startswith("feature_distance_")}
    assert features == {f"feature_distance_segmenter_{name}" for name in enhancers}
    assert set(table["metrics"]) == expected | features
    assert set(table["differences"]) == {
        *(f"{m}_{n} - {m}_bicubic" for m in ("psnr_rgb", "ssim_rgb") for n in enhancers[1:]),
        *(f"dice_joint - dice_{row}" for row in rows[1:5]),
    }
    for entry in table["metrics"].values():
        assert entry["low"] <= entry["mean"] <= entry["high"]
    folder = trained_chain / "evaluation"
    assert json.loads((folder / "metrics.json").read_text())["metrics"] == table["metrics"]
    with (folder / "per_image.csv").open() as file:
        images = list(csv.DictReader(file))
    assert len(images) == 2
    mean = np.mean([float(row["dice_joint"]) for row in images])
    assert mean == pytest.approx(table["metrics"]["dice_joint"]["mean"])
    assert len(list((folder / "figures").glob("*.png"))) == 2


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({}, "evaluation"),
        ({"data": "synthetic"}, "evaluation"),
        ({"split": "test", "ensemble": True}, "evaluation-test-ensemble"),
        ({"enhancer": "none"}, "evaluation-enhancer_none"),
        ({"data": "tnbc"}, "evaluation-tnbc"),
    ],
)
def test_a_folder_is_named_for_what_sets_a_scoring_apart(trained_chain, options, name):
    for workdir in (trained_chain, trained_chain / "segmentation"):
        assert evaluation.own_folder(workdir, **options) == workdir / name


def test_folders_of_other_data_are_told_apart_and_can_be_made(trained_chain, tmp_path):
    specs = ["folder:/a b", "folder:/a/b", "folder:/" + "a" * 99, "folder:/" + "a" * 98, "test"]
    specs += ["folder:../" + "\u6838" * 90, "val"]
    names = [evaluation.own_folder(trained_chain, data=spec, enhancer=spec).name for spec in specs]
    assert len({*names, evaluation.own_folder(trained_chain, "test").name}) == len(specs) + 1
    for name in names:
        (tmp_path / name).mkdir()
    assert re.fullmatch(r"evaluation-folder_a_b_\w{8}-enhancer_folder_a_b_\w{8}", names[0])


def scored(workdir, tmp_path, **options):
    return evaluation.score_workdir(workdir, output=tmp_path / "out", **options)["metrics"]


def test_an_enhancer_can_be_put_before_a_segmenter(trained_chain, tmp_path):
    workdir = trained_chain / "segmentation"
    none = scored(workdir, tmp_path, enhancer="none")
    assert {key.removeprefix("dice_") for key in none if key.startswith("dice_")} == {
        "otsu",
        "hr_to_s",
    }
    assert not [key for key in none if key.startswith("psnr")]
    by_run = scored(workdir, tmp_path, enhancer=str(trained_chain / "joint"))
    assert {"dice_bicubic_to_s", "dice_joint_to_s", "dice_hr_to_s", "psnr_rgb_joint"} <= set(by_run)
    assert by_run["dice_hr_to_s"] == none["dice_hr_to_s"]
    table = json.loads((trained_chain / "summary.json").read_text())["metrics"]
    assert by_run["psnr_rgb_joint"]["mean"] == pytest.approx(table["psnr_rgb_joint"]["mean"])
    assert by_run["dice_bicubic_to_s"] == table["dice_bicubic_to_s"]


def test_an_enhancer_that_does_not_enhance_is_refused(trained_chain, tmp_path):
    with pytest.raises(UserError, match="is a segmentation run, which does not enhance"):
        scored(
            trained_chain / "segmentation", tmp_path, enhancer=str(trained_chain / "segmentation")
        )
    with pytest.raises(UserError, match="is not a workdir"):
        scored(trained_chain / "segmentation", tmp_path, enhancer="bilinear")


def test_a_folder_is_scored_with_its_own_low_resolution_images(trained_chain, tmp_path):
    root = tiny.folder(tmp_path / "data")
    (root / "lr").mkdir()
    for file in (root / "images").iterdir():
        gray = Image.new("RGB", (16, 16), (128, 128, 128))
        gray.save(root / "lr" / file.name)
    metrics = scored(trained_chain / "generator", tmp_path, data=f"folder:{root}", split="all")
    assert metrics["psnr_rgb_bicubic"]["n"] == 4
    hr = np.asarray(Image.open(root / "images" / "p0.png"), float) / 255
    expected = -10 * np.log10(np.mean((hr - 128 / 255) ** 2))
    with (tmp_path / "out" / "per_image.csv").open() as file:
        row = next(row for row in csv.DictReader(file) if row["name"] == "p0")
    assert float(row["psnr_rgb_bicubic"]) == pytest.approx(expected, abs=0.01)


@pytest.mark.faults
def test_data_without_annotation_suits_a_generator_alone(trained_chain, tmp_path):
    root = tiny.folder(tmp_path / "data")
    shutil.rmtree(root / "instances")
    metrics = scored(trained_chain / "generator", tmp_path, data=f"folder:{root}")
    assert "psnr_rgb_generator" in metrics
    with pytest.raises(UserError, match="has no labels"):
        scored(trained_chain / "segmentation", tmp_path, data=f"folder:{root}")


def test_means_and_differences_are_taken_over_images():
    results = [
        {"name": "a", "group": "a", "x": 1.0, "y": 0.0},
        {"name": "b", "group": "b", "x": 3.0, "y": 2.5},
    ]
    assert evaluation.summary_of(results)["x"]["mean"] == 2
    differences = evaluation.differences_of(results, [("x", "y"), ("x", "absent")])
    assert list(differences) == ["x - y"]
    assert differences["x - y"]["mean"] == 0.75


def annotated(root, images):
    """A folder of images, by name, without nuclei."""
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True)
    for name, image in images.items():
        Image.fromarray(image).save(root / "images" / f"{name}.png")
        Image.fromarray(np.zeros(image.shape[:2], np.uint8)).save(root / "masks" / f"{name}.png")
    return f"folder:{root}"


def blank(value, side=64):
    return np.full((side, side, 3), value, np.uint8)


@pytest.mark.faults
def test_blank_images_are_scored_without_a_nan(trained_chain, tmp_path):
    data = annotated(
        tmp_path / "data", {"white": blank(255), "black": blank(0), "gray": blank(128)}
    )
    metrics = scored(trained_chain, tmp_path, data=data, split="all")
    # Bicubic meets a constant exactly, so that PSNR is infinite and SSIM 1.
    assert (metrics["psnr_rgb_bicubic"]["n"], metrics["psnr_rgb_bicubic"]["left_out"]) == (0, 3)
    assert metrics["ssim_rgb_bicubic"]["mean"] == pytest.approx(1)
    assert metrics["power_spectrum_error_bicubic"]["mean"] == 0
    assert metrics["dice_otsu"]["mean"] == 1  # nothing to find, nothing found
    undefined = {name for name, m in metrics.items() if not np.isfinite(m["mean"])}
    assert undefined == {"psnr_rgb_bicubic", "psnr_y_bicubic"}
    text = evaluation.table_text(metrics)
    assert "nan" not in text
    assert "inf" not in text
    line = next(line for line in text.splitlines() if line.startswith("psnr_rgb_bicubic"))
    assert line.split(maxsplit=1)[1] == "-  (identical images left out: 3)"
    assert "NaN" not in (tmp_path / "out" / "metrics.json").read_text()
    assert len(list((tmp_path / "out" / "figures").glob("*.png"))) == 3


@pytest.mark.faults
@pytest.mark.parametrize("size", [(1, 1), (18, 64)])
def test_an_image_too_small_to_score_is_named_before_anything_is_written(
    trained_chain, tmp_path, size
):
    data = annotated(
        tmp_path / "data", {"a": blank(9), "tiny": np.zeros((*size, 3), np.uint8), "z": blank(9)}
    )
    with pytest.raises(UserError, match=r"image 'tiny' has .* and is scored from 19 px a side on"):
        scored(trained_chain / "generator", tmp_path, data=data, split="all")
    assert not (tmp_path / "out").exists()
    if size == (18, 64):  # too small for SSIM, and large enough for a mask
        segmenter = trained_chain / "segmentation"
        assert scored(segmenter, tmp_path, data=data, split="all", enhancer="none")


@pytest.mark.faults
def test_names_of_255_bytes_accents_and_spaces_are_scored(trained_chain, tmp_path):
    names = ["a" * 251, "Prüfung é", "two words"]
    data = annotated(tmp_path / "da ta é", {name: blank(200) for name in names})
    scored(trained_chain / "generator", tmp_path, data=data, split="all")
    figures = {path.stem for path in (tmp_path / "out" / "figures").iterdir()}
    assert figures == set(names)


@pytest.mark.faults
def test_max_pixels_is_the_run_s_unless_it_is_given(trained_chain, tmp_path):
    data = annotated(tmp_path / "data", {"a": blank(200), "b": blank(100)})
    generator = trained_chain / "generator"
    with pytest.raises(UserError, match=r"a\.png needs 4096 pixels .* limit is 4095"):
        scored(generator, tmp_path, data=data, split="all", max_pixels=4095)
    assert not (tmp_path / "out").exists()
    assert scored(generator, tmp_path, data=data, split="all", max_pixels=4096)


def test_images_without_instances_are_left_out_of_their_scores():
    rows = [
        {"name": "a", "group": "1", "dice_hr_to_s": 0.5},
        {"name": "b", "group": "2", "dice_hr_to_s": 0.7, "aji_hr_to_s": 0.6},
    ]
    summary = evaluation.summary_of(rows)
    assert summary["dice_hr_to_s"]["n"] == 2
    assert (summary["aji_hr_to_s"]["n"], summary["aji_hr_to_s"]["mean"]) == (1, 0.6)


@pytest.mark.parametrize("side", [250, 70])
def test_features_are_compared_in_windows_that_the_network_takes(side):
    seen = []

    def features(variables, images, layers):
        seen.append(images.shape[1:3])
        return {"level0": images}

    network = content.FeatureNetwork("x", features, {}, ("level0",), stride=32)
    image = np.random.default_rng(0).integers(0, 256, (side, 260, 3)).astype(np.uint8)
    feature_metric(network)(image, image[::-1])
    window = side // 32 * 32
    assert set(seen) == {(window, window)}


CLASSES = ["background", "tumour cells", "stroma"]


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
    matrices = []
    results = evaluation.evaluate(
        found, source, config, tally=lambda row, matrix: matrices.append((row, matrix))
    )
    assert [row for row, _ in matrices] == ["right", "swapped"] * 2
    names = ["class_miou", *(f"class_dice_{c}" for c in ("background", "tumour_cells", "stroma"))]
    for row, (_, matrix) in zip(results, matrices[1::2], strict=True):
        assert [row[f"{name}_right"] for name in names] == [1] * 4
        assert [row[f"{name}_swapped"] for name in names] == [pytest.approx(1 / 3), 1, 0, 0]
        assert row["dice_swapped"] == 1
        assert not [key for key in row if key.startswith("class_") and key.endswith("nothing")]
        assert matrix.sum() == 64 * 64
        assert matrix[1, 1] == matrix[2, 2] == 0


@pytest.fixture(scope="module")
def trained_classes(tmp_path_factory):
    """(workdir of a tiny pyramid of three classes, its folder of data)."""
    folder = tmp_path_factory.mktemp("classes")
    config = tiny.config("pyramid", steps=20)
    for stage in (config, config.init_from.pyramid):
        stage.eval.every, stage.ema_decay = 20, 0.0
        stage.segmenter_optimizer.update(learning_rate=2e-2, schedule="constant")
    config.data.source = f"folder:{tiny.class_folder(folder / 'data', CLASSES)}"
    config.pyramid.update(labels="classes", classes=3)
    chain.run(config, folder / "run")
    return folder / "run", folder / "data"


def test_a_pyramid_of_classes_is_scored_by_class(trained_classes, tmp_path):
    workdir, data = trained_classes
    metrics = scored(workdir / "scale_16", tmp_path, split="all", enhancer="none")
    with (tmp_path / "out" / "per_image.csv").open() as file:
        rows = list(csv.DictReader(file))
    run = workdirs.load(workdir / "scale_16")
    assert run.stage.segmenter.heads == ("mask", "class_1", "class_2")
    segment = tiled.segmenter(run)
    shared, found, there = np.zeros((3, len(rows), 3))
    for i, row in enumerate(rows):
        maps = segment(np.asarray(Image.open(data / "images" / f"{row['name']}.png")))
        stacked = np.stack([1 - maps["mask"], maps["class_1"], maps["class_2"]])[..., 0]
        truth = np.asarray(Image.open(data / "masks" / f"{row['name']}.png"))
        for k in range(3):
            predicted = stacked.argmax(0) == k
            shared[i, k] = (predicted & (truth == k)).sum()
            found[i, k], there[i, k] = predicted.sum(), (truth == k).sum()
    assert (found.sum(0) > 0).sum() > 1
    assert ((found + there) == 0).any()  # in one image a class is neither there nor found
    with np.errstate(invalid="ignore"):
        dice, iou = 2 * shared / (found + there), shared / (found + there - shared)
    pooled = [counts.sum(0) for counts in (shared, found, there)]
    for k, name in enumerate(("background", "tumour_cells", "stroma")):
        scores = [float(row[f"class_dice_{name}_hr_to_scale_16"] or "nan") for row in rows]
        np.testing.assert_allclose(scores, dice[:, k])
        entry = metrics[f"class_dice_pooled_{name}_hr_to_scale_16"]
        assert entry["mean"] == pytest.approx(2 * pooled[0][k] / (pooled[1][k] + pooled[2][k]))
        assert entry["low"] <= entry["mean"] <= entry["high"]
    scores = [float(row["class_miou_hr_to_scale_16"]) for row in rows]
    np.testing.assert_allclose(scores, np.nanmean(iou, 1))
    whole = pooled[0] / (pooled[1] + pooled[2] - pooled[0])
    entry = metrics["class_miou_pooled_hr_to_scale_16"]
    assert (entry["mean"], entry["n"]) == (pytest.approx(whole.mean()), 4)
    # Foreground is scored as before, and so is Otsu's, which tells no classes.
    assert {"dice_hr_to_scale_16", "miou_hr_to_scale_16", "miou_otsu"} <= set(metrics)
    assert not [name for name in metrics if name.startswith("class_") and "otsu" in name]


def test_classes_are_watched_in_training_and_reported(trained_classes):
    workdir, _ = trained_classes
    for folder in (workdir / "scale_16", workdir / "pyramid"):
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        values = [row for row in map(json.loads, lines) if row["split"] == "val"]
        assert values
        assert all(0 <= row["class_miou_pooled"] < 1 for row in values)
    page = (workdir / "pyramid" / "report.html").read_text()
    for name in ("mean IoU of classes, pooled", "Dice, tumour_cells", "Classes: mean IoU pooled"):
        assert name in page


@pytest.mark.faults
@pytest.mark.parametrize("classes", [["background", "nucleus"], [*CLASSES[::2], CLASSES[1]]])
def test_data_of_other_classes_are_refused(trained_classes, tmp_path, classes):
    workdir, _ = trained_classes
    data = f"folder:{tiny.class_folder(tmp_path / 'data', classes)}"
    said = rf"classes background, tumour cells, stroma apart, .*data has {', '.join(classes)}: sc"
    with pytest.raises(UserError, match=said):
        scored(workdir, tmp_path, data=data)
    assert not (tmp_path / "out").exists()
