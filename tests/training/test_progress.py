import io
import json
import math
import re
import sys

import jax
import jax.numpy as jnp

from histojax.training.progress import ProgressLine, SinceLastLine


def test_means_are_of_finite_values_and_counts_are_the_last():
    since = SinceLastLine()
    for loss, skipped in ((1.0, 0), (math.nan, 1), (3.0, 1)):
        since.add({"loss": jnp.float32(loss), "skipped": jnp.int32(skipped)})
    assert since.take() == {"loss": 2.0, "skipped": 1.0}


def test_taking_starts_anew():
    since = SinceLastLine()
    since.add({"loss": jnp.float32(1.0)})
    since.take()
    since.add({"loss": jnp.float32(5.0)})
    assert since.take() == {"loss": 5.0}


def test_nothing_finite_is_nan():
    since = SinceLastLine()
    since.add({"loss": jnp.float32(math.inf)})
    assert math.isnan(since.take()["loss"])


def test_going_on_from_kept_sums_gives_the_same_mean_to_the_bit():
    values = [0.1, 0.7, 1e-9, 3.3]
    whole, first = SinceLastLine(), SinceLastLine()
    for value in values:
        whole.add({"loss": jnp.float32(value)})
    for value in values[:2]:
        first.add({"loss": jnp.float32(value)})
    second = SinceLastLine(json.loads(json.dumps(first.sums())))
    for value in values[2:]:
        second.add({"loss": jnp.float32(value)})
    assert second.take() == whole.take()


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown(monkeypatch, stream):
    """What a run of 20 steps writes to standard error, one evaluation and one warning among it."""
    monkeypatch.setattr(sys, "stderr", stream)
    line = ProgressLine("generator", 20)
    line.show(5, {"loss": 0.51234, "gradient_norm": 3.0, "skipped": 2.0})
    line.show_evaluation(5, {"psnr_rgb": 27.0})
    line.show_warning(5, "flat")
    line.show(10, {"loss": 0.25})
    line.close()
    return stream.getvalue()


def test_without_a_terminal_everything_is_a_line(monkeypatch):
    lines = shown(monkeypatch, io.StringIO()).splitlines()
    assert lines[:3] == [
        "generator 5/20  ? steps/s  left ?, loss 0.5123, skipped 2",
        "generator 5/20  val  psnr_rgb 27",
        "generator 5/20  warning: flat",
    ]
    assert re.fullmatch(r"generator 10/20 +[\d.]+ steps/s  left 00:00, loss 0.25", lines[3])
    assert len(lines) == 4


def test_on_a_terminal_one_line_rewrites_itself(monkeypatch):
    lines = shown(monkeypatch, Terminal()).split("\n")
    stay = [line.split("\r")[-1] for line in lines]
    assert stay[:2] == ["generator 5/20  val  psnr_rgb 27", "generator 5/20  warning: flat"]
    assert stay[2].startswith("generator 10/20 ")
    assert stay[2].rstrip().endswith("loss 0.25")
    assert stay[3:] == [""]


def test_only_the_first_process_shows_anything(monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    assert shown(monkeypatch, io.StringIO()) == ""
