"""Runs configs over seeds, as many at a time as there are devices, and tabulates their scores.

    python -m launch.sweep --run=configs/ablations/use_net.py:exp1 \\
        --run="no_stain: configs/use_net.py --config.data.stain.method=none" \\
        --seeds=0,1,2 --output=runs/ablation -- --config.data.source=folder:$MONUSEG

Each run is histojax.main in a process and a workdir of its own, OUTPUT/NAME/seed_K, with its log
beside it. Overrides after `--` go to all runs, and {seed} in an override stands for the seed.
A run that is done does not run again and a run that was stopped continues, so the same command
continues a sweep, also with more runs or seeds. `--devices=0,1,2,3` gives each of four runs at a
time one accelerator; `--jobs` is the number of runs at a time on a machine without, each on a part
of its cores. `--hosts=4 --host=0` runs every fourth of them, on a file system that the hosts share.
SIGINT and SIGTERM stop the runs, which write their checkpoints first.

The same command writes OUTPUT/table.csv (mean over seeds and its spread, for all images and by
organ where their names tell it), images.csv (a row for each image of each run) and sweep.html.
"""

import pathlib
from collections.abc import Sequence

from absl import flags

from histojax import cli
from histojax.cli import say
from histojax.errors import UserError
from launch import jobs, sweep_table

_RUN = flags.DEFINE_multi_string(
    "run",
    [],
    "A run, [NAME:] CONFIG[:SIZE] and overrides; repeat the flag for more. "
    'Example: --run="short: configs/use_net.py:smoke --config.steps=5"',
)
_SEEDS = flags.DEFINE_list("seeds", ["0"], "Seeds of each run. Example: --seeds=0,1,2")
_OUTPUT = flags.DEFINE_string("output", None, "Folder of the sweep. Example: --output=runs/sweep")
_HOSTS = flags.DEFINE_integer("hosts", 1, "Hosts that share the sweep. Example: --hosts=4", 1)
_HOST = flags.DEFINE_integer("host", 0, "Number of this host, from 0. Example: --host=3", 0)
_METRICS = flags.DEFINE_list(
    "metrics",
    [],
    "Scores to tabulate, by their names in metrics.json; by default the main ones. "
    "Example: --metrics=dice_hr_to_s",
)
_TABLE_ONLY = flags.DEFINE_bool(
    "table_only", False, "Whether to tabulate what is there and run nothing. Example: --table_only"
)
_JOBS = flags.DEFINE_integer(
    "jobs",
    1,
    "Runs at a time where --devices names none; they share the cores. Example: --jobs=2",
    1,
)
_DEVICES = flags.DEFINE_list(
    "devices",
    [],
    "Accelerators, each for one run at a time; by default a run uses all. Example: --devices=0,1",
)


def main(argv: Sequence[str]) -> None:
    """Parses flags, runs and tabulates."""
    if _HOST.value >= _HOSTS.value:
        raise UserError(f"--host={_HOST.value} has to be below --hosts={_HOSTS.value}")
    output = pathlib.Path(_OUTPUT.value)
    wanted = jobs.plan(_RUN.value, _SEEDS.value, argv[1:], output)
    jobs.claim(wanted, output)
    failed: list[jobs.Job] = []
    if not _TABLE_ONLY.value:
        mine = wanted[_HOST.value :: _HOSTS.value]
        failed = jobs.run_all(mine, _DEVICES.value, _JOBS.value)
    finished = jobs.finished(output)
    rows = sweep_table.collect(finished)
    if rows:
        notes = sweep_table.same_runs(finished, rows)
        print(sweep_table.write(output, rows, _METRICS.value, notes))
    waiting = sum(not job.done for job in wanted) - len(failed)
    if waiting:
        say(f"{waiting} of {len(wanted)} runs are not done yet; the same command continues them")
    jobs.check(failed, wanted)


if __name__ == "__main__":
    flags.mark_flag_as_required("output")
    cli.run(main, words=True)
