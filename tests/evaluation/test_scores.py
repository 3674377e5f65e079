import csv
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from histojax.errors import DiskError, UserError
from histojax.evaluation import scores as evaluation
from histojax.evaluation import words
from histojax.evaluation.rows import by_classical
from histojax.experiments import chain
from histojax.imaging import enlargement
from histojax.inference import tiled
from histojax.runs import workdirs
from tests import tiny
from tests.metrics.test_glands import by_loops

IMAGE_METRICS = {
    "psnr_rgb",
    "ssim_rgb",
    "psnr_y",
    "ssim_y",
    "power_spectrum_error",
    "blur_error",
    "grid",
    "st_lpips",
}
MASK_METRICS = {"dice", "iou", "miou", "aji", "aji_plus", "pq", "dq", "sq", "f1", "merged"}


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


def test_a_chain_is_scored_in_every_row(trained_chain):
    table = json.loads((trained_chain / "summary.json").read_text())
    networks = ["generator", "srgan", "joint"]
    enhancers = [*enlargement.ENHANCERS, *networks]
    rows = [
        "classical",
        "bicubic_to_s",
        "generator_to_s",
        "srgan_to_s",
        "hr_to_s",
        "joint",
        "hr_to_joint",
    ]
    expected = {f"{metric}_{name}" for metric in IMAGE_METRICS for name in enhancers}
    expected |= {f"{metric}_{row}" for metric in MASK_METRICS for row in rows} | {"grid_hr"}
    expected |= {f"drift_{name}" for name in enhancers[1:]}
    features = {key for key in table["metrics"] if key.startswith("feature_distance_")}
    assert features == {f"feature_distance_segmenter_{name}" for name in enhancers}
    assert set(table["metrics"]) == expected | features
    assert set(table["differences"]) == {
        *(
            f"{m}_{n} - {m}_{base}"
            for m in ("psnr_rgb", "ssim_rgb", "st_lpips")
            for n in networks
            for base in ("bicubic", "linear")
        ),
        *(f"{m}_joint - {m}_{row}" for m in ("dice", "aji") for row in rows[1:5]),
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
        "classical",
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


def test_a_folder_of_glands_is_scored_by_glands(trained_chain, tmp_path):
    root = tiny.folder(tmp_path / "data", count=2)
    (root / "dataset.json").write_text(json.dumps({"objects": "glands"}))
    segmenter = trained_chain / "segmentation"
    metrics = scored(segmenter, tmp_path, data=f"folder:{root}", split="all", enhancer="none")
    names = {f"object_{name}" for name in ("f1", "dice", "hausdorff")}
    rows = ("classical", "hr_to_s")
    assert {f"{name}_{row}" for name in names for row in rows} == {
        key for key in metrics if key.startswith("object_")
    }
    find = by_classical(None)
    with (tmp_path / "out" / "per_image.csv").open() as file:
        images = list(csv.DictReader(file))
    for image in images:
        hr, instances = tiny.tissue(int(image["name"][1:]))
        expected = by_loops(find(hr).instances, instances)
        assert {name: float(image[f"{name}_classical"]) for name in names} == pytest.approx(
            expected
        )


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
def test_a_split_without_images_is_refused(tmp_path):
    # The models in the box take no val images from the built-in tissue.
    with pytest.raises(UserError, match="synthetic has no image in the split val: take another"):
        scored(workdirs.place_of("enhance-x4-clean"), tmp_path, data="synthetic", split="val")


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
    assert metrics["dice_classical"]["mean"] == 1  # nothing to find, nothing found
    undefined = {name for name, m in metrics.items() if not np.isfinite(m["mean"])}
    # So do generators whose phases are alike and whose low frequencies are the input's.
    rows = (*enlargement.ENHANCERS, "generator", "srgan", "joint")
    assert undefined == {f"psnr_{colors}_{row}" for colors in ("rgb", "y") for row in rows}
    lines = words.results({"metrics": metrics, "differences": {}})
    assert not re.search(r"\bnan\b|\binf\b", " ".join(lines))
    assert lines[0].endswith("undefined in the linear image (3 of 3 images left out)")
    assert "NaN" not in (tmp_path / "out" / "metrics.json").read_text()
    assert len(list((tmp_path / "out" / "figures").glob("*.png"))) == 3


@pytest.mark.faults
@pytest.mark.parametrize("size", [(1, 1), (18, 64)])
def test_an_image_too_small_to_score_is_named(trained_chain, tmp_path, size):
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


CLASSES = ["background", "tumour cells", "stroma"]


@pytest.fixture(scope="module")
def trained_classes(tmp_path_factory):
    """(workdir of the lowest scale of a tiny pyramid of three classes, its folder of data)."""
    folder = tmp_path_factory.mktemp("classes")
    config = tiny.config("pyramid", steps=20).init_from.pyramid.copy_and_resolve_references()
    config.eval.every, config.ema_decay = 20, 0.0
    config.segmenter_optimizer.update(learning_rate=2e-2, schedule="constant")
    config.data.source = f"folder:{tiny.class_folder(folder / 'data', CLASSES)}"
    config.pyramid.update(labels="classes", classes=3)
    chain.run(config, folder / "run")
    return folder / "run", folder / "data"


def test_a_pyramid_of_classes_is_scored_by_class(trained_classes, tmp_path):
    workdir, data = trained_classes
    metrics = scored(workdir, tmp_path, split="all", enhancer="none")
    with (tmp_path / "out" / "per_image.csv").open() as file:
        rows = list(csv.DictReader(file))
    run = workdirs.load(workdir)
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
    # Foreground is scored as before, and so is the classical method's, which tells no classes.
    assert {"dice_hr_to_scale_16", "miou_hr_to_scale_16", "miou_classical"} <= set(metrics)
    assert not [name for name in metrics if name.startswith("class_") and "classical" in name]


def test_classes_are_watched_in_training_and_reported(trained_classes):
    workdir, _ = trained_classes
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    values = [row for row in map(json.loads, lines) if row["split"] == "val"]
    assert values
    assert all(0 <= row["class_miou_pooled"] < 1 for row in values)
    page = (workdir / "report.html").read_text()
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


@pytest.mark.faults
def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_scored(
    trained_chain, tmp_path, monkeypatch
):
    monkeypatch.setattr(evaluation, "score_images", None)
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError, match=r"file/out failed \(Not a directory"):
        scored(trained_chain / "generator", tmp_path / "file")


def test_a_baseline_stands_before_a_segmenter(trained_chain, tmp_path):
    metrics = scored(trained_chain / "segmentation", tmp_path, enhancer="linear")
    rows = {key.removeprefix("dice_") for key in metrics if key.startswith("dice_")}
    assert rows == {"classical", "bicubic_to_s", "linear_to_s", "hr_to_s"}
    assert metrics["psnr_rgb_linear"]["mean"] != metrics["psnr_rgb_bicubic"]["mean"]
