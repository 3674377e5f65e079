import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from histojax.errors import UserError
from histojax.evaluation import scores
from histojax.experiments import chain
from histojax.runs import run_data
from tests import tiny


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(workdir, data folder of ten patients without splits.json) of a tiny generator."""
    place = tmp_path_factory.mktemp("identity")
    root = grown(place / "data", 10)
    chain.run(config(root), place / "run")
    return place / "run", root


def config(root, **changes):
    made = tiny.config("generator", **changes)
    made.data.source = f"folder:{root}"
    return made


def grown(root, count):
    tiny.folder(root, count=count)
    (root / "splits.json").unlink()
    return root


@pytest.fixture
def copy(trained, tmp_path):
    """Copies of the workdir and its data, which has moved."""
    run, root = trained
    shutil.copytree(run, tmp_path / "run")
    shutil.copytree(root, tmp_path / "moved")
    return tmp_path / "run", tmp_path / "moved"


def names(manifest, part):
    return [entry["name"] for entry in manifest[part]]


def test_a_run_says_what_it_trains_on_and_keeps_it(trained, capsys):
    run, root = trained
    manifest = run_data.manifest_of(run)
    assert len(names(manifest, "train")) == 8
    assert sorted(names(manifest, "train") + names(manifest, "val")) == sorted(
        f"p{index}" for index in range(10)
    )
    (root / "images" / "notes.docx").touch()
    known = run_data.known_data(config(root), kept=manifest["splits"])
    assert known.manifest == manifest
    assert known.sentence.startswith("trains on 8 images of 8 groups (")
    assert known.sentence.endswith(
        "unknown scale; left out: 1 of an unknown ending in images/ (notes.docx)"
    )
    (root / "images" / "notes.docx").unlink()


def test_a_folder_that_moved_goes_on_and_keeps_its_splits_as_it_grows(copy):
    run, moved = copy
    before = (run / "manifest.json").read_bytes()
    for index in range(10, 15):
        image, labels = tiny.tissue(index)
        Image.fromarray(image).save(moved / "images" / f"p{index}.png")
        Image.fromarray(labels.astype(np.uint16)).save(moved / "instances" / f"p{index}.png")
    assert chain.run(config(moved, steps=6), run)["steps"] == 6
    assert (run / "manifest.json").read_bytes() == before
    assert json.loads((run / "config.json").read_text())["data"]["source"] == f"folder:{moved}"
    kept = run_data.kept_splits(run)
    source = run_data.open_split(config(moved), "val", kept=kept)
    assert source.names == kept["val"]
    assert source.left_out == ["5 in no split (p10, p11, p12, ...)"]
    assert len(run_data.open_split(config(moved), "all", kept=kept)) == 15


@pytest.mark.faults
def test_data_that_changed_are_refused_with_the_list(copy):
    run, moved = copy
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    kept = run_data.kept_splits(run)
    first, second = kept["train"][:2]
    path = moved / "instances" / f"{first}.png"
    labels = np.array(Image.open(path))
    labels[labels == labels.max()] = 0
    Image.fromarray(labels).save(path)
    said = rf"data of .*run has changed since the run began \(train: labels of '{first}' changed\)"
    with pytest.raises(UserError, match=said):
        chain.run(config(moved, steps=6), run)
    (moved / "images" / f"{second}.png").unlink()
    with pytest.raises(UserError, match=rf"lacks images .* trained with \(1: {second}\)"):
        chain.run(config(moved, steps=6), run)
    after = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert {p: b for p, b in after.items() if p.name != ".lock"} == {
        p: b for p, b in before.items() if p.name != ".lock"
    }


@pytest.mark.faults
def test_splits_that_changed_are_refused(tmp_path):
    root = tiny.folder(tmp_path / "data", count=4)
    chain.run(config(root), tmp_path / "run")
    (root / "splits.json").write_text(
        json.dumps({"train": ["p0", "p1"], "val": ["p2"], "test": ["p3"]})
    )
    said = "train: 'p2' is gone; val: 'p3' is gone; val: 'p2' is new"
    with pytest.raises(UserError, match=said):
        chain.run(config(root, steps=6), tmp_path / "run")


@pytest.mark.faults
@pytest.mark.parametrize("renamed", [False, True])
def test_a_training_image_among_scored_ones_is_refused_or_marked(trained, tmp_path, renamed):
    run, root = trained
    swap = tmp_path / "swap"
    shutil.copytree(root, swap)
    kept = run_data.kept_splits(run)
    leaked = kept["train"][:2]
    if renamed:  # byte copies under other names
        for folder, name in ((f, n) for f in ("images", "instances") for n in leaked):
            (swap / folder / f"{name}.png").rename(swap / folder / f"copy{name}_x.png")
        leaked = [f"copy{name}_x" for name in leaked]
    splits = {"val": [*kept["val"], *leaked], "train": kept["train"][2:]}
    (swap / "splits.json").write_text(json.dumps(splits))
    data = f"folder:{swap}"
    with pytest.raises(UserError, match=r"2 of the 4 images to score were seen in training"):
        scores.score_workdir(run, data=data, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    table = scores.score_workdir(run, data=data, output=tmp_path / "out", allow_seen=True)
    assert sorted(table["seen"]) == sorted(leaked)
    with (tmp_path / "out" / "per_image.csv").open() as file:
        marks = {row["name"]: row["seen"] for row in csv.DictReader(file)}
    assert marks == {name: "" for name in kept["val"]} | {n: "seen in training" for n in leaked}


@pytest.mark.faults
def test_val_images_that_are_copies_of_training_images_are_refused_before_training(tmp_path):
    root = tiny.folder(tmp_path / "data", count=4)
    for folder in ("images", "instances"):
        shutil.copy(root / folder / "p0.png", root / folder / "scan9.png")
    (root / "splits.json").write_text(
        json.dumps({"train": ["p0", "p1", "p2"], "val": ["p3", "scan9"]})
    )
    said = r"1 of the 2 images of the val split of .* \('scan9' has the pixels of 'p0'\): take them"
    with pytest.raises(UserError, match=said):
        chain.run(config(root), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.faults
def test_what_the_start_of_a_run_has_seen_counts_as_seen(trained, tmp_path):
    run, root = trained
    manifest = run_data.manifest_of(run)
    (tmp_path / "other").mkdir()
    shutil.copytree(root, tmp_path / "other" / "data")
    turned = {"train": manifest["splits"]["val"], "val": manifest["splits"]["train"][:1]}
    (tmp_path / "other" / "data" / "splits.json").write_text(json.dumps(turned))
    made = config(tmp_path / "other" / "data")
    made.init_from.generator = str(run)
    with pytest.raises(UserError, match=r"1 of the 1 images of the val split of .* were seen in"):
        chain.run(made, tmp_path / "run")


@pytest.mark.faults
def test_a_val_image_that_overlaps_a_training_image_is_refused(tmp_path):
    root = tmp_path / "data"
    size = 128
    image, labels = tiny.tissue(3, 3 * size)
    for folder in ("images", "instances"):
        (root / folder).mkdir(parents=True)
    # A window at (30, 45) from another has 0.766 x 0.648 of it in common.
    for name, (y, x) in {"a": (0, 0), "b": (2 * size, 2 * size), "c": (30, 45)}.items():
        part = np.s_[y : y + size, x : x + size]
        Image.fromarray(image[part]).save(root / "images" / f"{name}.png")
        Image.fromarray(labels[part].astype(np.uint16)).save(root / "instances" / f"{name}.png")
    (root / "splits.json").write_text(json.dumps({"train": ["a", "b"], "val": ["c"]}))
    with pytest.raises(UserError, match=r"'c' shows tissue of 'a', on (49|50)% of the smaller one"):
        run_data.known_data(config(root), kept=None, landmarks={})
    (root / "splits.json").write_text(json.dumps({"train": ["a", "c"], "val": ["b"]}))
    assert len(run_data.known_data(config(root), kept=None, landmarks={}).landmarks) == 2


@pytest.mark.faults
def test_another_scale_is_a_change(copy):
    run, moved = copy
    (moved / "dataset.json").write_text('{"mpp": 0.5}')
    with pytest.raises(UserError, match=r"changed since the run began \(mpp: None -> 0\.5\): put"):
        chain.run(config(moved, steps=6), run)


def test_what_has_grown_without_labels_is_left_out(copy):
    run, moved = copy
    image, _ = tiny.tissue(20)
    Image.fromarray(image).save(moved / "images" / "p20.png")
    assert chain.run(config(moved, steps=4), run)["steps"] == 4


@pytest.mark.faults
def test_damaged_landmarks_are_refused(tmp_path):
    assert run_data.landmarks_in(tmp_path) == {}
    (tmp_path / "landmarks.npz").write_bytes(b"PK not a zip")
    with pytest.raises(UserError, match=r"landmarks\.npz is damaged"):
        run_data.landmarks_in(tmp_path)


def test_data_that_moved_and_grew_are_scored_by_the_runs_own_splits(copy, caplog):
    run, moved = copy
    kept = run_data.kept_splits(run)
    for index in range(10, 15):
        image, labels = tiny.tissue(index)
        Image.fromarray(image).save(moved / "images" / f"p{index}.png")
        Image.fromarray(labels.astype(np.uint16)).save(moved / "instances" / f"p{index}.png")
    output = run.parent / "out"
    table = scores.score_workdir(run, data=f"folder:{moved}", output=output)
    assert (table["data"]["images"], table["seen"]) == (len(kept["val"]), {})
    assert not caplog.messages
    image = np.array(Image.open(moved / "images" / f"{kept['val'][0]}.png"))
    image[0, 0] ^= 1
    Image.fromarray(image).save(moved / "images" / f"{kept['val'][0]}.png")
    scores.score_workdir(run, data=f"folder:{moved}", output=output)
    (said,) = caplog.messages
    assert said.endswith(f"has changed since training: image of '{kept['val'][0]}' changed")
