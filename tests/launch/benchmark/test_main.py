import json
import pathlib
import subprocess
import sys

import jax
import pytest

from histojax.data import cores

ROOT = pathlib.Path(__file__).parents[3]


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "launch.benchmark", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )


def test_command_prints_and_writes(tmp_path):
    done = command(
        "--config=configs/generator.py:smoke",
        "--what=postprocessing",
        "--size=64",
        f"--output={tmp_path}",
    )
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["benchmark.json"]
    result = json.loads((tmp_path / "benchmark.json").read_text())
    rows = result["rows"]["postprocessing"]
    assert [row["name"] for row in rows] == ["strips, in use", "whole"]
    assert rows[1]["times_first"] == rows[1]["seconds"] / rows[0]["seconds"]
    assert result["hardware"]["platform"] == "cpu"
    assert result["versions"]["jax"] == jax.__version__
    assert result["cores_used"] == cores.usable()
    assert result["command"].startswith("python -m launch.benchmark --config=configs/generator.py")
    assert done.stdout.startswith("postprocessing\n")
    assert "1: strips, in use  2: whole" in done.stdout


@pytest.mark.faults
def test_command_refuses_an_unknown_measurement(tmp_path):
    done = command("--what=speed", f"--output={tmp_path}")
    assert done.returncode == 2
    assert "--what has 'speed', which is none of step, inference, input" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())
