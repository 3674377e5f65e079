import json
import socket

import numpy as np
import pytest

from histojax import files
from histojax.errors import UserError
from histojax.evaluation import comparison, scores
from histojax.experiments import chain
from histojax.imaging.labels import read_labels
from histojax.inference import batch, labeling, model_export
from histojax.runs import run_data, workdirs
from histojax.zoo import model_file, registry
from tests import commands, tiny

ABOUT = {"licence": "CC0-1.0", "summary": "A test."}


@pytest.fixture(scope="module")
def exported(trained_chain, tmp_path_factory):
    """A joint run as a file, parameters in 32 bits."""
    path = tmp_path_factory.mktemp("models") / "joint.safetensors"
    model_export.export(trained_chain, path, ABOUT, half=False)
    return path


@pytest.fixture(scope="module")
def trained_use_net(tmp_path_factory):
    """A run whose post-processing was fitted."""
    workdir = tmp_path_factory.mktemp("use_net") / "run"
    chain.run(tiny.config("use_net"), workdir)
    return workdir


def test_a_model_is_opened_as_its_run_is(trained_chain, exported):
    run, model = workdirs.load(trained_chain), workdirs.load(exported)
    assert (model.workdir, model.step, model.config.name) == (exported, run.step, "joint")
    for name in ("thresholds", "mpp_in", "mpp_out", "classes", "data", "nucleus_diameter"):
        assert model.meta[name] == run.meta[name]
    assert sorted(model.state.params) == ["generator", "segmenter"]
    for name in model.state.params:
        averaged = (r.state.variables(name, averaged=True) for r in (run, model))
        assert tiny.same(*averaged)
    assert model_export.agrees(model_file.read(exported), model)
    assert workdirs.step_of(exported) == run.step
    assert run_data.manifest_of(exported) == run.meta["data"]


@pytest.mark.parametrize("name", registry.entries())
def test_each_model_in_the_box_makes_what_it_made_as_it_was_written(name):
    place = registry.path_of(name)
    assert model_export.agrees(model_file.read(place), workdirs.load(place))


def test_a_model_predicts_what_its_run_predicts(trained_chain, exported, tmp_path):
    tiny.write_tiff(tmp_path / "a.tif", tiny.tissue(5, 64)[0], mpp=1.0)
    made = [
        batch.predict_files(place, [tmp_path / "a.tif"], tmp_path / name)[0]
        for name, place in (("run", trained_chain), ("model", exported))
    ]
    for kind in ("labels", "sr.labels"):
        first, second = (read_labels(one.files[kind]) for one in made)
        np.testing.assert_array_equal(first, second)
    assert "joint.safetensors" in (tmp_path / "model" / "index.html").read_text()


def test_a_model_needs_no_network(exported, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    tiny.write_tiff(tmp_path / "a.tif", tiny.tissue(5, 64)[0], mpp=1.0)
    assert batch.predict_files(exported, [tmp_path / "a.tif"], tmp_path / "out")


def test_two_models_are_compared(exported, trained_chain, tmp_path):
    data = tiny.folder(tmp_path / "data", count=2, mpp=0.25, first=30)
    compared = comparison.compare(
        [exported, trained_chain / "joint"], tmp_path / "out", data=f"folder:{data}", split="all"
    )
    # One is the other in a file, so they score alike.
    for metric, of_runs in compared["scores"]["sr"].items():
        assert of_runs["joint.safetensors"] == of_runs["joint"], metric


def test_what_was_fitted_goes_along(trained_use_net, tmp_path):
    path = tmp_path / "a.safetensors"
    run = workdirs.load(trained_use_net)
    model_export.export(trained_use_net, path, ABOUT)
    assert labeling.parameters_of(workdirs.load(path)) == labeling.parameters_of(run)
    # Exported once more from the file, it is the same model.
    model_export.export(path, tmp_path / "b.safetensors", ABOUT)
    first, second = (model_file.read(tmp_path / f"{n}.safetensors") for n in "ab")
    assert tiny.same(first.variables, second.variables)
    # It descends from the first file, and is else the same.
    parent = {"name": "a", "sha256": files.digest_of(path), "licence": "CC0-1.0"}
    assert second.meta["data"].pop("models") == [parent]
    assert first.meta["data"].pop("models", []) == []
    assert first.meta == second.meta


def test_a_model_knows_the_images_it_has_seen(exported, tmp_path):
    source = run_data.open_split(workdirs.config_of(exported), "train")
    said = rf"seen in training of .*joint\.safetensors \({source.names[0]!r}"
    with pytest.raises(UserError, match=said):
        run_data.seen_in(source, [exported], one_set=True, allowed=False)


@pytest.mark.faults
def test_scores_of_a_model_need_a_folder(exported):
    with pytest.raises(UserError, match=r"--output is missing: .*joint\.safetensors has no folder"):
        scores.own_folder(exported)


def test_a_run_starts_from_a_model(exported, tmp_path):
    config = tiny.config("generator")
    config.init_from.generator = str(exported)
    chain.run(config, tmp_path / "run")
    before = run_data.manifest_of(tmp_path / "run")["before"]
    seen = {entry["name"] for entry in run_data.manifest_of(exported)["train"]}
    assert seen <= {entry["name"] for entry in before}
    # What is made of it names what it descends from, and inherits its licence.
    tuned = tmp_path / "tuned.safetensors"
    model_export.export(tmp_path / "run", tuned, {"licence": "", "summary": ""})
    parent = {"name": "joint", "sha256": files.digest_of(exported), "licence": "CC0-1.0"}
    assert run_data.manifest_of(tuned)["models"] == [parent]
    assert model_file.read(tuned).about["licence"] == "CC0-1.0"


def test_a_model_that_is_exported_once_more_keeps_licence_and_summary(exported, tmp_path):
    again = tmp_path / "again.safetensors"
    model_export.export(exported, again, {"licence": "", "summary": ""}, half=False)
    about = model_file.read(again).about
    assert (about["licence"], about["summary"]) == ("CC0-1.0", "A test.")


def test_a_run_that_started_from_a_model_says_its_licence(exported, tmp_path, capsys):
    config = tiny.config("generator")
    config.init_from.generator = str(exported)
    chain.run(config, tmp_path / "run")
    workdirs._say_licence.cache_clear()
    capsys.readouterr()
    workdirs.load(tmp_path / "run")
    assert "run: weights under CC0-1.0; for research, not for diagnosis" in capsys.readouterr().err
    # A copy without an ending says it too.
    (tmp_path / "mine").write_bytes(exported.read_bytes())
    workdirs.load(tmp_path / "mine")
    assert "mine: weights under CC0-1.0" in capsys.readouterr().err


@pytest.mark.faults
def test_a_licence_that_is_inherited_cannot_be_left_out(tmp_path):
    for given in ("CC0-1.0", "CC-BY-4.0"):
        about = {"licence": given, "summary": ""}
        with pytest.raises(UserError, match=r"leaves out CC-BY-NC-SA-4\.0, under which enhance-x4"):
            model_export.export(registry.path_of("enhance-x4-clean"), tmp_path / "a", about)
    both = {"licence": "CC-BY-NC-SA-4.0 AND CC-BY-4.0", "summary": ""}
    path = tmp_path / "a.safetensors"
    model_export.export(registry.path_of("enhance-x4-clean"), path, both)
    assert model_file.read(path).about["licence"] == both["licence"]


def test_licences_are_joined_without_those_that_are_not_stated():
    models = [{"licence": name} for name in ("CC-BY-4.0", "", "CC0-1.0", "CC-BY-4.0")]
    assert model_file.licence_of(models) == "CC-BY-4.0 AND CC0-1.0"
    assert model_file.licence_of([]) == ""


@pytest.mark.faults
def test_a_run_that_began_with_another_model_does_not_go_on(exported, tmp_path):
    start = tmp_path / "start.safetensors"
    start.write_bytes(exported.read_bytes())
    config = tiny.config("generator")
    config.init_from.generator = str(start)
    chain.run(config, tmp_path / "run")
    model_export.export(exported, start, ABOUT, half=True)
    with pytest.raises(UserError, match="init_from: another start than it began with"):
        chain.run(config, tmp_path / "run")


def test_a_pyramid_keeps_all_its_scales(tmp_path):
    run = tiny.run("pyramid")
    names = {f"{kind}_{scale}" for kind in ("generator", "segmenter") for scale in range(2)}
    assert set(workdirs.used_networks(run.state)) == names


def test_places_on_the_disk_are_left_out(exported, trained_chain, tmp_path):
    assert str(trained_chain).encode() not in exported.read_bytes()
    values = {
        "source": "mix:folder:/a/b c/d=0.5,folder:e/=0.5,synthetic=1",
        "init_from": {"generator": "/home/me/run"},
        "pretrained": {"path": "/x"},
        "stain": {"target": "/home/me/ref.png"},
        "targets": {"target": "patients/Smith_John/ref.png"},
        "extra": "folder:/data/Smith=J/set",
    }
    assert model_export.without_places({"data": values}) == {
        "data": {
            "source": "mix:folder:d=0.5,folder:e=0.5,synthetic=1",
            "init_from": {},
            "pretrained": {"path": ""},
            "stain": {"target": "ref.png"},
            "targets": {"target": "ref.png"},
            "extra": "folder:set",
        }
    }


def test_the_command_writes_a_file_that_predict_takes(trained_use_net, tmp_path):
    path = tmp_path / "mine.safetensors"
    flags = [f"--workdir={trained_use_net}", "--licence=CC0-1.0"]
    status, out, _ = commands.run("export", *flags, f"--output={path}")
    assert (status, out) == (0, f"{path}: {path.stat().st_size:,} bytes, licence CC0-1.0\n")
    tiny.write_tiff(tmp_path / "a.tif", tiny.tissue(5, 64)[0], mpp=0.25)
    flags = [f"--input={tmp_path / 'a.tif'}", f"--output={tmp_path / 'out'}"]
    status, _, err = commands.run("predict", f"--model={path}", *flags)
    assert (status, "weights under CC0-1.0; for research, not for diagnosis" in err) == (0, True)


@pytest.mark.faults
@pytest.mark.parametrize("file", ["nuclei-40x.safetensors", "../zoo/mine.safetensors"])
def test_no_model_in_the_box_is_overwritten(file):
    said = commands.refused("export", "--workdir=nuclei-40x", f"--output={registry.FOLDER / file}")
    assert "lies among the models in the box: name another folder" in said


@pytest.mark.faults
def test_another_architecture_is_refused(exported, tmp_path):
    model = model_file.read(exported)
    config = json.loads(json.dumps(model.config))
    config["generator"]["features"] = 16
    other = model_file.Model(
        config, *(getattr(model, f) for f in ("meta", "about", "variables")), {}, {}
    )
    model_file.write(tmp_path / "a.safetensors", other, half=False)
    with pytest.raises(UserError, match=r"~ generator/params/head/kernel stored .* needed"):
        workdirs.load(tmp_path / "a.safetensors")


@pytest.mark.faults
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--model=nucle1", "--input=a", "--output=b"], "nucle1 is not a workdir, and no file"),
        (["--input=a", "--output=b"], "give one of the two"),
        (["--model=a", "--workdir=b", "--input=a", "--output=b"], "give one of the two"),
        (["--workdir=b", "--output=b"], "--input is missing"),
        (["--workdir=b", "--input=b"], "--output is missing"),
        (["--model=", "--input=a", "--output=b"], "give one of the two"),
        (["--model=x", "--card"], "'x' is no model in the box"),
        (["--card"], "--card prints the card of a model: name it by --model=NAME"),
    ],
)
def test_predict_says_which_flag_is_missing(flags, said):
    status, _, err = commands.run("predict", *flags)
    assert (status, said in err) == (2, True)
