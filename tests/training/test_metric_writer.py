import json
import sys
import types

import pytest

from histojax.errors import DiskError, UserError
from histojax.runs.metrics_log import read_metrics
from histojax.training.metric_writer import MetricWriter, check
from tests import tiny
from tests.tiny import full_disk


def test_lines_are_there_before_close(tmp_path):
    writer = MetricWriter(tmp_path)
    writer.write(3, "train", {"loss": 0.5})
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 3, "split": "train", "loss": 0.5}]
    writer.close()


def test_a_number_that_is_not_finite_is_null(tmp_path):
    writer = MetricWriter(tmp_path)
    writer.write(1, "val", {"psnr": float("inf"), "loss": float("nan")})
    writer.close()
    assert read_metrics(tmp_path / "metrics.jsonl")[0]["psnr"] is None
    assert read_metrics(tmp_path / "metrics.jsonl")[0]["loss"] is None


def test_a_warning_is_a_line_of_words(tmp_path):
    writer = MetricWriter(tmp_path)
    row = writer.write(2, "train", {"loss": 1})
    writer.warn(2, "it goes wrong")
    writer.close()
    said = {"step": 2, "split": "warning", "text": "it goes wrong"}
    assert read_metrics(tmp_path / "metrics.jsonl") == [row, said]


def test_going_on_forgets_what_came_after_the_checkpoint(tmp_path):
    writer = MetricWriter(tmp_path)
    for step in (1, 2, 3):
        writer.write(step, "train", {"loss": step})
    writer.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "spl')  # cut short by a kill
    writer = MetricWriter(tmp_path, resume_step=2)
    writer.write(3, "train", {"loss": 30})
    writer.close()
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [(row["step"], row["loss"]) for row in rows] == [(1, 1), (2, 2), (3, 30)]


@pytest.mark.faults
def test_tensorboard_without_its_package_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    log = tiny.config().log
    check(log)
    log.tensorboard = True
    with pytest.raises(UserError, match="tensorboardX; install it"):
        check(log)


@pytest.mark.faults
def test_a_full_disk_is_one_error_and_closing_is_none(tmp_path):
    writer = MetricWriter(tmp_path)
    writer.write(1, "train", {"loss": 1.0})
    with full_disk(45):
        with pytest.raises(DiskError, match=r"metrics\.jsonl failed \(File too large; .* are free"):
            writer.write(2, "train", {"loss": 1.0})
        writer.close()
    whole = {"step": 1, "split": "train", "loss": 1.0}
    # Half of the second line is there, and is nobody's.
    assert len((tmp_path / "metrics.jsonl").read_bytes()) == 45
    assert read_metrics(tmp_path / "metrics.jsonl") == [whole]
    writer = MetricWriter(tmp_path, resume_step=1)
    writer.write(2, "train", {"loss": 2.0})
    writer.close()
    assert read_metrics(tmp_path / "metrics.jsonl") == [whole, {**whole, "step": 2, "loss": 2.0}]


class _Message(dict):
    """A protocol buffer of tensorboardX, as far as it is asked for here."""

    START = 1

    def __init__(self, **fields):
        super().__init__(fields)


class _EventsWriter:
    """tensorboardX's: a buffered file that is written where it is asked to."""

    def __init__(self, prefix):
        self._file = open(f"{prefix}.out.tfevents.0", "w")  # noqa: SIM115

    def write_event(self, event):
        self._file.write(json.dumps({k: v for k, v in event.items() if k != "wall_time"}) + "\n")

    def flush(self):
        self._file.flush()

    def close(self):
        self._file.close()


@pytest.fixture
def tensorboard(monkeypatch):
    """Stands for the package, which the tests do not ask for."""
    modules = {
        "tensorboardX": types.ModuleType("tensorboardX"),
        "tensorboardX.event_file_writer": types.SimpleNamespace(EventsWriter=_EventsWriter),
        "tensorboardX.summary": types.SimpleNamespace(
            scalar=lambda name, value: {name: value}, text=lambda tag, text: {tag: text}
        ),
        "tensorboardX.proto.event_pb2": types.SimpleNamespace(Event=_Message, SessionLog=_Message),
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)


def test_tensorboard_gets_finite_values_and_a_resumed_step(tmp_path, tensorboard):
    writer = MetricWriter(tmp_path, resume_step=2, tensorboard=True)
    writer.write(3, "train", {"loss": 0.5, "psnr": float("nan")})
    writer.warn(3, "flat")
    (file,) = (tmp_path / "tensorboard").iterdir()
    assert [json.loads(line) for line in file.read_text().splitlines()] == [
        {"file_version": "brain.Event:2"},
        {"step": 3, "session_log": {"status": 1}},
        {"step": 3, "summary": {"train/loss": 0.5}},
        {"step": 3, "summary": {"warning": "flat"}},
    ]
    writer.close()


@pytest.mark.faults
def test_a_disk_that_takes_no_tensorboard_event_is_said(tmp_path, tensorboard):
    writer = MetricWriter(tmp_path, tensorboard=True)
    with full_disk():
        with pytest.raises(DiskError, match=r"tensorboard failed .* are free"):
            writer.write(1, "train", {"loss": 1.0})
        writer.close()
