import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

from histojax.config import FORMAT, claim_workdir
from histojax.errors import UserError
from histojax.runs import checkpoint, workdirs
from histojax.stages import build_stage
from histojax.training import sharding
from histojax.zoo import registry
from tests import tiny


def test_a_chain_stands_for_its_last_stage(trained_chain):
    assert workdirs.stage_folder(trained_chain) == trained_chain / "joint"
    assert workdirs.stage_folder(trained_chain / "srgan") == trained_chain / "srgan"
    run = workdirs.load(trained_chain)
    assert run.config.name == "joint"
    assert run.workdir == trained_chain / "joint"
    assert run.meta["thresholds"] == {"mask": 0.5}
    assert not run.state.opt_state


def test_the_best_checkpoint_is_used_and_else_the_last(trained_chain, tmp_path):
    folder = tmp_path / "generator"
    shutil.copytree(trained_chain / "generator", folder)
    (best,) = (folder / "checkpoints" / "best").glob("[0-9]*")
    assert workdirs.load(folder).step == int(best.name)
    shutil.rmtree(folder / "checkpoints" / "best")
    run = workdirs.load(folder)
    assert run.step == 4
    assert tiny.same(run.state.params, tiny.last_state(folder).params)


def test_averaged_variables_start_the_next_stage(trained_chain):
    run = workdirs.load(trained_chain / "srgan")
    variables = workdirs.initial_variables(trained_chain / "srgan")
    assert sorted(variables) == ["discriminator", "generator"]
    assert tiny.same(variables["generator"], run.state.ema["generator"])
    assert not tiny.same(variables["generator"]["params"], run.state.params["generator"])
    assert tiny.same(variables["discriminator"]["params"], run.state.params["discriminator"])


def test_a_name_in_the_box_goes_before_what_lies_here(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nuclei-40x").mkdir()
    assert workdirs.place_of("nuclei-40x") == registry.path_of("nuclei-40x")
    assert "./nuclei-40x names what lies here" in capsys.readouterr().err
    assert workdirs.place_of("./nuclei-40x") == pathlib.Path("nuclei-40x")
    assert capsys.readouterr().err == ""


@pytest.mark.faults
def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"is not a workdir: it holds no config\.json"):
        workdirs.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"name": "joint"}))
    with pytest.raises(UserError, match=r"the stage joint of .* is not trained yet: finish it"):
        workdirs.load(tmp_path)


@pytest.mark.faults
def test_a_run_begun_but_without_a_checkpoint_is_refused(trained_chain, tmp_path):
    shutil.copy(trained_chain / "generator" / "config.json", tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match="holds no checkpoint yet"):
        workdirs.load(tmp_path)


@pytest.mark.faults
def test_a_checkpoint_of_another_architecture_lists_every_name(trained_chain, tmp_path):
    folder = tmp_path / "generator"
    shutil.copytree(trained_chain / "generator", folder)
    values = json.loads((folder / "config.json").read_text())
    values["generator"]["blocks"] = 2
    values["generator"]["activation"] = "prelu"
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match="is of another architecture") as failure:
        workdirs.load(folder)
    missing = [line for line in str(failure.value).splitlines() if line.startswith("- params/")]
    assert any("block_1/grouped/kernel" in line for line in missing)
    assert not [line for line in str(failure.value).splitlines() if line.startswith("+ ")]


@pytest.mark.faults
def test_a_run_of_a_newer_program_is_refused(trained_chain, tmp_path):
    folder = tmp_path / "generator"
    shutil.copytree(trained_chain / "generator", folder)
    values = json.loads((folder / "config.json").read_text())
    # What a newer program may hold: a stage that this one has never heard of.
    values.update(format=FORMAT + 1, stage="diffusion")
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"config\.json has format 4, .* update histojax"):
        workdirs.load(folder)


def test_a_run_in_bfloat16_enhances_as_one_in_float32(trained_chain, tmp_path):
    shutil.copytree(trained_chain / "generator", tmp_path / "run")
    values = json.loads((tmp_path / "run" / "config.json").read_text())
    (tmp_path / "run" / "config.json").write_text(json.dumps({**values, "precision": "bfloat16"}))
    lr = np.full((1, 8, 8, 3), 128, np.uint8)
    made = [
        np.asarray(run.stage.enhance(run.state, lr), int)
        for run in map(workdirs.load, (trained_chain / "generator", tmp_path / "run"))
    ]
    assert made[0].shape == (1, 32, 32, 3)
    assert np.abs(made[0] - made[1]).max() <= 3


@pytest.mark.faults
def test_networks_that_cannot_be_made_are_named():
    config = tiny.config()
    config.generator.cardinality = 3
    with pytest.raises(UserError, match=r"generator: its networks cannot be made: .* 3 groups"):
        workdirs.fresh_state(build_stage(config, {}), config)


def test_a_checkpoint_of_many_devices_is_used_on_one(tmp_path):
    config = tiny.config()
    mesh = sharding.data_mesh(jax.devices()[:2])
    stage = build_stage(config, {})
    state = sharding.replicate(workdirs.fresh_state(stage, config), mesh)
    claim_workdir(config, tmp_path)
    series = checkpoint.Series(tmp_path / "checkpoints" / "last")
    series.save(1, state, data={}, meta={"thresholds": {}})
    run = workdirs.load(tmp_path)
    assert all(len(leaf.devices()) == 1 for leaf in jax.tree.leaves(run.state.params))
    assert tiny.same(run.state.params, state.params)
