import functools
import os
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from histojax import processes
from histojax.errors import UserError
from histojax.models import convolutions
from histojax.training import sharding
from launch.benchmark import timing


def test_first_run_warms_up():
    calls = []
    spent = timing.timed(lambda: calls.append(0), 4)
    assert len(calls) == 5
    assert spent["repeats"] == 4
    assert 0 < spent["seconds_min"] <= spent["seconds"]


def test_slow_first_run_is_the_only_one():
    calls = []
    spent = timing.timed(lambda: calls.append(0), 4, patience=0.0)
    assert len(calls) == spent["repeats"] == 1
    assert spent["seconds_min"] == spent["seconds"] > 0


def test_patience_ends_the_repeats_but_for_one():
    calls = []

    def run():
        calls.append(0)
        time.sleep(0.05)

    # The warm-up takes most of the patience, and the one run that has to follow the rest.
    assert timing.timed(run, 10_000, patience=0.09)["repeats"] < 10
    assert len(calls) >= 2


def test_clock_adds_up_its_blocks():
    clock = timing.Clock()
    for _ in range(2):
        with clock:
            time.sleep(0.02)
        time.sleep(0.2)
    assert 0.04 <= clock.spent["seconds"] < 0.2


def test_compiled_program_is_counted_and_runs():
    a, b = jnp.ones((32, 64)), jnp.ones((64, 16))
    program, measured = timing.compiled(jax.jit(jnp.matmul), a, b)
    np.testing.assert_array_equal(program(a, b), np.full((32, 16), 64.0))
    assert measured["flop"] == 2 * 32 * 64 * 16
    assert measured["planned_bytes"] >= 4 * (32 * 64 + 64 * 16 + 32 * 16)
    assert measured["compile_seconds"] > 0


def test_grouped_convolutions_are_counted_by_definition():
    x, kernel = jnp.ones((2, 5, 5, 8)), jnp.ones((1, 1, 2, 12))
    assert convolutions.grouped_conv_form("cpu") == "batched"
    convolve = jax.jit(functools.partial(convolutions.grouped_convolve, groups=4))
    # Each of 12 outputs reads the two channels of its group.
    assert timing.model_flop(convolve, x, kernel) == 2 * (2 * 5 * 5) * 2 * 12


def test_compilation_cache_is_as_before():
    before = jax.config.jax_enable_compilation_cache
    timing.compiled(jax.jit(jnp.sin), jnp.ones(3))
    assert jax.config.jax_enable_compilation_cache == before


def test_matmul_peak_is_positive_in_every_dtype():
    mesh = sharding.data_mesh()
    assert timing.matmul_peak(mesh, jnp.float32, size=16) > 0
    assert timing.matmul_peak(mesh, jnp.bfloat16, size=16) > 0


def allocated():
    before = timing.peak_bytes()
    np.ones(2**28, np.uint8)
    return before, timing.peak_bytes()


def test_peak_memory_holds_what_was_freed():
    first, last = timing.apart(allocated)
    assert 2**24 < first < last < first + 2**28 + 2**24
    assert last >= 2**28


def test_processes_of_a_cluster_measure_alone(monkeypatch):
    monkeypatch.setattr(processes, "start", lambda: pytest.fail("joins the others"))
    monkeypatch.setattr(timing.cli, "keep_freed_memory", lambda: None)
    assert timing._prepared(dict, {"a": 1}) == {"a": 1}


@pytest.mark.faults
def test_process_that_dies_is_a_users_error():
    with pytest.raises(UserError, match="_exit was killed, most likely for memory"):
        timing.apart(os._exit, status=1)


def test_ratios_are_between_rows_of_equal_size():
    rows = [
        {"batch_size": batch, "seconds": seconds, "cpu_seconds": 2 * seconds}
        for batch, seconds in ((4, 6.0), (1, 2.0), (1, 30.0), (4, 3.0))
    ]
    timing.add_ratios(rows)
    assert [row.get("times_first") for row in rows] == [None, None, 15.0, 0.5]
    assert [row.get("times_first_cpu") for row in rows] == [None, None, 15.0, 0.5]


def test_rows_are_columns_with_units():
    rows = [{"name": "a", "flop": 2e9, "peak_bytes": 3 * 2**20}, {"name": "a", "flop": None}]
    assert timing.shown(rows).splitlines() == [
        "             1: a  2: a",
        "flop        2.0 G     –",
        "peak_bytes  3 MiB     –",
    ]
    assert timing.line(rows[0]) == "a: flop 2.0 G, peak_bytes 3 MiB"
