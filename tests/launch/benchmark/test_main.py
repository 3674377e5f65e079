import json
import pathlib
import subprocess
import sys

import jax
import pytest
from absl import flags

from histojax.data import cores
from histojax.experiments import summary
from histojax.models import convolutions
from launch.benchmark import timing
from tests.launch.commands import load, loaded

ROOT = pathlib.Path(__file__).parents[3]
# ml_collections reads config files by it.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


def test_command_prints_and_writes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    # In this process: starting others takes longer than what is measured.
    monkeypatch.setattr(timing, "apart", lambda function, **options: function(**options))
    with loaded("launch.benchmark.__main__") as command:
        words = ["--what=postprocessing", "--size=64", f"--output={tmp_path}"]
        flags.FLAGS(["", "--config=configs/generator.py:smoke", *words])
        command.main([])
    assert [path.name for path in tmp_path.iterdir()] == ["benchmark.json"]
    result = json.loads((tmp_path / "benchmark.json").read_text())
    rows = result["rows"]["postprocessing"]
    assert [row["name"] for row in rows] == ["in use", "all flooded"]
    assert rows[1]["times_first"] == rows[1]["seconds"] / rows[0]["seconds"]
    assert result["config"] == "configs/generator.py:smoke"
    assert result["hardware"]["platform"] == "cpu"
    assert result["versions"]["jax"] == jax.__version__
    assert result["cores_used"] == cores.usable()
    printed = capsys.readouterr().out
    assert printed.startswith("postprocessing\n")
    # Columns are as wide as their numbers, which are times.
    assert printed.splitlines()[1].split() == ["1:", "in", "use", "2:", "all", "flooded"]


def test_what_was_cut_goes_on_at_its_row(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    calls, left = [], [2]

    def apart(function, **options):
        if function is summary.circumstances:
            return function()
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        calls.append((function.__name__, options["name"]))
        return [{"name": options["name"], "seconds": float(len(calls)), "steps": options["steps"]}]

    monkeypatch.setattr(timing, "apart", apart)
    path = tmp_path / "benchmark.json"

    def measure(*words, among):
        left[0] = among
        with loaded("launch.benchmark.__main__") as command:
            common = ["--config=configs/joint.py:smoke", "--what=step", f"--output={tmp_path}"]
            flags.FLAGS(["", *common, *words])
            command.main([])
        return json.loads(path.read_text())["rows"]["step"]

    with pytest.raises(KeyboardInterrupt):
        measure(among=2)
    kept = json.loads(path.read_text())["rows"]["step"]
    assert [row["name"] for row in kept] == ["generator", "segmentation"]
    said = capsys.readouterr()
    assert said.out == ""
    assert "step, generator: seconds 1, steps 20\n" in said.err
    rows = measure("--resume", among=2)
    assert [row["seconds"] for row in rows] == [1.0, 2.0, 3.0, 4.0]
    assert [name for _, name in calls] == ["generator", "segmentation", "srgan", "joint"]
    assert capsys.readouterr().out.startswith("step\n")
    # All is there; of other options, or without --resume, nothing is.
    assert measure("--resume", among=0) == rows
    assert [row["seconds"] for row in measure("--resume", "--steps=5", among=4)] == [5, 6, 7, 8]
    assert [row["seconds"] for row in measure("--steps=5", among=4)] == [9, 10, 11, 12]


def test_measurements_of_a_stage_follow_one_another():
    command = load("launch.benchmark.__main__")
    plan = {
        "step": [(len, {"name": "a"}), (len, {"name": "b"})],
        "grouped": [(len, {"form": "auto"})],
        "torch": [(min, {"name": "a"}), (min, {"name": "b"})],
    }
    found = command.in_order(["step", "grouped", "torch"], plan)
    order = [(word, options.get("name")) for word, _, options in found]
    a, b = ([(word, name) for word in ("step", "torch")] for name in "ab")
    assert order == [*a, *b, ("grouped", None)]


@pytest.mark.parametrize(
    ("platform", "batches"),
    [("cpu", [("auto", 4), ("auto", 1), ("grouped", 1)]), ("gpu", [("auto", 32), ("grouped", 32)])],
)
def test_grouped_forms_are_compared_at_the_batch_of_training(platform, batches):
    with loaded("launch.benchmark.__main__") as command:
        flags.FLAGS([""])
        values = {"data": {"batch_size": 32}}
        plan = command.measurements({"generator": values}, platform)
        flags.FLAGS.unparse_flags()
    found = [(options["form"], options["batch_size"]) for _, options in plan["grouped"]]
    assert found[: len(batches)] == batches
    assert {form for form, _ in found} == set(convolutions.GROUPED_FORMS)


@pytest.mark.faults
@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("speed", "--what has 'speed', which is none of step, inference, input"),
        ("grouped", "--what=grouped measures the stage generator, which --config does not have"),
    ],
)
def test_command_refuses_what_cannot_be_measured(tmp_path, what, sentence):
    words = (f"--what={what}", "--config=configs/segmentation.py:smoke", f"--output={tmp_path}")
    command = [sys.executable, "-m", "launch.benchmark", *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())
