import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from histojax.data import pipeline
from histojax.errors import UserError
from histojax.losses import pixel
from histojax.runs import run_data, workdirs
from histojax.runs.metrics_log import read_metrics
from histojax.stages import build_stage
from histojax.stages.pyramid import Pyramid
from histojax.training import loop, sharding
from tests import tiny

ROOT = pathlib.Path(__file__).parents[2]
ONE = jax.devices()[:1]


def rows(workdir):
    """metrics.jsonl without wall times."""
    found = read_metrics(workdir / "metrics.jsonl")
    return [{k: v for k, v in row.items() if k != "seconds"} for row in found]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("train") / "run"
    loop.train(tiny.config(), workdir, devices=ONE)
    return workdir


def test_the_last_step_is_the_best_where_no_score_may_choose(tmp_path, monkeypatch):
    scores = iter([0.9, 0.1])
    made = loop.Validation.__call__

    def scored(self, state, step):
        return {**made(self, state, step), "psnr_rgb": next(scores)}

    monkeypatch.setattr(loop.Validation, "__call__", scored)
    config = tiny.config()
    config.checkpoint.best = "last"
    assert loop.train(config, tmp_path / "last", devices=ONE).step == config.steps
    scores = iter([0.9, 0.1])
    config.checkpoint.best = "score"
    assert loop.train(config, tmp_path / "score", devices=ONE).step < config.steps


def test_a_pyramid_goes_on_exactly_and_keeps_its_palette(tmp_path, monkeypatch):
    config = tiny.config("pyramid")
    lower = config.init_from.pyramid
    below = workdirs.fresh_state(build_stage(lower, {}), lower)
    initial = {name: below.variables(name) for name in below.params}
    for name in ("optimizer", "discriminator_optimizer", "segmenter_optimizer"):
        config[name].schedule = "constant"  # a linear one would know of the first length
    config.steps = 2
    undisturbed = loop.train(config, tmp_path / "whole", initial, devices=ONE)
    config.steps = 1
    kept = loop.train(config, tmp_path / "stopped", initial, devices=ONE).meta["palette"]
    source = run_data.open_split(config, "train", fields=("mask", "contour"))
    assert kept == build_stage(config, initial).palette_of(source)
    config.steps = 2
    monkeypatch.setattr(Pyramid, "palette_of", lambda *_: pytest.fail("asked again"))
    resumed = loop.train(config, tmp_path / "stopped", initial, devices=ONE)
    assert resumed.meta["palette"] == kept
    for part in ("params", "statistics", "ema"):
        assert tiny.same(getattr(resumed.state, part), getattr(undisturbed.state, part)), part
    last = [
        [row for row in rows(run.workdir) if row["step"] == 2] for run in (undisturbed, resumed)
    ]
    assert last[0] == last[1] != []


class Poisoned:
    """Batches as floats; those of the given steps (the first is 1) hold one NaN."""

    def __init__(self, batches, steps):
        self._batches, self._steps, self._taken = batches, steps, 0

    def __next__(self):
        batch = {k: v.astype(np.float32) / 255 for k, v in next(self._batches).items()}
        self._taken += 1
        if self._taken in self._steps:
            batch["hr"][0, 0, 0, 0] = np.nan
        return batch

    def __getattr__(self, name):
        return getattr(self._batches, name)


def poison(monkeypatch, steps):
    made = pipeline.train_batches
    monkeypatch.setattr(
        loop.pipeline, "train_batches", lambda *a, **k: Poisoned(made(*a, **k), set(steps))
    )


def test_a_run_leaves_what_a_workdir_holds(undisturbed):
    assert sorted(p.name for p in (undisturbed / "checkpoints").iterdir()) == ["best", "last"]
    assert [p.name for p in sorted((undisturbed / "samples").iterdir())] == [
        "step_0000002.png",
        "step_0000004.png",
    ]
    assert [(row["step"], row["split"]) for row in rows(undisturbed)] == [
        (1, "train"),
        (2, "train"),
        (2, "val"),
        (3, "train"),
        (4, "train"),
        (4, "val"),
    ]
    state = tiny.last_state(undisturbed)
    assert int(state.step) == 4
    assert int(state.skipped) == 0


@pytest.mark.faults
@pytest.mark.parametrize("at", [3, 4])  # 4 is the last step, after which a chain would go on
def test_a_stopped_run_goes_on_to_the_same_weights_bit_for_bit(
    undisturbed, tmp_path, monkeypatch, at
):
    write = loop.MetricWriter.write

    def write_and_signal(self, step, split, values):
        write(self, step, split, values)
        if (step, split) == (at, "train"):
            for _ in range(2):  # SLURM signals all processes of a job, and a sweep its runs too
                os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop.MetricWriter, "write", write_and_signal)
    with pytest.raises(loop.Stopped, match=f"stopped at step {at}, checkpoint written"):
        loop.train(tiny.config(), tmp_path, devices=ONE)
    monkeypatch.undo()
    assert int(tiny.last_state(tmp_path).step) == at
    loop.train(tiny.config(), tmp_path, devices=ONE)
    assert tiny.same(tiny.last_state(tmp_path), tiny.last_state(undisturbed))
    assert rows(tmp_path) == rows(undisturbed)


@pytest.mark.faults
def test_a_run_resumes_from_before_a_half_written_checkpoint(undisturbed, tmp_path, caplog):
    loop.train(tiny.config(), tmp_path, devices=ONE)
    for file in (tmp_path / "checkpoints" / "last" / "4" / "state").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with caplog.at_level("WARNING"):
        loop.train(tiny.config(), tmp_path, devices=ONE)
    assert "step 4 is damaged" in caplog.text
    assert "using the one before" in caplog.text
    assert tiny.same(tiny.last_state(tmp_path), tiny.last_state(undisturbed))
    assert rows(tmp_path) == rows(undisturbed)


def test_another_seed_gives_other_weights(undisturbed, tmp_path):
    config = tiny.config()
    config.seed = 1
    loop.train(config, tmp_path, devices=ONE)
    assert not tiny.same(tiny.last_state(tmp_path).params, tiny.last_state(undisturbed).params)


@pytest.mark.faults
def test_non_finite_steps_are_skipped_and_counted(tmp_path, monkeypatch):
    poison(monkeypatch, {2, 3})
    loop.train(tiny.config(), tmp_path, devices=ONE)
    state = tiny.last_state(tmp_path)
    assert int(state.step) == 4
    assert int(state.skipped) == 2
    assert int(state.skipped_in_a_row) == 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tiny.plain(state.params)))
    trained = [row for row in rows(tmp_path) if row["split"] == "train"]
    assert [row["skipped"] for row in trained] == [0, 1, 2, 2]
    assert [row["loss"] is None for row in trained] == [False, True, True, False]


@pytest.mark.faults
def test_too_many_non_finite_steps_stop_the_run_unharmed(tmp_path, monkeypatch):
    poison(monkeypatch, range(3, 99))
    config = tiny.config(steps=10)
    config.max_skipped = 3
    with pytest.raises(UserError, match="3 steps in a row were not finite") as failure:
        loop.train(config, tmp_path, devices=ONE)
    assert f"{tmp_path}/checkpoints/last/4" in str(failure.value)
    before, after = tiny.last_state(tmp_path, 2), tiny.last_state(tmp_path, 4)
    for part in ("params", "ema", "opt_state", "statistics"):
        assert tiny.same(getattr(before, part), getattr(after, part))
    assert int(after.skipped) == 2


def test_a_collapse_is_reported_once_also_by_a_resumed_run(tmp_path, capsys):
    config = tiny.config("srgan", steps=2)
    config.loss.features.weight = 0.0
    # No variance is that small, so that every line has the one sign.
    config.collapse.update(window=1, told_apart=1.0, confused=0.0, variance=(50.0, 99.0))
    config.collapse.update(detail=(-99.0, 99.0))
    loop.train(config, tmp_path, devices=ONE)
    said = capsys.readouterr().err
    assert said.count("srgan 1/2  warning: over the last 1 steps, the enhanced images varied") == 1
    config.steps = 4
    loop.train(config, tmp_path, devices=ONE)
    said = capsys.readouterr().err
    assert "going on from step 2" in said
    assert "warning" not in said
    found = rows(tmp_path)
    assert [row["step"] for row in found if row["split"] == "train"] == [1, 2, 3, 4]
    (warning,) = [row for row in found if row["split"] == "warning"]
    assert warning["step"] == 1
    assert "they are going flat" in warning["text"]


@pytest.mark.faults
@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("steps", 0, "steps=0 has to be a whole number of 1 or more"),
        ("data.crop", 18, "data.crop=18 has to be a multiple of data.scale=4; choose 16"),
        ("eval.crop", 0, "eval.crop=0 has to be a whole number of 1 or more"),
        ("eval.crops", 0, "eval.crops=0 has to be a whole number of 1 or more"),
        ("checkpoint.keep", 0, "checkpoint.keep=0 has to be a whole number of 1 or more"),
        ("checkpoint.best", "first", "checkpoint.best='first' is not known; choose one of score"),
        ("max_skipped", 0, "max_skipped=0 has to be a whole number of 1 or more"),
        ("seed", -1, "seed=-1 has to be a whole number from 0 to 4294967295"),
        ("seed", 2**32, "seed=4294967296 has to be a whole number from 0 to 4294967295"),
        ("data.batch_size", 7, "data.batch_size=7 has to be a multiple of the 2 devices; choose 8"),
        ("data.workers", -1, "config.data.workers=-1 has to be a whole number of 0 or more"),
        ("data.placement", "gpu", "config.data.placement='gpu' is not known; choose one of"),
    ],
)
def test_a_value_out_of_range_is_named(field, value, message):
    config = tiny.config()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(UserError, match=message):
        loop.check(config, devices=2)


@pytest.mark.faults
def test_an_adversarial_term_that_no_step_would_see_is_refused():
    config = tiny.config("srgan")
    config.loss.adversarial.discriminator_warmup = config.steps
    with pytest.raises(UserError, match=r"warmup=\d+ comes after the run's \d+ steps; shorten it"):
        loop.check(config, devices=1)
    config.loss.adversarial.discriminator_warmup = config.steps - 1
    loop.check(config, devices=1)
    config.loss.adversarial.update(discriminator_warmup=config.steps, weight=0.0)
    loop.check(config, devices=1)


@pytest.mark.faults
def test_images_that_do_not_fit_are_refused_without_a_workdir(tmp_path):
    config = tiny.config()
    config.data.source = f"folder:{tiny.folder(tmp_path / 'data')}"
    config.data.crop = 128
    with pytest.raises(UserError, match=r"p\d"):
        loop.train(config, tmp_path / "run", devices=ONE)
    assert not (tmp_path / "run").exists()


@pytest.mark.faults
def test_a_set_too_large_for_the_device_leaves_no_workdir(tmp_path):
    config = tiny.config()
    config.data.update(placement="device", device_bytes=1000)
    with pytest.raises(UserError, match=r"does not fit config\.data\.device_bytes=1000"):
        loop.train(config, tmp_path / "run", devices=ONE)
    assert not (tmp_path / "run").exists()


@pytest.mark.faults
def test_a_non_finite_loss_skips_its_step_and_counts(tmp_path, monkeypatch):
    config = tiny.config()
    made, error = pipeline.train_batches, pixel.KINDS[config.loss.pixel]

    class Marked(Poisoned):
        def __next__(self):
            batch = super().__next__()
            if self._taken == 2:
                batch["hr"][0, 0, 0, 0] = 3.0
            return batch

    def loss(*, prediction, target):
        return jnp.where(
            jnp.max(target) > 2.0, jnp.nan, error(prediction=prediction, target=target)
        )

    monkeypatch.setattr(
        loop.pipeline, "train_batches", lambda *a, **k: Marked(made(*a, **k), set())
    )
    monkeypatch.setitem(pixel.KINDS, config.loss.pixel, loss)
    loop.train(config, tmp_path, devices=ONE)
    state = tiny.last_state(tmp_path)
    assert (int(state.step), int(state.skipped)) == (4, 1)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tiny.plain(state.params)))
    trained = [row for row in rows(tmp_path) if row["split"] == "train"]
    assert [row["loss"] is None for row in trained] == [False, True, False, False]


@pytest.mark.faults
@pytest.mark.parametrize(("at", "said_at", "good"), [(3, 4, "/last/2"), (1, 2, "none, for none")])
def test_a_non_finite_parameter_stops_the_run_unsaved(tmp_path, monkeypatch, at, said_at, good):
    made = sharding.train_step

    def broken(step, mesh):
        take = made(step, mesh)

        def taken(state, batch):
            state, metrics = take(state, batch)
            if int(state.step) == at:
                params = state.params["generator"]
                head = jax.tree.map(lambda leaf: leaf * jnp.nan, params["head"])
                state = state.replace(params={"generator": {**params, "head": head}})
            return state, metrics

        return taken

    monkeypatch.setattr(sharding, "train_step", broken)
    with pytest.raises(UserError) as failure:
        loop.train(tiny.config(steps=40), tmp_path, devices=ONE)
    said = str(failure.value)
    assert said.startswith("generator: params/generator/head/")
    assert f"is not finite at step {said_at}, and no step can mend it" in said
    assert good in said
    kept = tmp_path / "checkpoints" / "last"
    assert [int(path.name) for path in kept.glob("[0-9]*")] == ([2] if at == 3 else [])


@pytest.mark.faults
def test_a_clock_that_goes_backwards_changes_nothing(undisturbed, tmp_path, monkeypatch, capsys):
    now = iter(range(10**9, 0, -3600))
    monkeypatch.setattr(time, "time", lambda: float(next(now)))
    monkeypatch.setattr(time, "time_ns", lambda: next(now) * 10**9)
    loop.train(tiny.config(), tmp_path, devices=ONE)
    shutil.rmtree(tmp_path / "checkpoints" / "last" / "4")
    loop.train(tiny.config(), tmp_path, devices=ONE)
    monkeypatch.undo()
    assert next(now) < 10**9 - 3600
    seconds = [row["seconds"] for row in read_metrics(tmp_path / "metrics.jsonl")]
    assert seconds == sorted(seconds)
    assert seconds[0] > 0
    assert seconds[-1] < 600
    assert "-" not in "".join(re.findall(r"\S+ steps/s  left \S+", capsys.readouterr().err))
    assert tiny.same(tiny.last_state(tmp_path), tiny.last_state(undisturbed))


def test_processes_agree_on_stopping_only_where_they_wait(monkeypatch):
    from jax.experimental import multihost_utils

    asked = []

    def gather(value):
        asked.append(int(value))
        return np.asarray([0, 1])

    monkeypatch.setattr(multihost_utils, "process_allgather", gather)
    assert loop.asked([signal.SIGTERM], together=False)
    assert not loop.asked([], together=True)
    assert asked == []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert not loop.asked([signal.SIGTERM], together=False)
    assert asked == []
    assert loop.asked([], together=True)
    assert asked == [0]


def command(workdir):
    overrides = {
        "steps": 90,
        "log.every": 10,
        "checkpoint.every": 10,
        "eval.every": 45,
        "data.crop": 16,
        "generator.features": 8,
        "generator.width": 8,
        "data.synthetic.train": 4,
        "data.synthetic.size": 64,
        "eval.crop": 32,
    }
    return [
        sys.executable,
        "-m",
        "histojax.main",
        "--config=configs/generator.py:smoke",
        f"--workdir={workdir}",
        *(f"--config.{k}={v}" for k, v in overrides.items()),
    ]


def start(workdir):
    environment = {**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        command(workdir),
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def after_first_checkpoint(process, workdir, wait):
    """Waits for a checkpoint that was not there before, and a moment more."""
    folder = workdir / "checkpoints" / "last"
    before = {p.name for p in folder.glob("[0-9]*")}
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if {p.name for p in folder.glob("[0-9]*") if p.name.isdigit()} - before:
            break
        time.sleep(0.002)
    time.sleep(wait)


@pytest.mark.slow
@pytest.mark.faults
def test_killed_runs_end_in_the_undisturbed_weights(tmp_path):
    with start(tmp_path / "a") as process:
        said = process.communicate(timeout=300)[1]
        assert process.returncode == 0, said
    wait = random.Random(5)
    with start(tmp_path / "b") as process:
        after_first_checkpoint(process, tmp_path / "b", wait.uniform(0, 0.1))
        process.kill()
        process.communicate(timeout=300)
        assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "b" / "summary.json").exists()
    with start(tmp_path / "b") as process:
        after_first_checkpoint(process, tmp_path / "b", wait.uniform(0, 0.05))
        process.terminate()
        said = process.communicate(timeout=300)[1]
        assert process.returncode == 0, said
        assert "going on from step" in said
        assert "checkpoint written; the same command goes on from there" in said
    assert 0 < int(tiny.last_state(tmp_path / "b").step) < 90
    with start(tmp_path / "b") as process:
        said = process.communicate(timeout=300)[1]
        assert process.returncode == 0, said
    assert tiny.same(tiny.last_state(tmp_path / "b"), tiny.last_state(tmp_path / "a"))
    assert rows(tmp_path / "b") == rows(tmp_path / "a")
