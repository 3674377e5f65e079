import re
import signal
import sys

import pytest
from absl.testing import flagsaver

from histojax.errors import UserError
from tests.launch.commands import loaded

# What stands for the main command: it notes its words, and does what --config says.
STAND_IN = """
import os, pathlib, signal, sys, time
words = dict(word.lstrip("-").split("=", 1) for word in sys.argv[1:])
here = pathlib.Path(words["workdir"])
index = words["process_id"]
devices = os.environ["JAX_NUM_CPU_DEVICES"], os.environ["JAX_LOCAL_DEVICE_IDS"]
(here / f"called{index}").write_text(" ".join([words["num_processes"], *devices]))
print("process", index, flush=True)
kind = words["config"]
if kind == "fails" and index == "1":
    sys.exit("histojax: the disk is full")
if kind == "dies" and index == "1":
    os.kill(os.getpid(), signal.SIGKILL)
if kind != "ends":
    signal.signal(signal.SIGTERM, lambda *_: ((here / f"stopped{index}").touch(), sys.exit(0)))
    (here / f"ready{index}").touch()
    time.sleep(60)
"""


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Runs launch.local with two processes of the stand-in."""
    (tmp_path / "main.py").write_text(STAND_IN)
    with loaded("launch.local") as local:
        monkeypatch.setattr(local.jobs, "PROGRAM", (sys.executable, str(tmp_path / "main.py")))
        monkeypatch.setattr(local, "_PATIENCE", 0.2)

        def run(*words):
            if not local.flags.FLAGS.is_parsed():
                local.flags.FLAGS.mark_as_parsed()
            with flagsaver.flagsaver(processes=2, devices_per_process=3):
                local.main(["local", *words])

        run.local = local
        yield run


def test_processes_run_on_devices_of_their_own(start, tmp_path, capfd):
    start("--config=ends", f"--workdir={tmp_path}")
    assert (tmp_path / "called0").read_text() == "2 3 0,1,2"
    assert (tmp_path / "called1").read_text() == "2 3 3,4,5"
    assert capfd.readouterr().out == "process 0\n"
    assert (tmp_path / "processes" / "1.log").read_text() == "process 1\n"


@pytest.mark.faults
@pytest.mark.parametrize(
    ("kind", "why"), [("fails", r"status 1\): histojax: the disk is full"), ("dies", "SIGKILL")]
)
def test_a_failure_ends_all_and_is_named(start, tmp_path, kind, why):
    with pytest.raises(UserError) as failure:
        start(f"--config={kind}", f"--workdir={tmp_path}")
    said = str(failure.value)
    assert said.startswith("process 1 of 2 failed (")
    assert re.search(why, said)
    assert said.endswith("; the same command goes on from the last checkpoint")
    assert not (tmp_path / "stopped0").exists()  # killed after it had its time


def test_a_signal_reaches_all(start, tmp_path, monkeypatch):
    wait = start.local._wait

    def waited(running, seen):
        while len(list(tmp_path.glob("ready*"))) < 2:
            pass
        signal.raise_signal(signal.SIGTERM)
        return wait(running, seen)

    monkeypatch.setattr(start.local, "_wait", waited)
    start("--config=waits", f"--workdir={tmp_path}")
    assert sorted(path.name for path in tmp_path.glob("stopped*")) == ["stopped0", "stopped1"]


@pytest.mark.faults
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "after -- come flags of histojax.main; give --config=FILE"),
        (("--config=a.py", "--process_id=1"), "--process_id are set by launch.local"),
    ],
)
def test_words_that_cannot_be_run_are_refused(start, words, message):
    with pytest.raises(UserError, match=message):
        start(*words)
