"""CPU cores that a process may use, and how several processes share them out."""

import os
import re
from pathlib import Path

import numpy as np

_SIBLINGS = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"


def usable() -> list[int]:
    """Numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def shares(count: int) -> list[set[int] | None]:
    """The cores of each of `count` processes that run at a time; None: any of them.

    Processes that each spread over all cores wait for each other's threads. Threads of one physical
    core go to one process. One alone, and more than there are cores, may use any.
    """
    mine = usable()
    if count == 1 or len(mine) < count or not hasattr(os, "sched_setaffinity"):
        return [None] * count
    parts = np.array_split(sorted(mine, key=lambda core: (_physical(core), core)), count)
    return [set(part.tolist()) for part in parts]


def _physical(core: int) -> int:
    """The lowest number of the threads that share this one's physical core."""
    try:
        siblings = Path(_SIBLINGS.format(core)).read_text()
    except OSError:
        return core
    lowest = re.match(r"\d+", siblings)
    return int(lowest[0]) if lowest else core
