"""Shared fixtures. Eight CPU devices are forced, so that device counts can be compared, and XLA's
optimiser is off, because compiling takes far longer than the tiny networks of the tests run."""

import fcntl
import os
import pathlib
import tempfile

from histojax.cli import OLDER_FUSIONS  # of which nothing imports JAX yet

os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        "--xla_backend_optimization_level=0",
        OLDER_FUSIONS,
    ]
).strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
    # What one test has compiled, the others need not.
    _cache = tempfile.TemporaryDirectory(prefix="histojax-tests-", ignore_cleanup_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"

import pytest


@pytest.fixture(scope="session")
def real_data() -> pathlib.Path:
    """The folder of real H&E sets (monuseg/, tnbc/, slides/), or a skip that says why."""
    root = os.environ.get("HISTOJAX_TEST_DATA", "")
    if not root:
        pytest.skip(
            "HISTOJAX_TEST_DATA is not set: it names the folder that holds monuseg/ and tnbc/"
        )
    path = pathlib.Path(root)
    if not path.is_dir():
        pytest.skip(f"HISTOJAX_TEST_DATA={root} is not a folder")
    return path


@pytest.fixture(scope="session")
def trained_chain(tmp_path_factory) -> pathlib.Path:
    """The workdir of a whole chain (generator, segmentation, srgan, joint), tiny; read only."""
    from histojax.experiments import chain
    from tests import tiny

    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # that of all processes of this run of the tests
    workdir = folder / "chain" / "run"
    workdir.parent.mkdir(exist_ok=True)
    with (workdir.parent / "lock").open("w") as lock:
        # The first process that needs it trains it, and the others wait.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (workdir / "summary.json").is_file():
            chain.run(tiny.config("joint"), workdir)
    return workdir
