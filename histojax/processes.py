"""Several processes that compute as one, on JAX's own distributed runtime.

A command joins the others where the cluster (SLURM, Open MPI, Kubernetes, Cloud TPU) or its flags
name several; one process alone costs nothing. A process that is lost or fails ends all of them with
a sentence: each counts up a number in the runtime's store, and process 0 looks at the numbers. JAX
alone would print a stack trace, or wait for ever inside a collective.
"""

import contextlib
import ctypes
import dataclasses
import importlib.util
import itertools
import json
import os
import re
import signal
import socket
import sys
import threading
import time
import traceback
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from absl import flags

from histojax.errors import UserError

FLAGS = ("coordinator", "num_processes", "process_id")
_ROOT = "histojax"
# Seconds: between two looks; until a silent process is lost; until JAX ends the job without naming
# the process, after half of it at the earliest; until all have connected; in which a process may
# end by its own sentence.
_LOOK, _SILENT, _HEARTBEAT, _CONNECT, _GRACE = 1.0, 20, 58, 180, 2.0
_FOREVER = 10**9  # ms
_LONGEST = 300  # characters of a reason
_REACH = (
    "check that all of them run, and that the coordinator (--coordinator, or as the cluster has "
    "it) is a free port of process 0's machine, which the others reach"
)
_GOES_ON = "the same command goes on from the last checkpoint"
# What a collective or barrier says when another process is gone.
_GONE = re.compile(
    r"gloo|nccl|rccl|barrier|heartbeat|coordination|UNAVAILABLE|connection (reset|closed)",
    re.IGNORECASE,
)


@dataclasses.dataclass
class _Group:
    """The processes of this command; `client` speaks to the store of process 0."""

    client: Any
    index: int
    count: int
    over: threading.Event
    numbers: Iterator[int]


_group: _Group | None = None
_reason = ""
_handler: Any = None  # a C function pointer, which must outlive its use


def define_flags(known: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags that name the processes where no cluster does."""
    where = "Host and port of process 0, where a command runs in several. Example: 10.0.0.1:1234."
    flags.DEFINE_string("coordinator", None, where, flag_values=known)
    for name, words, lowest in (
        ("num_processes", "Number of processes. Example: 2.", 1),
        ("process_id", "Number of this process, from 0. Example: 1.", 0),
    ):
        flags.DEFINE_integer(name, None, words, lower_bound=lowest, flag_values=known)


def without_flags(words: list[str]) -> list[str]:
    """A command line without those flags."""
    return [word for word in words if word.lstrip("-").partition("=")[0] not in FLAGS]


def index() -> int:
    """Number of this process, 0 where it is alone."""
    return 0 if _group is None else _group.index


def count() -> int:
    """Number of processes."""
    return 1 if _group is None else _group.count


def first() -> bool:
    """Whether this is the process that writes and speaks."""
    return index() == 0


def start() -> None:
    """Joins the other processes, if there are any; before JAX is used.

    Raises:
        UserError: flags that do not fit each other, or processes that cannot be reached.
    """
    global _group
    given = _given(flags.FLAGS)
    if _group is not None or given.get("num_processes") == 1:
        return
    if not given and not _in_cluster():
        return
    import jax

    # It would take SIGTERM, which the training loop answers with a checkpoint.
    jax.config.update("jax_enable_preemption_service", False)
    with _speaking_when_aborted():
        _group = _joined(given)
    if _group is not None:
        threading.Thread(target=_watch, args=(_group,), daemon=True).start()
        jax.devices()  # which the processes list together, those too that then only wait


def _joined(given: dict[str, Any]) -> _Group | None:
    """The processes that the flags name or JAX finds; None: this one is alone."""
    import jax

    try:
        jax.distributed.initialize(
            given.get("coordinator"),
            given.get("num_processes"),
            given.get("process_id"),
            initialization_timeout=_CONNECT,
            heartbeat_timeout_seconds=_HEARTBEAT,
            shutdown_timeout_seconds=_HEARTBEAT,
        )
    except ValueError as error:
        if not given:  # a machine that only looked like one of several
            return None
        raise UserError(f"the processes cannot be set up ({error}); see --coordinator") from error
    except Exception as error:  # a cluster's own, such as that of a service account not mounted
        line = str(error).partition("\n")[0] or type(error).__name__
        remedy = "" if given else "; --num_processes=1 runs this one alone"
        raise UserError(f"the processes cannot be joined ({line}): {_REACH}{remedy}") from error
    # JAX offers no public way to the store that its runtime keeps; orbax takes the same one.
    from jax._src.distributed import global_state

    if global_state.num_processes == 1:
        return None
    return _Group(
        client=global_state.client,
        index=global_state.process_id,
        count=global_state.num_processes,
        over=threading.Event(),
        numbers=itertools.count(),
    )


def _given(known: flags.FlagValues) -> dict[str, Any]:
    """Flags that name the processes: all, none, or that there is one."""
    if not all(name in known for name in FLAGS) or not known.is_parsed():
        return {}
    values = {name: known[name].value for name in FLAGS}
    given = {name: value for name, value in values.items() if value is not None}
    missing = [f"--{name}" for name in FLAGS if name not in given]
    if not given or given.get("num_processes") == 1:
        return given
    if missing:
        raise UserError(
            f"{' and '.join(missing)} is missing: --coordinator, --num_processes and --process_id "
            "go together"
        )
    if given["process_id"] >= given["num_processes"]:
        raise UserError(
            f"--process_id={given['process_id']} has to be below --num_processes="
            f"{given['num_processes']}"
        )
    if not re.fullmatch(r".+:\d+", given["coordinator"]):
        raise UserError(
            f"--coordinator={given['coordinator']} has to be HOST:PORT, such as 10.0.0.1:1234"
        )
    return given


def _in_cluster() -> bool:
    """Whether JAX's own detection may find several processes; it asks a network in some places."""
    environment = os.environ
    for variable in ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE"):
        if environment.get(variable, "").isdigit():
            # Outside a step of SLURM's, JAX finds nothing.
            return int(environment[variable]) > 1
    if {"KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"} <= environment.keys() and (
        # JAX asks by this package, and needs a subdomain, without which pods have no domain name.
        importlib.util.find_spec("kubernetes") is not None and "." in socket.getfqdn()
    ):
        return True
    platforms = environment.get("JAX_PLATFORMS", "tpu")
    return "tpu" in platforms and importlib.util.find_spec("libtpu") is not None


def gather(value: Any) -> list[Any]:
    """A JSON-able value of every process, in their order; floats stay exact. Waits for all."""
    if _group is None:
        return [value]
    number = next(_group.numbers)
    place = f"{_ROOT}/gather/{number}"
    _group.client.key_value_set(f"{place}/{_group.index:06d}", json.dumps(value))
    _group.client.wait_at_barrier(place, _FOREVER)
    if _group.index == 0 and number:
        _group.client.key_value_delete(f"{_ROOT}/gather/{number - 1}/")  # which all have read
    found = sorted(_group.client.key_value_dir_get(f"{place}/"))
    return [json.loads(text) for _, text in found]


def wait() -> None:
    """Waits for all processes, however long they take."""
    gather(None)


@contextlib.contextmanager
def first_alone() -> Iterator[bool]:
    """A block in which the first process writes: True there, once all others have come as far.

    They wait at its end.
    """
    wait()
    yield first()
    wait()


def check_alike(what: str, make: Callable[[], Any]) -> None:
    """Refuses to go on where a JSON-able value is not the same in all processes.

    Raises:
        UserError: it is not.
    """
    if _group is None:
        return
    found = gather(zlib.crc32(json.dumps(make(), sort_keys=True).encode()))
    others = [p for p, other in enumerate(found) if other != found[0]]
    if others:
        raise UserError(
            f"process {others[0]} has another {what} than process 0: give all the same command, "
            "shared workdir, data, versions and kind of machine"
        )


@contextlib.contextmanager
def leaving_together() -> Iterator[None]:
    """Around a command: all processes end well together, or one's failure ends all."""
    status: Any = None
    try:
        yield
    except SystemExit as end:
        if _group is None or end.code not in (None, 0):
            _leave(_reason, end.code)
            raise
        status = end
    except BaseException as error:
        if _group is None:
            raise
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if isinstance(error, Exception) and _GONE.search(str(error)):
            time.sleep(_SILENT + 4 * _GRACE)  # in which the watching thread names the process
        if isinstance(error, KeyboardInterrupt):
            _leave("was interrupted", 128 + signal.SIGINT)
        traceback.print_exc()
        line = str(error).strip().partition("\n")[0]
        _leave(f"{type(error).__name__}: {line}"[:_LONGEST], 1)
    if _group is not None:
        _end_together(_group)
    if status is not None:
        raise status


def _end_together(group: _Group) -> None:
    """Ends the runtime, once all processes have come as far."""
    import jax

    try:
        wait()
    except Exception:  # another is gone, and the watching thread says which
        time.sleep(_SILENT + 4 * _GRACE)
        _end(1)
    group.over.set()
    jax.distributed.shutdown()


def keep_reason(sentence: str) -> None:
    """Keeps why this process is about to end, for the others to say."""
    global _reason
    _reason = " ".join(sentence.split())[:_LONGEST]


def _leave(reason: str, status: Any) -> None:
    """Ends this process, after the others know why; does nothing where it is alone."""
    if _group is None:
        return
    number = status if isinstance(status, int) else 1
    with contextlib.suppress(Exception):
        _announce(_group, _group.index, reason or f"ended with status {number}")
        _linger(_group)
    _end(number)


def _announce(group: _Group, index: int, reason: str) -> None:
    """Tells all that a process has ended; an empty reason: as it was told to."""
    group.client.key_value_set(f"{_ROOT}/ended/{index}", reason, allow_overwrite=True)


def _ended(group: _Group) -> dict[int, str]:
    found = group.client.key_value_dir_get(f"{_ROOT}/ended/")
    return {int(key.rpartition("/")[2]): reason for key, reason in found}


def _linger(group: _Group) -> None:
    """In process 0: leaves the store open until the others have read it."""
    deadline = time.monotonic() + 4 * _GRACE
    while group.index == 0 and len(_ended(group)) < group.count and time.monotonic() < deadline:
        time.sleep(0.1)


def _end(status: int) -> NoReturn:
    """Ends at once: an ordinary end would wait for the processes that are gone."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(status)


def _watch(group: _Group) -> None:
    """Counts up this process's number, and ends the process when another has ended."""
    began = time.monotonic()
    seen: dict[int, tuple[str, float]] = dict.fromkeys(range(group.count), ("", began))
    for number in itertools.count():
        if group.over.wait(_LOOK):
            return
        try:
            group.client.key_value_set(
                f"{_ROOT}/alive/{group.index}", str(number), allow_overwrite=True
            )
            if group.index == 0:
                _judge(group, seen)
            told = {p: reason for p, reason in _ended(group).items() if reason}
        except Exception:
            told = {0: ""}  # the store is gone, and so is process 0, which keeps it
        told.pop(group.index, None)
        if told:
            break
    if group.over.wait(_GRACE):  # it may be about to say the same by itself
        return
    other, reason = min(told.items())
    _say(
        f"process {other} of {group.count} "
        f"{f'ended ({reason})' if reason else 'is gone'}, so all end: {_GOES_ON}"
    )
    with contextlib.suppress(Exception):
        _announce(group, group.index, "")
        _linger(group)
    _end(1)


def _judge(group: _Group, seen: dict[int, tuple[str, float]]) -> None:
    """Announces the end of processes whose number has stood still for too long."""
    now = time.monotonic()
    for key, value in group.client.key_value_dir_get(f"{_ROOT}/alive/"):
        process = int(key.rpartition("/")[2])
        if seen[process][0] != value:
            seen[process] = (value, now)
    for process, (_, last) in seen.items():
        if process and now - last > _SILENT:
            words = f"no sign of life for {_SILENT} s: killed, out of memory, or its machine gone"
            _announce(group, process, words)


def _say(sentence: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, f"histojax: {sentence}\n".encode())


@contextlib.contextmanager
def _speaking_when_aborted() -> Iterator[None]:
    """From this block on, adds a sentence where JAX's runtime aborts; unless it makes no group.

    It does so when the processes do not find each other, and at once when process 0 is gone.
    """
    global _handler

    def speak(_: int) -> None:
        lost = f"process 0 of {count()} is gone, or JAX failed (see above), so all end: {_GOES_ON}"
        absent = f"the processes did not find each other in {_CONNECT} s: {_REACH}"
        _say(absent if _group is None else lost)
        os._exit(1)

    _handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(speak)
    libc = ctypes.CDLL(None)
    libc.signal.argtypes, libc.signal.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p
    before = libc.signal(signal.SIGABRT, _handler)
    try:
        yield
    finally:
        if _group is None:
            libc.signal(signal.SIGABRT, before)
