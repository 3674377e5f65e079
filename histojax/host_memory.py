"""How the host's memory allocator treats the large temporaries of a training step."""

from __future__ import annotations

import ctypes
import sys

# Parameters of mallopt(3), from glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8


def keep_freed_memory() -> bool:
    """Lets the process keep what it frees, for the next step's arrays; whether that was possible.

    By default glibc returns large blocks to the kernel, and every step on CPU pays again for
    mapping and zeroing the same pages. One arena serves all threads, because blocks of 64 MiB and
    more do not fit the arenas of other threads and are mapped anew each time: a training step of
    the segmenter took 1.45 times as long. Other C libraries are left as they are.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        libc = ctypes.CDLL(None)
    except OSError:
        return False
    if not (hasattr(libc, "gnu_get_libc_version") and hasattr(libc, "mallopt")):
        return False
    values = {
        _M_MMAP_MAX: 0,
        _M_TRIM_THRESHOLD: -1,  # never
        _M_TOP_PAD: 2**28,
        _M_ARENA_MAX: 1,
    }
    return all([libc.mallopt(name, value) == 1 for name, value in values.items()])
