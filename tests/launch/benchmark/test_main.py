import json
import pathlib
import subprocess
import sys

import jax
import pytest
from absl import flags

from histojax.data import cores
from launch.benchmark import timing
from tests.launch.commands import loaded

ROOT = pathlib.Path(__file__).parents[3]


# ml_collections reads config files by it.
@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
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
