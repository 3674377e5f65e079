import platform
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
    ).stdout.split()
    assert said[0] == "True"
    # Ten arrays of 64 MiB or more are 320 pages even of 2 MiB, where each is mapped anew.
    assert int(said[1]) < 100


def test_other_systems_are_left_alone(monkeypatch):
    from histojax import cli

    monkeypatch.setattr(sys, "platform", "darwin")
    assert cli.keep_freed_memory() is False
