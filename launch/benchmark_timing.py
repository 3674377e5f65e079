"""How the benchmark measures: repeated wall time, peak memory, peak arithmetic, a process apart."""

from __future__ import annotations

import concurrent.futures
import contextlib
import multiprocessing
import pathlib
import re
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from histojax import cli
from histojax.errors import UserError
from histojax.training import sharding

# No run is begun once so many seconds are gone.
PATIENCE = 30.0


def apart(
    function: Callable[..., Any], *arguments: Any, trains: bool = False, **options: Any
) -> Any:
    """`function(*arguments, **options)` in a process of its own, set up as commands set up theirs.

    No measurement inherits another's memory, threads or compiled programs.

    Args:
        function: of a module's top level.
        arguments, options: picklable.
        trains: whether the process treats freed memory as histojax.main does.

    Raises:
        UserError: if the process dies.
    """
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(_prepared, trains, function, arguments, options).result()
        except BrokenProcessPool:
            raise UserError(
                f"{function.__name__} was killed, most likely for memory; choose a smaller size or "
                "batch, or leave it out of --what"
            ) from None


def _prepared(
    trains: bool,
    function: Callable[..., Any],
    arguments: Sequence[Any],
    options: Mapping[str, Any],
) -> Any:
    cli.set_up_jax()
    if trains:
        cli.keep_freed_memory()
    return function(*arguments, **options)


def repeated(
    run: Callable[[], Any], repeats: int, *, patience: float = PATIENCE
) -> dict[str, float]:
    """Seconds of a run that blocks until its results are there.

    The first run warms up and is left out, unless it alone takes more than `patience` seconds: then
    it is the only one. Others follow until there are `repeats` or `patience` seconds are gone, and
    at least one.

    Returns:
        seconds (median), seconds_10 and seconds_90 (percentiles) of wall time; cpu_seconds (median
        over the process's threads together), which other processes on the machine change less;
        repeats.
    """
    first = _seconds(run)
    taken = [first] if first[0] > patience else []
    left = patience - first[0]
    while not taken or (len(taken) < repeats and left > 0):
        taken.append(_seconds(run))
        left -= taken[-1][0]
    wall, cpu = zip(*taken, strict=True)
    low, high = np.percentile(wall, (10, 90))
    return {
        "seconds": statistics.median(wall),
        "seconds_10": float(low),
        "seconds_90": float(high),
        "cpu_seconds": statistics.median(cpu),
        "repeats": len(taken),
    }


def _seconds(run: Callable[[], Any]) -> tuple[float, float]:
    """Wall and CPU seconds of one run."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - cpu


def compiled(function: Any, *arguments: Any) -> tuple[Any, dict[str, Any]]:
    """A jitted function compiled for its arguments, and what that took and made.

    Returns:
        The program; {compile_seconds: tracing included; flop: of one device, as XLA counts what it
        runs; planned_bytes: arguments, results and temporaries by XLA's plan}. What the backend
        does not tell is None.
    """
    with _without_cache():
        started = time.perf_counter()
        program = function.lower(*arguments).compile()
        seconds = time.perf_counter() - started
    memory = program.memory_analysis()
    planned = memory and (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes
    )
    flop = (program.cost_analysis() or {}).get("flops")
    return program, {"compile_seconds": seconds, "flop": flop, "planned_bytes": planned}


@contextlib.contextmanager
def _without_cache() -> Iterator[None]:
    """Compiles anew, also what JAX's cache of compiled programs holds."""
    before = jax.config.jax_enable_compilation_cache
    try:
        jax.config.update("jax_enable_compilation_cache", False)
        # JAX looks at the setting once in a process, and again after this.
        compilation_cache.reset_cache()
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()


def peak_memory() -> dict[str, Any]:
    """The most memory held so far: {peak_bytes, peak_of}.

    peak_of is "device", the fullest device's, where the backend counts it, else "process".
    """
    counts = [
        (device.memory_stats() or {}).get("peak_bytes_in_use") for device in jax.local_devices()
    ]
    if None not in counts:
        return {"peak_bytes": max(counts), "peak_of": "device"}
    return {"peak_bytes": process_peak_bytes(), "peak_of": "process"}


def process_peak_bytes() -> int:
    """The high-water mark of this process's resident memory."""
    # getrusage would do, but on Linux it remembers the process that this one was forked from.
    status = pathlib.Path("/proc/self/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    if found:
        return int(found[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def matmul_peak(mesh: Mesh, dtype: Any, *, size: int | None = None, repeats: int = 5) -> float:
    """FLOP a second that a large matrix product reaches on all devices of a mesh at once.

    This stands for the hardware's peak; the fastest of the runs counts.

    Args:
        mesh: over "data".
        dtype: of the operands.
        size: side of the matrices; None takes 2,048 on CPU and 8,192 elsewhere.
        repeats: number of runs.
    """
    if size is None:
        size = 2_048 if mesh.devices.flat[0].platform == "cpu" else 8_192
    shape = (mesh.size, size, size)
    placed = sharding.batch_sharding(mesh)
    left = jax.jit(lambda: jnp.full(shape, 0.5, dtype), out_shardings=placed)()
    product = jax.jit(
        jax.shard_map(
            lambda a: a @ a, mesh=mesh, in_specs=P(sharding.AXIS), out_specs=P(sharding.AXIS)
        )
    )
    product(left).block_until_ready()
    seconds = [_seconds(lambda: product(left).block_until_ready())[0] for _ in range(repeats)]
    return 2.0 * mesh.size * size**3 / min(seconds)
