"""Runs of several processes through the command, beside the same run of one."""

import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import orbax.checkpoint as ocp
import pytest

from histojax.components import trees
from histojax.runs import checkpoint
from histojax.runs.metrics_log import read_metrics

ROOT = pathlib.Path(__file__).parents[2]
FIELDS = {
    "steps": 20,
    "log.every": 5,
    "checkpoint.every": 10,
    "eval.every": 10,
    "data.crop": 16,
    "generator.features": 8,
    "generator.width": 8,
    "data.synthetic.train": 4,
    "data.synthetic.val": 3,
    "data.synthetic.size": 64,
    "eval.crop": 32,
    "precision": "float64",
    "optimizer.schedule": "constant",
}

SMALL = {"segmenter.features": 4, "segmenter.depth": 1}
WITHOUT = dict.fromkeys(("generator.features", "generator.width", "optimizer.schedule"))
STAGES = {
    "segmentation": {**WITHOUT, **SMALL},
    "joint": {
        **SMALL,
        "data.crop": 32,  # 16 px leave the discriminator no patch
        "optimizer.schedule": None,
        **{f"lengths.{name}": 20 for name in ("generator", "segmentation", "srgan")},
    },
    # Dropout is another on every device.
    "pyramid": {**WITHOUT, "data.crop": 32, "segmenter.dropout": 0.0},
}


def start(workdir, processes, devices=1, config="configs/generator.py:smoke", **fields):
    """The processes of one run; outputs are joined to stderr.

    `workdir` is a path, in which {process} stands for a process's number.
    """
    words = [f"--config.{k}={v}" for k, v in {**FIELDS, **fields}.items() if v is not None]
    return launched(
        "main", processes, devices, f"--config={config}", f"--workdir={workdir}", *words
    )


def launched(name, processes, devices, *words):
    """The processes of a command; {process} in its words is their number."""
    command = [sys.executable, "-m", f"histojax.{name}", *words]
    own = {"XLA_FLAGS": "--xla_backend_optimization_level=0", "JAX_PLATFORMS": "cpu"}
    own |= {"JAX_ENABLE_X64": "1", "JAX_NUM_CPU_DEVICES": str(devices)}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    named = [f"--coordinator=127.0.0.1:{port}", f"--num_processes={processes}"]
    if processes > 1:
        command += [*named, "--process_id={process}"]
    return [
        subprocess.Popen(
            [word.replace("{process}", str(index)) for word in command],
            cwd=ROOT,
            env={**os.environ, **own},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for index in range(processes)
    ]


def ended(running):
    """(statuses, outputs), once all processes have ended; killed where a test fails."""
    try:
        said = [process.communicate(timeout=500)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    return [process.returncode for process in running], said


def trained(workdir, processes, devices=1, **options):
    """The workdir, once a run has ended well; only process 0 says anything of it."""
    statuses, said = ended(start(workdir, processes, devices, **options))
    assert statuses == [0] * processes, "\n".join(said)
    assert not any("val" in other for other in said[1:]), said
    return workdir


def weights(workdir):
    """Path of names -> array, of the last checkpoint."""
    series = checkpoint.Series(workdir / "checkpoints" / "last")
    place = series.folder / str(series.steps()[-1]) / "state"
    stored = ocp.StandardCheckpointHandler().metadata(place).tree
    with ocp.PyTreeCheckpointer() as reader:
        arguments = {"restore_args": _as_numpy(stored)}
        return trees.named(reader.restore(place, **arguments))


def _as_numpy(stored):
    import jax

    return jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), stored)


def assert_alike(one, other, atol=1e-8):
    """Weights within 1e-8, and scores of the val split equal but for the order of their sums."""
    first, second = weights(one), weights(other)
    assert list(first) == list(second)
    assert any(array.dtype == np.float64 for array in first.values())
    for name, array in first.items():
        np.testing.assert_allclose(second[name], array, rtol=0, atol=atol, err_msg=name)
    rows = [read_metrics(workdir / "metrics.jsonl") for workdir in (one, other)]
    for a, b in zip(*rows, strict=True):
        assert (a["step"], a["split"]) == (b["step"], b["split"])
        for name in set(a) - {"seconds", "split"}:
            if a[name] is None:  # not finite
                assert b[name] is None
            else:
                np.testing.assert_allclose(b[name], a[name], rtol=1e-8, err_msg=name)
    values = [json.loads((workdir / "summary.json").read_text()) for workdir in (one, other)]
    assert values[0]["checkpoint_step"] == values[1]["checkpoint_step"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The undisturbed run of one process on one device."""
    return trained(tmp_path_factory.mktemp("alone") / "run", 1)


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """The undisturbed run of two processes with two devices each."""
    return trained(tmp_path_factory.mktemp("together") / "run", 2, 2)


def back_to(workdir, step, copy):
    """A copy of a run as it was after an earlier step."""
    shutil.copytree(workdir, copy)
    (copy / "summary.json").unlink()
    for folder in (copy / "checkpoints").glob("*/[0-9]*"):
        if int(folder.name) > step:
            shutil.rmtree(folder)
    return copy


def test_two_processes_train_as_one(alone, together):
    assert_alike(alone, together)
    assert sorted(path.name for path in together.iterdir()) == sorted(
        path.name for path in alone.iterdir()
    )
    found = json.loads((together / "summary.json").read_text())
    assert (found["hardware"]["processes"], found["hardware"]["devices"]) == (2, 4)
    assert "--coordinator" not in found["command"]


@pytest.mark.faults
def test_processes_that_see_other_checkpoints_are_refused(together, tmp_path):
    for process, step in enumerate((20, 10)):
        back_to(together, step, tmp_path / f"seen{process}")
    statuses, said = ended(start(tmp_path / "seen{process}", 2, 2))
    assert statuses == [2, 2], said
    sentence = "process 1 has another last checkpoint than process 0: give all the same command, sh"
    assert sentence in said[0]


@pytest.mark.slow
def test_processes_share_the_images_that_are_scored(alone, tmp_path):
    files = {}
    for count in (1, 2, 4):  # of three images
        output = tmp_path / str(count)
        words = [f"--workdir={alone}", f"--output={output}"]
        statuses, said = ended(launched("evaluate", count, 1, *words))
        assert statuses == [0] * count, said
        assert ["PSNR" in text for text in said] == [True] + [False] * (count - 1)
        found = sorted(path for path in output.rglob("*") if path.is_file())
        files[count] = {path.relative_to(output): path.read_bytes() for path in found}
    assert len(files[1]) == 3 + 2
    assert files[2] == files[1]
    assert files[4] == files[1]


@pytest.mark.parametrize(
    ("begun", "processes"),
    [("together", 1), pytest.param("alone", 4, marks=pytest.mark.slow)],
)
def test_a_run_goes_on_with_other_processes_and_devices(alone, begun, processes, request, tmp_path):
    copy = back_to(request.getfixturevalue(begun), 10, tmp_path / "run")
    assert_alike(alone, trained(copy, processes))


@pytest.mark.slow
@pytest.mark.parametrize("config", STAGES)
def test_two_processes_train_every_stage_as_one(config, tmp_path):
    options = {"config": f"configs/{config}.py:smoke", **STAGES[config]}
    one = trained(tmp_path / "one", 1, **options)
    two = trained(tmp_path / "two", 2, 2, **options)
    inner = [path.parent.name for path in one.glob("*/metrics.jsonl")] or ["."]
    for stage in inner:
        assert_alike(one / stage, two / stage)


@pytest.mark.slow
@pytest.mark.faults
def test_a_killed_process_ends_all_and_the_run_goes_on(tmp_path):
    fields = {"steps": 60, "checkpoint.every": 5, "log.every": 5, "eval.every": 30}
    whole = trained(tmp_path / "whole", 2, **fields)
    for lost in (1, 0):
        workdir = tmp_path / f"lost{lost}"
        running = start(workdir, 2, **fields)
        folder = workdir / "checkpoints" / "last"
        while not list(folder.glob("[0-9]*[0-9]")) and running[0].poll() is None:
            time.sleep(0.01)
        time.sleep(random.Random(lost).uniform(0, 0.3))
        running[lost].kill()
        began = time.monotonic()
        statuses, said = ended(running)
        assert time.monotonic() - began < 60
        assert statuses[lost] == -signal.SIGKILL
        assert statuses[1 - lost] == 1
        words = said[1 - lost].strip().splitlines()[-1]
        assert words.startswith(f"histojax: process {lost} of 2 "), said[1 - lost]
        assert words.endswith("so all end: the same command goes on from the last checkpoint")
        trained(workdir, 2, **fields)
        assert_alike(whole, workdir, atol=0)
