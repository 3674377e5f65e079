import dataclasses
import json
import shutil

import pytest

from histojax.errors import UserError
from histojax.inference.fitting import CLASSICAL, fit_classical
from histojax.nuclei.classical import Parameters
from histojax.runs import workdirs


@pytest.fixture
def run(trained_chain, tmp_path):
    return workdirs.load(shutil.copytree(trained_chain / "segmentation", tmp_path / "run"))


def test_the_classical_method_is_fitted_once_to_the_training_images(run):
    path = run.workdir / CLASSICAL
    kept = json.loads(path.read_text())
    assert kept["fitted"]["images"] == run.meta["data"]["splits"]["train"]
    changed = kept | {"parameters": kept["parameters"] | {"sigma": 1.25}}
    path.write_text(json.dumps(changed))
    assert fit_classical(run) == changed
    path.unlink()
    assert fit_classical(run) == kept == json.loads(path.read_text())


def test_the_published_parameters_serve_where_the_training_images_are_away(run, capsys):
    (run.workdir / CLASSICAL).unlink()
    config = json.loads((run.workdir / "config.json").read_text())
    config["data"]["source"] = f"folder:{run.workdir / 'gone'}"
    (run.workdir / "config.json").write_text(json.dumps(config))
    published = {"parameters": dataclasses.asdict(Parameters()), "fitted": None}
    assert fit_classical(run) == published
    assert "has its published parameters" in capsys.readouterr().err
    assert not (run.workdir / CLASSICAL).exists()


@pytest.mark.faults
@pytest.mark.parametrize("text", ['{"parameters": {"sigma": -1}, "fitted": null}', "{}"])
def test_a_damaged_fit_is_refused(run, text):
    (run.workdir / CLASSICAL).write_text(text)
    with pytest.raises(UserError, match=r"classical.json is damaged .*: remove it"):
        fit_classical(run)
