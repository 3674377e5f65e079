import os
import platform
import re
import subprocess
import sys

import pytest

PROGRAM = """
import concurrent.futures, resource, sys
import numpy as np
from histojax import cli
kept = cli.keep_freed_memory()

def faults(at_once):
    for _ in range(3):
        [np.ones(2**23) for _ in range(at_once)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10 if at_once == 1 else 1):
        [np.ones(2**23) for _ in range(at_once)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

at_once = int(sys.argv[2])
if sys.argv[1] == "main thread":
    print(kept, faults(at_once))
else:
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        print(kept, pool.submit(faults, at_once).result())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has mallopt")
@pytest.mark.parametrize(
    ("where", "at_once"),
    # Forty are 2.5 GiB, more than a threshold of 31 bits would leave.
    [("main thread", 1), ("another thread", 1), ("main thread", 40)],
)
def test_freed_memory_is_used_again_without_page_faults(where, at_once):
    said = subprocess.run(
        [sys.executable, "-c", PROGRAM, where, str(at_once)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"XLA_FLAGS": ""},  # one device
    ).stdout.split()
    assert said[0] == "True"
    # Ten arrays of 64 MiB or more are 320 pages even of 2 MiB, where each is mapped anew.
    assert int(said[1]) < 100


ARENAS = """
import ctypes, threading
from histojax import cli
cli.keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
at_once = threading.Barrier(9)

def allocate():
    libc.malloc(2**16)
    at_once.wait()

for _ in range(8):
    threading.Thread(target=allocate).start()
at_once.wait()
libc.malloc_stats()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has mallopt")
@pytest.mark.parametrize(
    ("flags", "setting", "arenas"),
    [
        ("", "", 1),
        ("--xla_force_host_platform_device_count=0", "", 1),
        ("--xla_force_host_platform_device_count=3 --xla_cpu_enable_fast_math=false", "", 3),
        ("--xla_force_host_platform_device_count=3", "2", 2),
    ],
)
def test_each_cpu_device_has_an_arena(flags, setting, arenas):
    environment = os.environ | {"XLA_FLAGS": flags}
    environment.pop("JAX_NUM_CPU_DEVICES", None)
    if setting:
        environment["JAX_NUM_CPU_DEVICES"] = setting
    said = subprocess.run(
        [sys.executable, "-c", ARENAS], capture_output=True, text=True, check=True, env=environment
    ).stderr
    assert re.findall(r"Arena (\d+):", said) == [str(number) for number in range(arenas)]


def test_other_systems_are_left_alone(monkeypatch):
    from histojax import cli

    monkeypatch.setattr(sys, "platform", "darwin")
    assert cli.keep_freed_memory() is False
