import platform
import subprocess
import sys

import pytest

PROGRAM = """
import concurrent.futures, resource, sys
import numpy as np
from histojax import host_memory
kept = host_memory.keep_freed_memory()

def faults():
    for _ in range(3):
        np.ones(2**23)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        np.ones(2**23)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if sys.argv[1] == "main thread":
    print(kept, faults())
else:
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        print(kept, pool.submit(faults).result())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has mallopt")
@pytest.mark.parametrize("where", ["main thread", "another thread"])
def test_freed_memory_is_used_again_without_page_faults(where):
    said = subprocess.run(
        [sys.executable, "-c", PROGRAM, where], capture_output=True, text=True, check=True
    ).stdout.split()
    assert said[0] == "True"
    # Ten arrays of 64 MiB are 320 pages even of 2 MiB, where each is mapped anew.
    assert int(said[1]) < 100


def test_other_systems_are_left_alone(monkeypatch):
    from histojax import host_memory

    monkeypatch.setattr(sys, "platform", "darwin")
    assert host_memory.keep_freed_memory() is False
