"""Measures the training step on several numbers of devices, weak and strong, and plots both.

    python -m launch.scaling --config=configs/joint.py:gpu --devices=1,2,4,8 --output=runs/scaling

Strong scaling divides the batch of the config; weak scaling gives each device the batch that the
largest number of devices gives it. It writes scaling.json and scaling.html. Devices are
the first of this machine; on a machine without accelerators they are CPU devices, which share its
cores. Each measurement has a process of its own.

`efficiency` is the throughput of a device, over that with the first number of devices. `times_cpu`
is the CPU time of an image, over the same: what dividing the batch costs, whatever the cores.
"""

import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags
from ml_collections import config_flags

from histojax import cli
from histojax.errors import UserError

Row = dict[str, Any]
_CONFIG = config_flags.DEFINE_config_file(
    "config", "configs/joint.py:laptop", "FILE[:SIZE] of the stage. Example: configs/unet.py:gpu"
)
_DEVICES = flags.DEFINE_list(
    "devices", ["1", "2", "4", "8"], "Numbers of devices. Example: --devices=1,4"
)
_STEPS = flags.DEFINE_integer("steps", 20, "Runs that are timed. Example: --steps=5", 1)
_OUTPUT = flags.DEFINE_string("output", "runs/scaling", "Folder of the results. Example: out")
# Heading, field, higher is better.
_COLUMNS = (
    ("batch", "batch_size", None),
    ("seconds", "seconds", None),
    ("images/s", "images_per_second", True),
    ("efficiency", "efficiency", True),
    ("CPU seconds", "cpu_seconds", None),
    ("times_cpu", "times_cpu", False),
)


def measure(values: Mapping[str, Any], *, devices: int, batch_size: int, steps: int) -> Row:
    """The step of a stage on the first `devices` of this machine, in a process without a backend.

    Raises:
        UserError: for more devices than there are.
    """
    import jax

    from histojax.config import from_values
    from histojax.runs import workdirs
    from histojax.training import sharding
    from launch.benchmark import timing
    from launch.benchmark.steps import Step, untrained_stage

    jax.config.update("jax_num_cpu_devices", devices)
    cli.keep_freed_memory()  # of as many devices
    local = jax.local_devices()
    if len(local) < devices:
        raise UserError(f"--devices={devices} is more than this machine's {len(local)}; give fewer")
    config = from_values(dict(values))
    stage = untrained_stage(config)
    example = workdirs.example_batch(config)  # zeros, which take as long as tissue
    batch = {name: example[name].repeat(batch_size, axis=0) for name in stage.fields}
    step = Step(stage, config, batch, sharding.data_mesh(local[:devices]))
    spent = timing.timed(step, steps)
    rate = batch_size / spent["seconds"]
    row = {"devices": devices, "batch_size": batch_size, **spent, "images_per_second": rate}
    return row | step.row | {"peak_bytes": timing.peak_bytes()}


def compared(rows: Sequence[Row]) -> list[Row]:
    """Rows of one kind of scaling, with efficiency and times_cpu against the first."""
    first = rows[0]
    rate, cpu = (first["images_per_second"] / first["devices"], first["cpu_seconds"])
    return [
        {
            **row,
            "efficiency": row["images_per_second"] / row["devices"] / rate,
            "times_cpu": row["cpu_seconds"] / row["batch_size"] / (cpu / first["batch_size"]),
        }
        for row in rows
    ]


def counts_of(words: Sequence[str]) -> list[int]:
    """--devices as numbers, in their order.

    Raises:
        UserError: for a word that is no number from 1.
    """
    if not words or not all(word.strip().isdecimal() and int(word) for word in words):
        raise UserError(f"--devices={','.join(words)} has to be numbers from 1, such as 1,2,4")
    return sorted({int(word) for word in words})


def write(output: pathlib.Path, result: Mapping[str, Any]) -> str:
    """Writes scaling.json and scaling.html; returns the tables as text."""
    from histojax.imaging import writers
    from histojax.report import charts, document, table

    columns = [table.Column(title, "", better) for title, _, better in _COLUMNS]
    tables = []
    for kind, rows in result["rows"].items():
        cells = [
            [table.Cell(table.number_text(row[key])) for _, key, _ in _COLUMNS] for row in rows
        ]
        lines = [table.Row(str(row["devices"]), of) for row, of in zip(rows, cells, strict=True)]
        tables.append(table.Table("devices", columns, lines, kind))
    plots = []
    for title, key in (("images per second", "images_per_second"), ("efficiency", "efficiency")):
        curves = [
            charts.Series(kind, [row["devices"] for row in rows], [row[key] for row in rows])
            for kind, rows in result["rows"].items()
        ]
        plots.append(charts.line_chart(curves, title=title, axis="devices"))
    hardware = result["hardware"]
    lead = f"{result['config']} on {hardware['kind']}, {hardware['cores']} cores."
    sections = [
        document.Section("Over devices", charts=plots),
        document.Section("Measured", tables=tables),
    ]
    writers.write_json(output / "scaling.json", result)
    page = output / "scaling.html"
    document.write(page, "sections", title="Scaling", lead=lead, sections=sections)
    return "\n".join(f"{one.caption}\n{one.text()}\n" for one in tables)


def main(argv: Sequence[str]) -> None:
    """Parses flags, measures, prints and writes."""
    del argv
    counts = counts_of(_DEVICES.value)
    # After flags, so that --help and bad flags answer at once.
    from histojax.config import to_values
    from histojax.training import loop
    from launch.benchmark import timing

    config = _CONFIG.value
    for count in counts:
        loop.check(config, count)
    size, values = config.data.batch_size, to_values(config)
    batches = {"strong": dict.fromkeys(counts, size)}
    batches["weak"] = {count: size // counts[-1] * count for count in counts}
    done: dict[tuple[int, int], Row] = {}
    for kind, of in batches.items():
        for count, batch in of.items():
            print(f"{kind}: {count} devices, batch {batch}", file=sys.stderr, flush=True)
            if (count, batch) not in done:
                options = dict(devices=count, batch_size=batch, steps=_STEPS.value)
                done[count, batch] = timing.apart(measure, values=values, **options)
    rows = {kind: compared([done[key] for key in of.items()]) for kind, of in batches.items()}
    output = pathlib.Path(_OUTPUT.value)
    conditions = timing.conditions(flags.FLAGS["config"].config_filename)
    print(write(output, {**conditions, "rows": rows}))
    print(output / "scaling.html")


if __name__ == "__main__":
    cli.run(main)
