"""Time, memory and arithmetic of a run, measured in a process of its own, and rows of them."""

import concurrent.futures
import multiprocessing
import os
import pathlib
import re
import resource
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any
from unittest import mock

import jax
import numpy as np
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import Mesh

from histojax import cli
from histojax.data import cores
from histojax.errors import UserError
from histojax.experiments import summary
from histojax.models import convolutions
from histojax.report.table import text_table
from histojax.training import sharding

# No repeat starts after so many seconds.
PATIENCE = 30.0


def apart(function: Callable[..., Any], **options: Any) -> Any:
    """`function(**options)` in a process of its own, set up as histojax.main is where it is alone.

    No measurement inherits the memory, threads or compiled programs of another.

    Raises:
        UserError: if the process dies.
    """
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(_prepared, function, options).result()
        except BrokenProcessPool:
            remedy = "choose a smaller size or batch, or leave it out of --what"
            name = function.__name__
            raise UserError(f"{name} was killed, most likely for memory; {remedy}") from None


def _prepared(function: Callable[..., Any], options: dict[str, Any]) -> Any:
    cli.set_up_compilation()
    cli.keep_freed_memory()
    return function(**options)


def conditions(config: str) -> dict[str, Any]:
    """Command, config, hardware, versions and load that numbers were measured with."""
    return {
        **apart(summary.circumstances),
        "command": shlex.join(["python", *sys.orig_argv[1:]]),
        "config": config,
        "cores_used": cores.usable(),
        "load_average": os.getloadavg(),
    }


class Clock:
    """Wall and CPU seconds, summed over `with` blocks; CPU seconds are those of all threads."""

    def __init__(self) -> None:
        self.spent = {"seconds": 0.0, "cpu_seconds": 0.0}

    def __enter__(self) -> "Clock":
        self._started = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.spent["seconds"] += time.perf_counter() - self._started[0]
        self.spent["cpu_seconds"] += time.process_time() - self._started[1]


def timed(
    run: Callable[[], Any], repeats: int, *, patience: float = PATIENCE
) -> dict[str, float | int]:
    """Seconds of a run that blocks until its results are there: medians, least, and repeats.

    The first run warms up and is left out, unless it alone takes more than `patience` seconds: it
    is then the only one. Otherwise one run follows at least, and no run starts after `patience`.
    """
    with Clock() as first:
        run()
    left = patience - first.spent["seconds"]
    spent = [first.spent] if left < 0 else []
    while not spent or (len(spent) < repeats and left > 0):
        with Clock() as clock:
            run()
        spent.append(clock.spent)
        left -= clock.spent["seconds"]
    seconds = [each["seconds"] for each in spent]
    return {
        "seconds": statistics.median(seconds),
        "seconds_min": min(seconds),
        "cpu_seconds": statistics.median(each["cpu_seconds"] for each in spent),
        "repeats": len(spent),
    }


def compiled(function: Any, *arguments: Any) -> tuple[Any, dict[str, Any]]:
    """A jitted function compiled for its arguments, without JAX's cache of compiled programs.

    Returns:
        The program; {compile_seconds: tracing included; flop: of one device, as XLA counts it;
        planned_bytes: arguments, results and temporaries by XLA's plan}, None where the backend
        does not give a value.
    """
    before = jax.config.jax_enable_compilation_cache
    try:
        jax.config.update("jax_enable_compilation_cache", False)
        compilation_cache.reset_cache()  # JAX reads the setting once, and again after this
        with Clock() as clock:
            program = function.lower(*arguments).compile()
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()
    sizes = program.memory_analysis()
    kinds = ("argument", "output", "temp")
    planned = sizes and sum(getattr(sizes, f"{kind}_size_in_bytes") for kind in kinds)
    return program, {
        "compile_seconds": clock.spent["seconds"],
        "flop": (program.cost_analysis() or {}).get("flops"),
        "planned_bytes": planned and planned - sizes.alias_size_in_bytes,
    }


def peak_bytes() -> int:
    """The most memory held so far: of the fullest device, or of the process on a CPU."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    if all("peak_bytes_in_use" in each for each in stats):
        return max(each["peak_bytes_in_use"] for each in stats)
    return process_peak_bytes()


def process_peak_bytes() -> int:
    """The most memory that this process held so far."""
    # getrusage would do, but on Linux it remembers the process that this one was forked from.
    status = pathlib.Path("/proc/self/status")
    if status.exists():
        return 1024 * int(re.findall(r"VmHWM:\s+(\d+) kB", status.read_text())[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def model_flop(network: Callable[..., Any], *arguments: Any) -> float | None:
    """FLOP of a jitted function that nothing has traced yet, before compilation, of one device.

    Grouped convolutions are counted by their definition, whatever form the backend gives them.
    """
    with mock.patch.object(convolutions, "grouped_conv_form", return_value="grouped"):
        return (network.lower(*arguments).cost_analysis() or {}).get("flops")


def matmul_peak(mesh: Mesh, dtype: Any, *, size: int | None = None) -> float:
    """FLOP a second of a large matrix product on all devices of a mesh, the hardware's peak.

    Its side is by default 2,048 on CPU and 8,192 elsewhere.
    """
    size = size or (2_048 if jax.default_backend() == "cpu" else 8_192)
    left = sharding.place_batch({"left": np.full((mesh.size, size, size), 0.5, dtype)}, mesh)
    product = sharding.eval_step(lambda _, batch: batch["left"] @ batch["left"], mesh)
    spent = timed(lambda: jax.block_until_ready(product((), left)), 5)
    return 2.0 * mesh.size * size**3 / spent["seconds_min"]


def add_ratios(rows: Sequence[dict[str, Any]]) -> None:
    """Adds times_first and times_first_cpu to each row that another of equal size precedes."""
    firsts: dict[tuple[Any, Any], dict[str, Any]] = {}
    for row in rows:
        first = firsts.setdefault((row.get("batch_size"), row.get("size")), row)
        if first is not row:
            row["times_first"] = row["seconds"] / first["seconds"]
            row["times_first_cpu"] = row["cpu_seconds"] / first["cpu_seconds"]


def shown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as a table with a line for each field; bytes in MiB, FLOP in GFLOP."""

    lines: dict[str, dict[str, Any]] = {}
    for place, row in enumerate(rows, 1):
        for key, value in row.items():
            if value is not None and key.endswith("_bytes"):
                value = f"{value / 2**20:,.0f} MiB"
            elif value is not None and key in ("flop", "model_flop", "peak_flops"):
                value = f"{value / 1e9:,.1f} G"
            if key != "name":
                lines.setdefault(key, {"": key})[f"{place}: {row['name']}"] = value
    return text_table(list(lines.values()))


def line(row: Mapping[str, Any]) -> str:
    """A row as one line: its name, then each field as in `shown`."""
    fields = [" ".join(field.split()) for field in shown([row]).splitlines()[1:]]
    return f"{row['name']}: {', '.join(fields)}"
