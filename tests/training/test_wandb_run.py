"""Most tests run against a stand-in with the calls of the wandb package that are made; the last two
run wandb itself, offline and with a server that is not there, where it is installed."""

import math
import pathlib
import sys
import time
import tomllib
import types

import pytest
from packaging.requirements import Requirement

from histojax.errors import UserError
from histojax.experiments import chain
from histojax.runs.metrics_log import read_metrics
from histojax.training import loop, wandb_run
from histojax.training.metric_writer import MetricWriter, check
from tests import tiny


class StandInRun:
    """What wandb.init returns, as far as it is used; `broken` names the calls that fail."""

    def __init__(self, options, broken):
        self.options, self.broken = options, broken
        self.rows, self.finished, self.defined = [], 0, []

    def define_metric(self, name, step_metric):
        self.defined.append((name, step_metric))

    def log(self, row):
        if "log" in self.broken:
            raise ConnectionError("the network is gone.\nmore about it")
        self.rows.append(row)

    def finish(self):
        if "finish" in self.broken:
            raise TimeoutError
        self.finished += 1


@pytest.fixture
def stand_in(monkeypatch):
    """A module of the name wandb; `runs` are those started, `fails` what init raises."""
    module = types.ModuleType("wandb")
    module.__spec__ = types.SimpleNamespace(origin="wandb/__init__.py")
    module.errors = types.SimpleNamespace(UsageError=type("UsageError", (Exception,), {}))
    module.Settings = lambda **fields: fields
    module.runs, module.fails, module.broken = [], None, set()

    def init(**options):
        if module.fails is not None:
            raise module.fails
        module.runs.append(StandInRun(options, module.broken))
        return module.runs[-1]

    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def settings(name="generator", **fields):
    made = tiny.config(name)
    made.log.wandb.update(project="tissue", **fields)
    return made


def test_every_line_goes_there_with_its_step_as_a_value(stand_in, tmp_path):
    writer = MetricWriter(tmp_path, wandb_run=wandb_run.WandbRun(settings(), tmp_path))
    writer.write(3, "train", {"loss": 0.5, "psnr": math.inf})
    writer.write(3, "val", {"psnr_rgb": 27.0})
    writer.close()
    (run,) = stand_in.runs
    assert run.rows == [{"step": 3, "train/loss": 0.5}, {"step": 3, "val/psnr_rgb": 27.0}]
    assert run.defined == [("*", "step")]
    assert run.finished == 1
    assert run.options["project"] == "tissue"
    assert run.options["entity"] is None
    assert run.options["config"]["generator"]["features"] == 8


def test_a_restarted_run_goes_on_in_the_same_wandb_run(stand_in, tmp_path):
    for folder in ("a", "a", "b"):
        (tmp_path / folder).mkdir(exist_ok=True)
        wandb_run.WandbRun(settings(), tmp_path / folder)
    first, again, other = (run.options["id"] for run in stand_in.runs)
    assert first == again != other
    assert {run.options["resume"] for run in stand_in.runs} == {"allow"}


@pytest.mark.faults
@pytest.mark.parametrize("broken", ["log", "finish"])
def test_a_failure_is_said_once_and_loses_no_line(stand_in, tmp_path, capsys, broken):
    stand_in.broken.add(broken)
    writer = MetricWriter(tmp_path, wandb_run=wandb_run.WandbRun(settings(), tmp_path))
    for step in (1, 2, 3):
        writer.write(step, "train", {"loss": 1.0})
    writer.close()
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3]
    said = capsys.readouterr().err.splitlines()
    reason = {"log": "the network is gone", "finish": "TimeoutError"}[broken]
    assert said == [
        f"Weights & Biases failed ({reason}); going on without it, metrics.jsonl has everything"
    ]


@pytest.mark.faults
def test_an_unreachable_server_does_not_stop_a_run(stand_in, tmp_path, capsys):
    stand_in.fails = ConnectionError("connection refused")
    made = settings()
    run = loop.train(made, tmp_path / "run")
    assert run.step > 0
    assert capsys.readouterr().err.count("Weights & Biases failed (connection refused)") == 1
    assert read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]["step"] == made.steps


@pytest.mark.faults
def test_who_is_not_logged_in_is_told_so(stand_in, tmp_path):
    stand_in.fails = stand_in.errors.UsageError("No API key configured.")
    with pytest.raises(UserError, match=r"\(No API key configured\); run `wandb login`"):
        wandb_run.WandbRun(settings(), tmp_path)


def test_a_run_that_was_logged_resumes_without_logging(stand_in, tmp_path):
    loop.train(settings(), tmp_path / "run")
    (run,) = stand_in.runs
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in run.rows] == [line["step"] for line in lines]
    # Where a run is logged to is no part of what it is: without W&B, it goes on.
    further = tiny.config(steps=6)
    assert loop.train(further, tmp_path / "run").step > 0
    assert len(stand_in.runs) == 1
    assert read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]["step"] == 6


@pytest.mark.faults
def test_a_missing_package_is_one_sentence_and_writes_nothing(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="run pip install wandb or leave the project empty"):
        chain.run(settings(), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    check(tiny.config().log)


def test_a_folder_of_the_name_is_no_package(monkeypatch, tmp_path):
    (tmp_path / "wandb").mkdir()
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(UserError, match="pip install wandb"):
        check(settings().log)


def test_an_unknown_mode_is_named(stand_in):
    with pytest.raises(UserError, match=r"log.wandb.mode='later' is not known; choose one of"):
        check(settings(mode="later").log)


def test_a_chain_is_logged_by_what_is_set_in_one_place():
    made = settings("joint", mode="offline")
    for stage in chain.stages_of(made):
        assert stage.log.wandb.project == "tissue"
        assert stage.log.wandb.mode == "offline"


def test_the_extra_asks_for_the_versions_that_were_tried():
    table = tomllib.loads((pathlib.Path(__file__).parents[2] / "pyproject.toml").read_text())
    (asked,) = map(Requirement, table["project"]["optional-dependencies"]["wandb"])
    assert asked.name == "wandb"
    tried = [
        version for version in ("0.30.9", "0.31.0", "0.99", "1.0") if version in asked.specifier
    ]
    assert tried == ["0.31.0", "0.99"]


def real():
    reason = "wandb is not installed; it is an optional extra (see pyproject.toml)"
    return pytest.importorskip("wandb", reason=reason)


@pytest.mark.filterwarnings("ignore:::wandb")
def test_wandb_itself_offline_keeps_the_lines_in_the_workdir(tmp_path):
    real()
    made = settings(mode="offline")
    for step in (1, 2):
        run = wandb_run.WandbRun(made, tmp_path)
        assert run._run is not None
        run.write(step, {"train/loss": 0.25})
        run.close()
    kept = sorted((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))
    name = (tmp_path / wandb_run.ID_FILE).read_text().strip()
    assert [path.name for path in kept] == [f"run-{name}.wandb"] * 2
    # Its service writes on for a moment after `finish` has returned.
    until = time.monotonic() + 20
    while not all(b"train/loss" in path.read_bytes() for path in kept):
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.faults
@pytest.mark.filterwarnings("ignore:::wandb")
def test_wandb_itself_without_a_server_is_gone_on_without(tmp_path, monkeypatch, capsys):
    real()
    monkeypatch.setattr(wandb_run, "_PATIENCE", 2)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    run = wandb_run.WandbRun(settings(), tmp_path)
    run.write(1, {"train/loss": 0.25})
    run.close()
    assert capsys.readouterr().err.count("going on without it") == 1
