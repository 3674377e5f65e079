import io
import sys

import pytest

from histojax.errors import UserError
from histojax.metric_writer import MetricWriter, check, read_metrics
from tests import tiny


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


def test_tensorboard_without_its_package_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    log = tiny.config().log
    check(log)
    log.tensorboard = True
    with pytest.raises(UserError, match="tensorboardX; install it"):
        check(log)


def test_a_disk_that_takes_no_more_is_said(tmp_path):
    writer = MetricWriter(tmp_path)
    writer.close()
    with open("/dev/full", "wb", buffering=0) as full:
        writer._file = io.TextIOWrapper(full, write_through=True)
        with pytest.raises(UserError, match="goes on from the last checkpoint"):
            writer.write(1, "train", {"loss": 1.0})
        writer._file.detach()
