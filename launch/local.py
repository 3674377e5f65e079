"""Starts one command of histojax in several processes on this machine, which compute as one.

    python -m launch.local --processes=2 --devices_per_process=2 -- \\
        --config=configs/joint.py --workdir=runs/joint

runs histojax.main; the words after `--` are its flags. What process 0 prints is shown, that of the
others goes to files in WORKDIR/processes. Each has a part of the cores, and of the accelerators the
next --devices_per_process; on a machine without, as many CPU devices. When one fails the others are
ended. SIGINT and SIGTERM are passed on, and the run writes its checkpoint first.
"""

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import time
from collections.abc import Sequence

from absl import flags

from histojax import cli, processes
from histojax.data import cores
from histojax.errors import UserError
from launch import jobs

_PROCESSES = flags.DEFINE_integer(
    "processes", None, "Number of processes. Example: --processes=2. Required.", 1
)
_DEVICES = flags.DEFINE_integer(
    "devices_per_process", 1, "Devices of each process. Example: --devices_per_process=4", 1
)
# Seconds that the others have to end by themselves after one has failed, and after SIGTERM.
_PATIENCE = 10.0


def main(argv: Sequence[str]) -> None:
    """Starts the processes, waits for them and says which failed and why."""
    words = list(argv[1:])
    if len(processes.without_flags(words)) < len(words):
        raise UserError("--coordinator, --num_processes and --process_id are set by launch.local")
    folder = _logs(words)
    with jobs.signals() as seen:
        running = _start(words, folder)
        failed = _wait(running, seen)
    if failed is not None:
        index, status = failed
        log = folder / f"{index}.log"
        why = f"killed by {signal.Signals(-status).name}" if status < 0 else f"status {status}"
        said = "see above"
        if index:
            said = f"{jobs.last_line(log.read_text(errors='replace'))} ({log})"
        # 2: of a sentence that names its own remedy.
        remedy = "" if status == 2 else "; the same command goes on from the last checkpoint"
        raise UserError(f"process {index} of {len(running)} failed ({why}): {said}{remedy}")


def _logs(words: Sequence[str]) -> pathlib.Path:
    """The folder in the workdir for the output of processes 1 and up."""
    given = dict(word.lstrip("-").partition("=")[::2] for word in words)
    if not given.get("config"):
        raise UserError("after -- come flags of histojax.main; give --config=FILE[:SIZE] first")
    folder = (
        pathlib.Path(given.get("workdir") or cli.default_workdir(given["config"])) / "processes"
    )
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _start(words: Sequence[str], folder: pathlib.Path) -> list[subprocess.Popen[bytes]]:
    """The processes, in sessions of their own, so that a terminal's Ctrl-C comes to them once."""
    count, devices, port = _PROCESSES.value, _DEVICES.value, _free_port()
    given = [*words, f"--coordinator=127.0.0.1:{port}", f"--num_processes={count}"]
    started = []
    for index, part in enumerate(cores.shares(count)):
        local = range(index * devices, (index + 1) * devices)
        own = {
            "JAX_NUM_CPU_DEVICES": str(devices),
            "JAX_LOCAL_DEVICE_IDS": ",".join(map(str, local)),
        }
        options = {"env": {**os.environ, **own}, "start_new_session": True}
        with (folder / f"{index}.log").open("wb") if index else contextlib.nullcontext() as log:
            options |= {"stdout": log, "stderr": log and subprocess.STDOUT}
            started.append(jobs.start([*given, f"--process_id={index}"], part, **options))
    return started


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait(running: Sequence[subprocess.Popen[bytes]], seen: list[int]) -> tuple[int, int] | None:
    """Waits for all; (number, status) of the process that failed first, if one did."""
    failed, passed, ends = None, 0, None
    while any(process.poll() is None for process in running):
        time.sleep(0.1)
        for number in seen[passed:]:
            _send(running, number)
        passed = len(seen)
        bad = [(i, p.returncode) for i, p in enumerate(running) if p.returncode]
        if bad and failed is None:
            failed, ends = bad[0], time.monotonic() + _PATIENCE
        if ends is not None and time.monotonic() > ends:
            _send(running, signal.SIGKILL)
    bad = [(i, p.returncode) for i, p in enumerate(running) if p.returncode]
    return failed or (bad[0] if bad else None)


def _send(running: Sequence[subprocess.Popen[bytes]], number: int) -> None:
    for process in running:
        if process.poll() is None:
            process.send_signal(number)


if __name__ == "__main__":
    flags.mark_flag_as_required("processes")
    cli.run(main, words=True)
