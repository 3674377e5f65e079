import dataclasses
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from histojax.errors import UserError
from histojax.experiments import chain
from histojax.inference import fitting, labeling, tiled
from histojax.inference.batch import predict_files
from histojax.nuclei import components
from histojax.nuclei.usenet import USENetParameters, usenet_instances
from histojax.nuclei.watershed import InstanceParameters
from histojax.runs import workdirs
from histojax.stages import build_stage
from tests import tiny


def settings_with_markers():
    config = tiny.config("segmentation")
    config.segmenter.heads = ("mask", "marker")
    return config


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The workdir of a run of a few steps, with markers."""
    workdir = tmp_path_factory.mktemp("markers") / "run"
    chain.run(settings_with_markers(), workdir)
    return workdir


def untrained():
    config = settings_with_markers()
    stage, state, _ = tiny.built("segmentation", config)
    meta = {"thresholds": {"mask": 0.5}, "mpp_in": 0.5, "mpp_out": 0.5}
    return workdirs.Run(None, config, stage, state, 0, meta)


def two_discs():
    """Maps (40, 60, 1) of two discs of radius 12 that overlap, with a marker in each."""
    y, x = np.mgrid[:40, :60]
    discs = [np.hypot(y - 20, x - middle) for middle in (20, 40)]
    mask = np.minimum(*discs) <= 12
    marker = np.minimum(*discs) <= 4
    return {
        name: m[..., None].astype(np.float32) for name, m in (("mask", mask), ("marker", marker))
    }


def test_markers_divide_what_touches():
    run = untrained()
    found = labeling.find(run, two_discs(), labeling.parameters_of(run))
    assert found.instances.max() == 2
    np.testing.assert_array_equal(found.mask, two_discs()["mask"][..., 0] > 0)
    np.testing.assert_array_equal(found.instances > 0, found.mask)
    # The two meet half way between the centres.
    assert set(found.instances[20, 20:29]) == {1}
    assert set(found.instances[20, 32:41]) == {2}


def test_a_run_without_markers_finds_connected_components():
    run = tiny.run("segmentation")
    assert labeling.parameters_of(run) is None
    maps = {"mask": two_discs()["mask"]}
    found = labeling.find(run, maps, None)
    assert found.instances.max() == 1


def test_areas_hold_for_the_scale_of_training():
    # 30 px at .5 um per px are 120 at .25: a disc of radius 5 (81 px) is too small there.
    y, x = np.mgrid[:20, :20]
    disc = (np.hypot(y - 10, x - 10) <= 5).astype(np.float32)[..., None]
    run = untrained()
    maps = {"mask": disc, "marker": disc}
    parameters = labeling.parameters_of(run)
    assert labeling.find(run, maps, parameters, mpp=0.5).instances.max() == 1
    assert labeling.find(run, maps, parameters, mpp=0.25).instances.max() == 0
    assert labeling.find(run, maps, parameters).instances.max() == 1


@pytest.mark.parametrize("markers", [True, False])
def test_what_is_larger_than_a_nucleus_can_be_is_dropped(markers):
    run = untrained() if markers else tiny.run("segmentation")
    heads = run.stage.segmenter.heads
    y, x = np.mgrid[:40, :60]
    pen = (y < 12).astype(np.float32)  # 720 px
    disc = np.hypot(y - 26, x - 30) <= 8  # 197 px
    maps = dict.fromkeys(heads, np.maximum(pen, disc)[..., None])
    assert run.meta.get("nucleus_largest") is None
    both = labeling.find(run, maps, labeling.parameters_of(run)).instances
    assert both.max() == 2
    # At half the mpp of training a limit of 100 px allows 400.
    run.meta.update(nucleus_largest=100, mpp_out=0.5)
    found = labeling.find(run, maps, labeling.parameters_of(run), mpp=0.25)
    np.testing.assert_array_equal(found.instances, disc)
    assert labeling.find(run, maps, labeling.parameters_of(run)).instances.max() == 0


def test_a_trained_run_is_fitted_to_its_val_split(trained):
    fitted = json.loads((trained / labeling.FILE).read_text())
    run = workdirs.load(trained)
    assert fitted["checkpoint"] == [run.step, run.meta["seconds"]]
    assert fitted["aji"] >= fitted["aji_before"]
    # Each value of each parameter once, but for those that it starts from.
    grid = fitting.fitted_grid(labeling.parameters_of(run), ("mask", "marker"))
    assert "distance_weight" not in grid
    assert fitted["tried"] >= 1 + sum(map(len, grid.values())) - len(grid)
    assert len(fitted["images"]) == run.config.data.synthetic.val
    parameters = labeling.parameters_of(run)
    assert dataclasses.asdict(parameters) == fitted["parameters"]
    assert parameters.mpp == run.meta["mpp_out"]
    summary = json.loads((trained / "summary.json").read_text())
    # What was fitted is what is scored with, on the same images.
    assert summary["metrics"]["aji_hr_to_s"]["mean"] == pytest.approx(fitted["aji"])
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    watched = [row["aji"] for row in rows if row["split"] == "val"]
    assert watched
    assert all(0 <= value <= 1 for value in watched)


def test_it_is_fitted_once_and_only_where_asked_for(trained, tmp_path, monkeypatch):
    shutil.copytree(trained, tmp_path / "run")
    run = workdirs.load(tmp_path / "run")
    before = labeling.parameters_of(run)
    monkeypatch.setattr(fitting, "search", None)
    assert fitting.fit_instances(run) == before
    (tmp_path / "run" / labeling.FILE).unlink()
    run.config.instances.fit = False
    fitting.fit_instances(run)
    assert not (tmp_path / "run" / labeling.FILE).exists()
    # What was fitted to another checkpoint does not count.
    changed = {
        "checkpoint": [run.step, run.meta["seconds"] + 1],
        "kind": "watershed",
        "parameters": dataclasses.asdict(before),
    }
    (tmp_path / "run" / labeling.FILE).write_text(json.dumps(changed))
    assert labeling.fitted_parameters(run) is None


def test_predict_finds_what_evaluate_scores(trained, tmp_path):
    image, _ = tiny.tissue(0, 64)
    Image.fromarray(image).save(tmp_path / "a.png")
    (made,) = predict_files(trained, [tmp_path / "a.png"], tmp_path / "out")
    run = workdirs.load(trained)
    maps = tiled.segmenter(run)(image)
    found = labeling.find(run, maps, labeling.parameters_of(run))
    assert made.nuclei == found.instances.max()


@pytest.mark.faults
@pytest.mark.parametrize(
    "text",
    [
        '{"parameters": {}}',
        '{"checkpoint": KEY, "parameters": {}}',
        '{"checkpoint": KEY, "kind": "watershed", "parameters": {"mask_threshold": 2}}',
        '{"checkpoint": KEY, "kind": "watershed", "parameters": {"colour": 2}}',
        '{"checkpoint": KEY, "kind": "usenet", "parameters": 3}',
    ],
)
def test_a_damaged_fit_is_named(text, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    key = json.dumps(labeling.checkpoint_of(workdirs.load(trained)))
    (tmp_path / "run" / labeling.FILE).write_text(text.replace("KEY", key))
    with pytest.raises(UserError, match=r"instances.json is damaged .*: remove it"):
        labeling.fitted_parameters(workdirs.load(tmp_path / "run"))


@pytest.mark.faults
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"mask_threshold": 1.5}, "mask_threshold=1.5 has to be a probability from 0 to 1"),
        ({"min_area": -1.0}, r"min_area=-1.0 has to be an area in px of 0 or more"),
        ({"contour_weight": 1.0}, "contour_weight=1 needs a map 'contour'"),
    ],
)
def test_unusable_parameters_are_refused_before_training(change, said, tmp_path):
    config = settings_with_markers()
    config.instances.watershed.update(change)
    with pytest.raises(UserError, match=said):
        chain.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_blank_glass_has_no_nuclei():
    run = untrained()
    blank = {head: np.zeros((64, 64, 1), np.float32) for head in ("mask", "marker")}
    assert not labeling.find(run, blank, labeling.parameters_of(run)).instances.any()
    assert not components.label_mask(np.zeros((4, 4))).any()


def test_usenet_takes_whole_images():
    config = settings_with_markers()
    config.instances.kind = "usenet"
    stage, state, _ = tiny.built("segmentation", config)
    meta = {"thresholds": {"mask": 0.5}, "mpp_in": None, "mpp_out": None}
    run = workdirs.Run(None, config, stage, state, 0, meta)
    parameters = labeling.parameters_of(run)
    maps = two_discs()
    whole = labeling.find(run, maps, parameters).instances
    np.testing.assert_array_equal(
        whole, usenet_instances(maps["mask"][..., 0], maps["marker"][..., 0])
    )
    assert whole.max() == 2


@pytest.mark.parametrize(("heads", "fitted"), [(("mask", "marker"), False), (("distance",), True)])
def test_weights_of_maps_that_are_predicted_are_fitted(heads, fitted):
    grid = fitting.fitted_grid(InstanceParameters(), heads)
    assert ("distance_weight" in grid) == fitted
    assert "contour_weight" not in grid
    assert "min_mask" not in grid
    assert "min_mask" in fitting.fitted_grid(USENetParameters(), heads)


@pytest.mark.faults
def test_maps_that_are_not_numbers_are_one_sentence():
    run, maps = untrained(), two_discs()
    maps["marker"][3, 4] = np.nan
    with pytest.raises(UserError, match=r"marker map holds values that are not numbers: its train"):
        labeling.find(run, maps, labeling.parameters_of(run))


@pytest.mark.faults
def test_masks_alone_are_refused_for_instances_before_training(tmp_path):
    root = tiny.folder(tmp_path / "set")
    (root / "masks").mkdir()
    for path in (root / "instances").iterdir():
        mask = (np.asarray(Image.open(path)) > 0).astype(np.uint8)
        Image.fromarray(mask).save(root / "masks" / path.name)
        path.unlink()
    config = tiny.config("segmentation")
    config.data.source = f"folder:{root}"
    config.instances.marker_from_mask = True
    with pytest.raises(UserError, match=r"'instances' is asked for, but image"):
        chain.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["watershed", "usenet"])
@pytest.mark.parametrize("from_mask", [False, True])
def test_classes_leave_nuclei_as_they_are(kind, from_mask):
    config = tiny.config("pyramid")
    config.pyramid.update(labels="classes", classes=3)
    config.instances.update(kind=kind, marker_from_mask=from_mask)
    meta = {"thresholds": {"mask": 0.5}, "mpp_in": None, "mpp_out": None}
    run = workdirs.Run(None, config, build_stage(config, {}), None, 0, meta)
    parameters = labeling.parameters_of(run)
    assert (parameters is not None) == from_mask
    maps = {"mask": two_discs()["mask"]}
    alone = labeling.find(run, maps, parameters)
    assert alone.classes is None
    left = np.arange(60)[None, :, None] < 30
    maps |= {f"class_{k}": maps["mask"] * (left == (k == 1)) for k in (1, 2)}
    found = labeling.find(run, maps, parameters)
    np.testing.assert_array_equal(found.instances, alone.instances)
    expected = np.where(alone.mask, np.where(left[..., 0], 1, 2), 0)
    np.testing.assert_array_equal(found.classes, expected)
