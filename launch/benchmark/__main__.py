"""Measures how fast this machine trains, reads data, enhances images and scores nuclei.

    python -m launch.benchmark --config=configs/joint.py:laptop --output=runs/benchmark
    python -m launch.benchmark --config=configs/generator.py:paper --what=grouped,streaming

prints and writes each row to benchmark.json as it comes, and a table for each measurement. With
--resume a command that was cut goes on. The measurements (--what):

    step            each stage's training step, its input pipeline alone, and both together
    inference       tiled inference of the networks of each stage
    input           each stage's input pipeline alone (--config.data.workers, data.placement)
    layers          each convolution of a stage alone, beside PyTorch's with --against=torch
    grouped         the generator's step by the grouped convolution in use, and by its other forms,
                    such as XLA's
    streaming       a made-up slide through a small network, file to files
    postprocessing  nuclei of maps, and with all of the mask flooded
    geojson         500,000 nuclei of a slide to NAME.geojson.gz
    synthesis       tissue for a large mask by a pyramid, file to files
    instances       scores of 1,024 nuclei, by one table and by loops, and of 70,225 nuclei
    residuals       bytes that the gradients of each stage's step keep, by shape

Each measurement has a process of its own. Networks are untrained, but for --synthesis_workdir.

--against=torch adds each network of a stage by itself: its forward pass, and a step of forward,
backward and AdamW, in JAX and in PyTorch on the same device, with equal numbers of parameters.
`jax_over_torch_seconds` is JAX's time of the step over PyTorch's, `jax_over_torch_forward_seconds`
that of the forward pass.

`seconds` is the median of `repeats` runs after a warm-up; a run over 30 s is not repeated.
`cpu_seconds` are those of all threads, which a shared machine changes less. `flop` counts the
compiled program: the dense kernel of a grouped convolution counts with its zeros, which
`model_flop` leaves out. `share_of_peak` and `model_share_of_peak` compare them with a large matrix
product in the same process. `peak_bytes` is that of the fullest device where the backend counts it,
else that of the process. `border_ratio` is the difference of neighbours across borders of tiles,
over that inside. `times_first` compares with the first row of equal batch and size.
"""

import pathlib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from absl import flags
from ml_collections import config_flags

from histojax import cli
from histojax.errors import UserError

Measurement = tuple[Callable[..., Any], dict[str, Any]]
OF_STAGES = ("step", "inference", "input")
WHAT = (*OF_STAGES, "layers", "grouped", "streaming", "postprocessing", "geojson")
WHAT += ("synthesis", "instances", "residuals")

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    "configs/joint.py:laptop",
    "FILE[:SIZE] of the config whose stages are measured by step, inference, input, layers and "
    "grouped. Example: --config=configs/use_net.py:gpu",
)
_WHAT = flags.DEFINE_list(
    "what",
    list(OF_STAGES),
    f"Measurements to run, out of {', '.join(WHAT)}. Example: --what=grouped",
)
_AGAINST = flags.DEFINE_enum(
    "against",
    None,
    ["torch"],
    "Measures each network of the stages in JAX and in PyTorch too, which has to be installed. "
    "Example: --against=torch",
)
_STEPS = flags.DEFINE_integer("steps", 20, "Runs that are timed. Example: --steps=5", 1)
_BATCH = flags.DEFINE_integer(
    "batch",
    0,
    "Images of a step for grouped; 0, the default, takes 4 on CPU, where other forms take 1, and "
    "data.batch_size elsewhere. Example: --batch=16",
    0,
)
_SIZE = flags.DEFINE_integer(
    "size",
    0,
    "Side in px of the image for inference (0, the default, takes 1,024), streaming (5,000), "
    "postprocessing (3,072) and synthesis (4,096). Example: --size=2048",
    0,
)
_TILE = flags.DEFINE_integer(
    "tile",
    0,
    "Largest tile in px; 0 takes 1,024 for streaming and 512 for synthesis. Example: --tile=256",
    0,
)
_PYRAMID = flags.DEFINE_string(
    "synthesis_workdir",
    "",
    "Workdir of the pyramid for synthesis; by default it is untrained. "
    "Example: --synthesis_workdir=runs/pyramid",
)
_OUTPUT = flags.DEFINE_string(
    "output", "runs/benchmark", "Folder of benchmark.json. Example: --output=out"
)
_RESUME = flags.DEFINE_bool(
    "resume",
    False,
    "Keeps the rows of benchmark.json that the same code, config, options, versions and hardware "
    "gave. Example: --resume",
)


def measurements(stages: Mapping[str, Any], platform: str) -> dict[str, list[Measurement]]:
    """The functions of each word of --what, with their options; each call has its own process."""
    from histojax.models import convolutions
    from launch.benchmark import against, inference, residuals, single_layers, steps

    repeats, size, batch = _STEPS.value, _SIZE.value, _BATCH.value
    of_stages = [dict(values=values, name=name) for name, values in stages.items()]
    tiled = dict(size=size or 1_024, repeats=repeats)
    alone = dict(repeats=repeats, torch=_AGAINST.value is not None)
    grouped = []
    if "generator" in stages:
        values = stages["generator"]
        batch = batch or (4 if platform == "cpu" else values["data"]["batch_size"])
        # XLA's form takes seconds an image on CPU.
        others = 1 if platform == "cpu" else batch
        forms = [("auto", batch), *((form, others) for form in convolutions.GROUPED_FORMS)]
        for form, count in dict.fromkeys(forms):
            grouped.append(dict(values=values, repeats=repeats, form=form, batch_size=count))
    slide = dict(size=size or 5_000, tile=_TILE.value or 1_024)
    maps = [dict(size=size or 3_072, whole=whole) for whole in (False, True)]
    mask = dict(size=size or 4_096, tile=_TILE.value or 512, workdir=_PYRAMID.value)
    squares = [dict(size=1_000, across=32, loops=True), dict(size=10_000, across=265, loops=False)]
    return {
        "step": [(steps.measure_step, dict(of, steps=repeats)) for of in of_stages],
        "inference": [(inference.measure_tiled, of | tiled) for of in of_stages],
        "input": [(steps.measure_input, of) for of in of_stages],
        "layers": [(single_layers.measure, of | alone) for of in of_stages],
        "residuals": [(residuals.measure_residuals, of) for of in of_stages],
        "torch": [(against.compare, dict(of, repeats=repeats)) for of in of_stages],
        "grouped": [(steps.measure_grouped, options) for options in grouped],
        "streaming": [(inference.measure_streaming, slide)],
        "postprocessing": [(inference.measure_postprocessing, options) for options in maps],
        "geojson": [(inference.measure_geojson, dict(count=500_000))],
        "synthesis": [(inference.measure_synthesis, mask)],
        "instances": [(inference.measure_instances, dict(of, repeats=repeats)) for of in squares],
    }


def main(argv: Sequence[str]) -> None:
    """Parses flags, measures, prints and writes."""
    del argv
    for word in _WHAT.value:
        if word not in WHAT:
            raise UserError(f"--what has {word!r}, which is none of {', '.join(WHAT)}")
    # After flags, so that --help and bad flags answer at once.
    from histojax.config import to_values
    from histojax.experiments import chain
    from histojax.imaging import writers
    from histojax.report.table import text_table
    from launch.benchmark import against, resuming, timing

    words, versions = list(_WHAT.value), {}
    if _AGAINST.value:
        words += [_AGAINST.value] * (words != ["layers"])
        versions["torch"] = against.version()
    stages = {stage.name: to_values(stage) for stage in chain.stages_of(_CONFIG.value)}
    if "grouped" in words and "generator" not in stages:
        raise UserError(
            "--what=grouped measures the stage generator, which --config does not have; "
            "take --config=configs/generator.py:paper"
        )
    path = pathlib.Path(_OUTPUT.value) / "benchmark.json"
    result = timing.conditions(flags.FLAGS["config"].config_filename)
    result["versions"] |= versions
    rows: dict[str, list[dict[str, Any]]] = {word: [] for word in words}
    keys: dict[str, list[str]] = {word: [] for word in words}
    result |= {"rows": rows, "keys": keys}
    before = resuming.kept(path) if _RESUME.value else {}
    plan = measurements(stages, result["hardware"]["platform"])
    for word, function, options in in_order(words, plan):
        key = resuming.key(function, options, result)
        kept = before.get(key, [])
        print(f"{'kept' if kept else 'measuring'} {word}", file=sys.stderr, flush=True)
        for row in rows_of(function, options, kept):
            rows[word].append(row)
            keys[word].append(key)
            if word not in (*OF_STAGES, "layers", "residuals", _AGAINST.value):
                timing.add_ratios(rows[word])
            print(f"{word}, {timing.line(row)}", file=sys.stderr, flush=True)
            if row not in kept:
                writers.write_json(path, result)
    for word, found in rows.items():
        print(f"{word}\n{(text_table if word == 'layers' else timing.shown)(found)}\n")
    print(*(f"{name} {version}" for name, version in result["versions"].items()), sep=", ")
    print(path, file=sys.stderr)


def in_order(
    words: Sequence[str], plan: Mapping[str, list[Measurement]]
) -> list[tuple[str, Callable[..., Any], dict[str, Any]]]:
    """All measurements; those of one stage follow one another, PyTorch's the last of them."""
    found = [(word, *measurement) for word in words for measurement in plan[word]]
    stages = list(dict.fromkeys(options.get("name") for _, _, options in found))
    return sorted(found, key=lambda each: stages.index(each[2].get("name")))


def rows_of(
    function: Callable[..., Any], options: Mapping[str, Any], kept: Sequence[dict[str, Any]]
) -> Iterable[dict[str, Any]]:
    """The rows of a measurement as they come, where `kept` has not all of them."""
    from launch.benchmark import against, timing

    if function is against.compare:  # its networks have processes of their own
        return against.compare(**options, kept={row["name"]: row for row in kept})
    return kept or timing.apart(function, **options)


if __name__ == "__main__":
    cli.run(main)
