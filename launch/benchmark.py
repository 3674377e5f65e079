"""Measures how fast a config's stages train, read their data and enhance images on this machine.

    python -m launch.benchmark --config=configs/joint.py:laptop --output=runs/benchmark
    python -m launch.benchmark --what=grouped,streaming

prints tables and writes benchmark.json. What is measured (--what):

    step        each stage's training step (compilation, time, FLOP, memory), its input pipeline
                alone, and both together
    inference   tiled inference of the networks that each stage has
    input       the input pipeline alone, for each number of --workers
    grouped     the full-size generator's step (configs/generator.py:paper): the form of grouped
                convolution in use against XLA's own, and against PyTorch where it is installed
    streaming   a made-up slide through a small untrained network, file to files: memory and time
    postprocessing  nuclei of a slide's maps, by strips and all at once: memory and time
    synthesis   tissue for a large mask by a pyramid, file to files: memory, time, and whether the
                borders of tiles show; untrained but for --synthesis_workdir=RUN
    instances   the scores of 1,000 nuclei in 1,000 x 1,000 px, beside loops over instances, and of
                70,000 in 10,000 x 10,000 px

Every measurement has a process of its own; networks are untrained.
"""

from __future__ import annotations

import os
import pathlib
import shlex
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags
from ml_collections import config_flags

from histojax import cli
from histojax.data import cores
from histojax.errors import UserError

WHAT = (
    "step",
    "inference",
    "input",
    "grouped",
    "streaming",
    "postprocessing",
    "synthesis",
    "instances",
)
# Side of the label images, px, their nuclei, and whether loops over instances run beside.
LABEL_IMAGES = ((1_000, 1_000, True), (10_000, 70_000, False))
NOTES = {
    "seconds": "wall time, median of `repeats` runs after a warm-up, each waited for; seconds_10 "
    "and seconds_90 are percentiles; a first run over 30 s is the only one, and none is begun 30 s "
    "after it",
    "cpu_seconds": "the same of CPU time over all threads, which a shared machine changes less",
    "compile_seconds": "tracing and XLA, without JAX's cache of compiled programs",
    "flop": "of the program that runs, on all devices, as XLA counts it: a grouped convolution run "
    "as dense or merged kernels counts with the zeros off its blocks",
    "flop_grouped": "of the same step with a kernel for each group: what the network asks for",
    "peak_flops": "FLOP a second that a large matrix product reaches in the step's compute dtype, "
    "in the same process; not a data sheet's figure",
    "share_of_peak": "flop / seconds / peak_flops",
    "planned_bytes": "arguments, results and temporaries of one step on one device, by XLA's plan",
    "peak_bytes": "of the fullest device where the backend counts it (peak_of = device), else the "
    "process's resident high-water mark, compilation included",
    "input": "pairs a second from the pipeline alone, once its images have been read or drawn",
    "together": "images a second with batches from the pipeline, dispatched ahead as in training; "
    "begins with its buffers partly full",
    "bottleneck": "whichever of step and input alone is slower",
    "times_slower": "step of this form / step of the form in use, at equal batch; of instances: "
    "loops over instances / scores from one table; _cpu: in CPU time",
    "times_faster": "step of the form in use / PyTorch's step, at equal batch; _cpu: in CPU time",
}

_CONFIG = config_flags.DEFINE_config_file(
    "config", "configs/joint.py:laptop", "FILE[:SIZE]; all stages of its chain are measured."
)
_STAGES = flags.DEFINE_list("stages", [], "Only these stages of the chain, by name.")
_WHAT = flags.DEFINE_list("what", list(WHAT[:3]), f"Out of {', '.join(WHAT)}.")
_STEPS = flags.DEFINE_integer("steps", 20, "Steps, or images, that are timed.", 1)
_SECONDS = flags.DEFINE_float("seconds", 5.0, "For which an input pipeline is watched.", 0.0)
_WORKERS = flags.DEFINE_list("workers", ["0", "1", "2"], "input: numbers of worker processes.")
_SIZE = flags.DEFINE_integer("inference_size", 1_024, "inference: side of the output, px.", 4)
_BATCH = flags.DEFINE_integer("grouped_batch", 4, "grouped: images a step.", 1)
_NAIVE = flags.DEFINE_integer(
    "naive_batch", 1, "grouped: images a step in other forms; XLA's takes half a minute each.", 1
)
_FORMS = flags.DEFINE_list(
    "forms", ["grouped"], "grouped: forms to compare: grouped (XLA's), merged, block_diagonal."
)
_SLIDE = flags.DEFINE_integer("streaming_size", 5_000, "streaming: side of the input, px.", 1)
_TILE = flags.DEFINE_integer("streaming_tile", 1_024, "streaming: largest tile, output px.", 16)
_NETWORKS = flags.DEFINE_enum(
    "streaming_networks", "joint", ["joint", "generator"], "streaming: networks, of size smoke."
)
_MAPS = flags.DEFINE_integer("maps_size", 10_000, "postprocessing: side of the maps, px.", 1)
_MASK = flags.DEFINE_integer("synthesis_size", 4_096, "synthesis: side of the mask, px.", 128)
_MASK_TILE = flags.DEFINE_integer("synthesis_tile", 512, "synthesis: largest tile, px.", 16)
_PYRAMID = flags.DEFINE_string("synthesis_workdir", "", "synthesis: run of a pyramid.")
_OUTPUT = flags.DEFINE_string("output", "runs/benchmark", "Folder of benchmark.json.")


def chosen(names: Sequence[str], known: Sequence[str], flag: str) -> list[str]:
    """The names, in the order of `known`.

    Raises:
        UserError: for a name that is not known.
    """
    for name in names:
        if name not in known:
            raise UserError(f"--{flag} has {name!r}, which is none of {', '.join(known)}")
    return [name for name in known if name in names]


def worker_counts(values: Sequence[str]) -> list[int]:
    """Whole numbers of 0 or more from a flag's texts.

    Raises:
        UserError: for any other text.
    """
    for value in values:
        if not value.isdecimal():
            raise UserError(f"--workers has {value!r}; give whole numbers from 0, such as 0,1,2")
    return [int(value) for value in values]


def main(argv: Sequence[str]) -> None:
    """Parses flags, measures, prints and writes."""
    del argv
    what = chosen(_WHAT.value, WHAT, "what")
    workers = worker_counts(_WORKERS.value)
    from histojax.config import to_values
    from histojax.experiments import chain, summary
    from histojax.imaging import writers
    from histojax.models import layers
    from launch import (
        benchmark_grouped,
        benchmark_instances,
        benchmark_postprocessing,
        benchmark_stages,
        benchmark_streaming,
        benchmark_synthesis,
    )
    from launch.benchmark_tables import tables
    from launch.benchmark_timing import apart

    ordered = {stage.name: to_values(stage) for stage in chain.stages_of(_CONFIG.value)}
    stages = chosen(_STAGES.value or list(ordered), list(ordered), "stages")
    forms = chosen(_FORMS.value, layers.GROUPED_FORMS[1:], "forms")
    path = pathlib.Path(_OUTPUT.value) / "benchmark.json"
    result: dict[str, Any] = {
        "cores_used": cores.usable(),
        "load_average": list(os.getloadavg()),
        **apart(summary.circumstances),
        "command": shlex.join(["python", *sys.orig_argv[1:]]),
        "notes": NOTES,
    }

    def keep(place: dict[str, Any], name: str, value: Any) -> None:
        place[name] = value
        writers.write_json(path, result)

    def say(name: str) -> None:
        print(f"measuring {name}", file=sys.stderr, flush=True)

    options = {
        "step": (
            benchmark_stages.measure_step,
            dict(steps=_STEPS.value, seconds=_SECONDS.value, trains=True),
        ),
        "inference": (
            benchmark_stages.measure_inference,
            dict(size=_SIZE.value, repeats=_STEPS.value),
        ),
        "input": (
            benchmark_stages.measure_input,
            dict(workers=workers, seconds=_SECONDS.value, trains=True),
        ),
    }
    wanted = [name for name in what if name in options]
    if wanted:
        result["config"] = flags.FLAGS["config"].config_filename
        result["stages"] = {stage: {} for stage in stages}
        for stage in stages:
            for name in wanted:
                say(f"{stage}: {name}")
                measure, values = options[name]
                keep(result["stages"][stage], name, apart(measure, ordered[stage], **values))
    if "grouped" in what:
        say("grouped")
        measured = benchmark_grouped.measure(
            batch_size=_BATCH.value,
            naive_batch_size=_NAIVE.value,
            repeats=_STEPS.value,
            forms=forms,
        )
        keep(result, "grouped", measured)
    if "streaming" in what:
        say("streaming")
        smoke = benchmark_streaming.NETWORKS[_NETWORKS.value].get_config("smoke")
        measured = apart(benchmark_streaming.measure, to_values(smoke), _SLIDE.value, _TILE.value)
        keep(result, "streaming", measured)
    if "postprocessing" in what:
        rows = []
        for form in benchmark_postprocessing.FORMS:
            say(f"postprocessing: {form}")
            rows.append(apart(benchmark_postprocessing.measure, _MAPS.value, form))
            keep(result, "postprocessing", rows)
    if "synthesis" in what:
        say("synthesis")
        values = (_MASK.value, _MASK_TILE.value, _PYRAMID.value)
        keep(result, "synthesis", apart(benchmark_synthesis.measure, *values))
    if "instances" in what:
        rows: list[dict[str, Any]] = []
        for size, count, loops in LABEL_IMAGES:
            say(f"instances: {count:,}")
            measured = apart(benchmark_instances.measure, size, count, _STEPS.value, loops=loops)
            keep(result, "instances", [*rows, measured])
            rows.append(measured)
    keep(result, "load_average_after", list(os.getloadavg()))
    print(tables(result))
    print(path, file=sys.stderr)


if __name__ == "__main__":
    cli.run(main)
