import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from histojax import chain, config, runs, train
from histojax.errors import UserError
from tests import tiny

NAMES = ["generator", "segmentation", "srgan", "joint"]


@pytest.fixture
def no_training(monkeypatch):
    """Any step that is taken is a failure."""

    def refuse(*args, **kwargs):
        raise AssertionError("a stage was trained")

    monkeypatch.setattr(train, "train", refuse)


def test_stages_come_in_the_order_they_start_from_each_other():
    assert [stage.name for stage in chain.stages_of(tiny.config("joint"))] == NAMES
    assert [stage.name for stage in chain.stages_of(tiny.config("generator"))] == ["generator"]


def test_two_different_stages_of_one_name_are_refused():
    settings = tiny.config("joint")
    other = settings.init.segmenter.copy_and_resolve_references()
    other.segmenter.features = 12
    settings.init.segmenter = other
    with pytest.raises(UserError, match=r"called 'segmentation' but differ in segmenter.features"):
        chain.stages_of(settings)


def test_a_chain_leaves_a_workdir_for_every_stage_and_one_for_all(trained_chain):
    for folder in (trained_chain, *(trained_chain / name for name in NAMES)):
        for name in ("config.json", "summary.json", "report.html"):
            assert (folder / name).is_file(), folder / name
    summary = json.loads((trained_chain / "summary.json").read_text())
    assert list(summary["stages"]) == NAMES
    assert summary["name"] == "joint"
    trained = [stage["summary"]["seconds"] for stage in summary["stages"].values()]
    assert summary["training_seconds"] == pytest.approx(sum(trained))
    own = json.loads((trained_chain / "generator" / "summary.json").read_text())
    assert own["steps"] == 4
    assert own["versions"]["jax"] == jax.__version__
    assert own["data"]["images"] == 2
    assert set(own["parameters"]) == {"generator"}
    assert own["data"]["fingerprint"]


def test_a_second_call_trains_nothing(trained_chain, tmp_path, no_training, capsys):
    shutil.copytree(trained_chain, tmp_path / "run")
    summary = chain.run(tiny.config("joint"), tmp_path / "run")
    assert summary == json.loads((trained_chain / "summary.json").read_text())
    said = capsys.readouterr().err
    for name in NAMES:
        assert f"{name}: done at step 4" in said
    assert "everything is done" in said


def test_a_missing_stage_alone_is_trained_again(trained_chain, tmp_path, monkeypatch):
    shutil.copytree(trained_chain, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "srgan")
    trained = []

    def note(settings, workdir, starts):
        trained.append((settings.name, sorted(starts)))
        raise UserError("far enough")

    monkeypatch.setattr(train, "train", note)
    with pytest.raises(UserError, match="far enough"):
        chain.run(tiny.config("joint"), tmp_path / "run")
    assert trained == [("srgan", ["generator", "segmenter"])]


def test_a_differing_config_is_refused_with_its_fields(trained_chain, no_training):
    before = (trained_chain / "config.json").read_text()
    settings = tiny.config("joint")
    settings.loss.mask_weight = 0.5
    settings.init.generator.init.generator.optimizer.b1 = 0.8
    with pytest.raises(UserError) as failure:
        chain.run(settings, trained_chain)
    said = str(failure.value)
    assert "init.generator.init.generator.optimizer.b1: 0.9 -> 0.8" in said
    assert "loss.mask_weight: " in said
    assert said.count("->") == 2
    assert (trained_chain / "config.json").read_text() == before


def test_training_length_may_change_and_the_run_goes_on(trained_chain, tmp_path, capsys):
    workdir = tmp_path / "generator"
    shutil.copytree(trained_chain / "generator", workdir)
    chain.run(tiny.config("generator", steps=6), workdir)
    assert "going on from step 4" in capsys.readouterr().err
    assert json.loads((workdir / "summary.json").read_text())["steps"] == 6
    assert int(tiny.last_state(workdir).step) == 6


def test_a_stage_that_others_started_from_is_not_lengthened(trained_chain, tmp_path, no_training):
    workdir = tmp_path / "run"
    shutil.copytree(trained_chain, workdir)
    settings = tiny.config("joint")
    settings.init.generator.init.generator.steps = 6
    with pytest.raises(UserError) as failure:
        chain.run(settings, workdir)
    assert str(failure.value).startswith(
        "generator would be trained further, but srgan, joint started from it as it was: "
        f"remove {workdir}/srgan, {workdir}/joint to have them trained anew"
    )
    for name in ("srgan", "joint"):
        shutil.rmtree(workdir / name)
    with pytest.raises(AssertionError, match="a stage was trained"):
        chain.run(settings, workdir)


def test_the_last_stage_may_always_be_lengthened(trained_chain, tmp_path, no_training):
    shutil.copytree(trained_chain, tmp_path / "run")
    settings = tiny.config("joint")
    settings.steps = 6
    with pytest.raises(AssertionError, match="a stage was trained"):
        chain.run(settings, tmp_path / "run")


def test_a_bad_value_of_the_last_stage_is_found_before_the_first_is_trained(tmp_path, no_training):
    for field, value, message in (
        ("loss.pixel", "l3", "loss.pixel='l3' is not known"),
        ("segmenter.features", 6, "features=6 is not a multiple of 4"),
        ("loss.adversarial.form", "minimax", "loss.adversarial.form='minimax' is not known"),
        ("data.crop", 20, r"joint: .*an image of 20 x 20 pixels does not fit"),
    ):
        settings = tiny.config("joint")
        if field == "data.crop":
            for stage in chain.stages_of(settings):
                stage.get("segmenter", {}).update(depth=3)
        settings.update_from_flattened_dict({field: value})
        with pytest.raises(UserError, match=message):
            chain.run(settings, tmp_path / "run")
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("name", "scale"), [("generator", 2), ("joint", 3), ("srgan_srresnet", 8)])
def test_every_scale_factor_is_rehearsed(name, scale):
    settings = tiny.CONFIGS[name].get_config("smoke")
    settings.data.scale = scale
    ordered = chain.stages_of(settings)
    assert {stage.data.scale for stage in ordered} == {scale}
    chain.rehearse(ordered)


@pytest.mark.parametrize("scale", [0, 1, 5, 6])
def test_another_scale_factor_is_refused(scale, tmp_path, no_training):
    settings = tiny.CONFIGS["joint"].get_config("smoke")
    settings.data.scale = scale
    with pytest.raises(UserError, match=rf"scale factor {scale} .*one of \[2, 3, 4, 8\]"):
        chain.run(settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_shifted_pairs_are_found_before_anything_is_trained(tmp_path, no_training):
    root = tiny.folder(tmp_path / "data", count=3, size=256, lr=4)
    settings = tiny.config("generator")
    settings.data.source = f"folder:{root}"
    chain.rehearse([settings])
    image = np.asarray(Image.open(root / "images" / "p2.png"))
    tiny.write_lr(root, "p2", np.roll(image, -3, axis=0), 4)  # of the val split
    with pytest.raises(UserError, match=r"1 of 1, 'p2' the furthest, (2\.9|3\.0|3\.1) hr px up"):
        chain.run(settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    settings.data.max_shift = 4.0
    chain.rehearse([settings])


def test_a_source_is_checked_once_for_all_stages(tmp_path, monkeypatch):
    root = tiny.folder(tmp_path / "data", lr=4)
    settings = tiny.config("srgan")
    for stage in chain.stages_of(settings):
        stage.data.source = f"folder:{root}"
    checked = []
    monkeypatch.setattr(
        chain, "check_registration", lambda source, scale, limit: checked.append(source.split)
    )
    chain.rehearse(chain.stages_of(settings))
    assert checked == ["train", "val"]


def test_unlabelled_images_are_found_before_the_generator_is_trained(tmp_path, no_training):
    root = tiny.folder(tmp_path / "data")
    (root / "instances" / "p1.png").unlink()
    settings = tiny.config("joint")
    for stage in chain.stages_of(settings):
        stage.data.source = f"folder:{root}"
    with pytest.raises(UserError, match="p1"):
        chain.run(settings, tmp_path / "run")


def test_a_run_is_started_from_by_its_folder(trained_chain):
    settings = tiny.config("srgan")
    generator = trained_chain / "generator"
    settings.init = ConfigDict(
        {"generator": str(generator), "segmenter": str(trained_chain / "segmentation")}
    )
    chain.rehearse(chain.stages_of(settings))
    starts = chain.starting_variables(
        settings, lambda start: runs.starting_variables(pathlib.Path(start))
    )
    assert sorted(starts) == ["generator", "segmenter"]
    run = runs.load(generator)
    assert tiny.same(starts["generator"], run.state.ema["generator"])


def test_a_generator_run_brings_its_discriminator(trained_chain):
    settings = tiny.config("joint")
    settings.init = ConfigDict({"generator": str(trained_chain / "srgan"), "segmenter": ""})
    starts = chain.starting_variables(
        settings, lambda start: runs.starting_variables(pathlib.Path(start))
    )
    assert sorted(starts) == ["discriminator", "generator"]


def test_a_run_without_the_network_is_refused(trained_chain, tmp_path, no_training):
    settings = tiny.config("srgan")
    folder = str(trained_chain / "segmentation")
    settings.init = ConfigDict({"generator": folder, "segmenter": folder})
    with pytest.raises(UserError, match=r"init\.generator=.*segmentation holds no generator, but"):
        chain.run(settings, tmp_path / "run")


def test_a_run_of_another_architecture_is_refused_name_by_name(
    trained_chain, tmp_path, no_training
):
    settings = tiny.config("srgan")
    settings.generator.features = 12
    settings.init = ConfigDict(
        {
            "generator": str(trained_chain / "generator"),
            "segmenter": str(trained_chain / "segmentation"),
        }
    )
    with pytest.raises(UserError, match=r"of init\.generator is of another architecture") as found:
        chain.run(settings, tmp_path / "run")
    assert "~ params/block_0/reduce/kernel stored (1, 1, 8, 8), needed (1, 1, 12, 8)" in str(
        found.value
    )


def test_a_chain_claims_its_folder_with_its_stages(trained_chain):
    assert config.read(trained_chain / "config.json")["chain"] == NAMES
