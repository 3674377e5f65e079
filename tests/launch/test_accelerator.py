import json
import os
import pathlib
import re
import subprocess
import sys
import time

import pytest

from histojax.runs.checkpoint import Series
from tests.launch.commands import load
from tests.launch.stand_in import ROOT

accelerator = load("launch.accelerator")

# A command that saves a step each 0.1 s; at SIGTERM it ends well, as at its length.
TRAINS = """
import pathlib, signal, sys, time
place = pathlib.Path(sys.argv[1])
length = int(sys.argv[2].partition("=")[2])
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
while True:
    steps = [int(path.name) for path in (place / "checkpoints" / "last").glob("*")]
    if max(steps, default=0) >= length:
        sys.exit(print("scored at", length))
    (place / "checkpoints" / "last" / str(max(steps, default=0) + 5)).mkdir(parents=True)
    time.sleep(0.1)
"""
# A command whose child ignores that it is left alone, as a measurement's process does.
LEAVES = """
import pathlib, subprocess, sys, time
script = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", script])
pathlib.Path(sys.argv[1]).write_text(str(child.pid))
time.sleep(float(sys.argv[2]))
"""


@pytest.fixture
def modules(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "trains.py").write_text(TRAINS)
    (tmp_path / "leaves.py").write_text(LEAVES)
    (tmp_path / "fails.py").write_text(
        "import sys; print('no such thing', sys.argv[1:]); sys.exit(2)"
    )
    return tmp_path


def test_a_training_is_cut_at_its_time_and_scored_at_its_step(modules):
    folder = str(modules / "run")
    part = accelerator.Part("some", ("trains", folder), 3.0, folder, "steps")
    found = accelerator.run(part, time.monotonic() + 60, modules)
    saved = Series(modules / "run" / "checkpoints" / "last")
    step = saved.steps()[-1]
    assert step >= 5
    assert (found["status"], found["said"]) == ("done", f"{step} steps")
    assert found["command"] == f"python -m trains {folder} --config.steps={step}"
    assert (modules / "some.log").read_text() == f"scored at {step}\n"
    # It is trained further, in the time that is left.
    again = accelerator.run(part, time.monotonic() + 2.5, modules, found["seconds"])
    assert saved.steps()[-1] > step
    assert again["seconds"] > found["seconds"] + 2.5


def test_a_failure_and_a_cut_are_told_apart(modules):
    failing = accelerator.Part("bad", ("fails",), 60)
    assert accelerator.run(failing, time.monotonic() + 60, modules)["status"] == "failed"
    assert (modules / "bad.log").read_text() == "no such thing ['--num_processes=1']\n"
    endless = accelerator.Part("long", ("trains", str(modules / "x"), "=1000"), 2.0)
    found = accelerator.run(endless, time.monotonic() + 60, modules)
    assert found["status"] == "cut"
    text = accelerator.page({"bad": {**found, "status": "failed"}}, modules)
    assert "## bad: failed, " in text
    assert "no such thing" in text


@pytest.mark.parametrize("length", [0, 600])
def test_no_process_outlives_its_part(modules, length):
    part = accelerator.Part("some", ("leaves", str(modules / "child"), str(length)), 2.0)
    found = accelerator.run(part, time.monotonic() + 60, modules)
    assert found["status"] == ("cut" if length else "done")
    assert found["seconds"] < 20
    child = int((modules / "child").read_text())
    until = time.monotonic() + 10
    while _runs(child) and time.monotonic() < until:
        time.sleep(0.05)
    assert not _runs(child)


def _runs(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    # In a container nobody may collect a dead orphan.
    status = pathlib.Path(f"/proc/{process}/status")
    return not status.exists() or "State:\tZ" not in status.read_text()


def test_parts_are_in_order_of_worth_and_share_the_time(tmp_path):
    parts = accelerator.parts("gpu", "folder:x", 8, tmp_path)
    measured = ["grouped", "steps-use_net", "steps-joint", "steps-pyramid", "tiled"]
    assert [part.name for part in parts] == [*measured, "use_net", "generator", "pyramid"]
    assert sum(part.seconds for part in parts[:5]) == pytest.approx(300)
    assert all("--resume" in part.words for part in parts[:5])
    assert all("--config.data.source=folder:x" in part.words for part in parts[5:])
    assert "--config.lengths.scale_256=300" in parts[-1].words


@pytest.mark.slow
def test_a_rehearsal_measures_and_trains_all_parts(tmp_path):
    # Eight do not divide the pyramid's batch of 4.
    flags = re.sub(r"(device_count)=\d+", r"\1=1", os.environ["XLA_FLAGS"])
    one_device = os.environ | {"XLA_FLAGS": flags}

    def call(minutes):
        command = [sys.executable, "-m", "launch.accelerator", f"--minutes={minutes}"]
        command += ["--size=smoke", f"--output={tmp_path}"]
        made = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=True, env=one_device
        )
        assert made.stderr.endswith("evidence.md\n")
        found = json.loads((tmp_path / "evidence.json").read_text())
        paths = tmp_path.glob("*/benchmark.json")
        rows = {path.parent.name: json.loads(path.read_text())["rows"] for path in paths}
        return {name: part["status"] for name, part in found.items()}, rows

    # Half a minute is less than joint.py's four stages take.
    statuses, before = call(2)
    assert statuses["steps-joint"] == "cut"
    for _ in range(2):  # a busy machine takes both
        statuses, after = call(9)
        if set(statuses.values()) == {"done"}:
            break
    assert set(statuses.values()) == {"done"}
    for name, words in before.items():
        for word, rows in words.items():
            assert after[name][word][: len(rows)] == rows
    for name in ("use_net", "generator", "pyramid"):
        assert (tmp_path / name / "summary.json").exists()
    assert "Dice" in (tmp_path / "evidence.md").read_text()
