"""Runs configs over seeds, as many at a time as there are devices, and tabulates their scores.

    python -m launch.sweep --run=configs/ablations/use_net.py:exp1 \
        --run="no_stain: configs/use_net.py --config.data.stain.method=none" \
        --seeds=0,1,2 --output=runs/ablation -- --config.data.source=folder:$MONUSEG

Each run is the main command in a process and a workdir of its own, OUTPUT/NAME/seed_K, with its log
beside it; what follows `--` goes to all of them, and {seed} in an override stands for the seed.
What is done is not run again and what was stopped goes on, so the same command continues a sweep,
also with more runs or seeds. `--devices=0,1,2,3` gives each of four runs at a time one accelerator;
`--jobs` says how many runs share a machine without, each on a part of its cores. `--hosts=4
--host=0` runs every fourth of them, on a file system that the hosts share. SIGINT and SIGTERM stop
the runs, which write their checkpoints first.

At the end, and whenever it is asked for again: OUTPUT/table.csv (mean over seeds and its spread,
all images and by organ where their names tell it), images.csv (a row for each image of
each run) and sweep.html.
"""

from __future__ import annotations

import pathlib
import signal
from collections.abc import Sequence

from absl import flags

from histojax import cli
from histojax.cli import say
from histojax.errors import UserError
from launch import jobs, sweep_table

_RUN = flags.DEFINE_multi_string("run", [], "[NAME:] CONFIG[:SIZE] and overrides; repeat for more.")
_SEEDS = flags.DEFINE_list("seeds", ["0"], "Seeds that each run is made with.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder of the sweep.")
_JOBS = flags.DEFINE_integer(
    "jobs", 1, "Runs at a time, where no devices are named; they share the cores.", 1
)
_DEVICES = flags.DEFINE_list("devices", [], "Accelerators, each for one run at a time.")
_HOSTS = flags.DEFINE_integer("hosts", 1, "Hosts that share the sweep.", 1)
_HOST = flags.DEFINE_integer("host", 0, "This one of them, from 0.", 0)
_METRICS = flags.DEFINE_list(
    "metrics", [], "Scores to tabulate, by their names in metrics.json; default: all that matter."
)
_TABLE_ONLY = flags.DEFINE_bool("table_only", False, "Runs nothing and tabulates what is there.")


def main(argv: Sequence[str]) -> None:
    """Parses flags, runs and tabulates."""
    if _HOST.value >= _HOSTS.value:
        raise UserError(f"--host={_HOST.value} has to be below --hosts={_HOSTS.value}")
    output = pathlib.Path(_OUTPUT.value)
    wanted = jobs.plan(_RUN.value, _SEEDS.value, argv[1:], output)
    every = jobs.claim(wanted, output)
    failed: list[jobs.Job] = []
    if not _TABLE_ONLY.value:
        signal.signal(signal.SIGTERM, jobs.raise_interrupt)
        failed = jobs.Runner(jobs.slots(_DEVICES.value, _JOBS.value))(
            wanted[_HOST.value :: _HOSTS.value]
        )
    rows = sweep_table.collect({(job.name, job.seed): job.folder for job in every if job.done})
    if rows:
        print(sweep_table.write(output, rows, _METRICS.value))
    waiting = sum(not job.done for job in wanted) - len(failed)
    if waiting:
        say(f"{waiting} of {len(wanted)} runs are not done yet; the same command goes on")
    jobs.check(failed, wanted)


if __name__ == "__main__":
    flags.mark_flag_as_required("output")
    cli.run(main, words=True)
