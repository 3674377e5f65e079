"""Shared fixtures, and JAX set up for tiny networks, which compile far longer than they run."""

import gc
import importlib.metadata
import os
import pathlib
import zlib

import filelock
import pytest

from histojax.cli import cpu_flags  # of which nothing imports JAX yet


def pytest_configure(config):
    """Sets up JAX before any test imports it: two CPU devices, eight for the slow comparisons."""
    count = 2 if "not slow" in config.option.markexpr else 8
    os.environ["XLA_FLAGS"] = " ".join(
        [
            os.environ.get("XLA_FLAGS", ""),
            f"--xla_force_host_platform_device_count={count}",
            "--xla_backend_optimization_level=0",
            # A program in one piece: cut in 32, it takes a fifth longer to compile.
            "--xla_cpu_parallel_codegen_split_count=1",
            *cpu_flags(),
        ]
    ).strip()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        # Compiled programs are kept between runs of the tests.
        root = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
        flags = zlib.crc32(os.environ["XLA_FLAGS"].encode())
        kind = f"{importlib.metadata.version('jax')}-{flags:08x}"
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(
            pathlib.Path(root) / "histojax" / "tests" / kind
        )
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"


def pytest_collection_modifyitems(items):
    """Tests of the chain come first: one process trains it while the other has tests of its own."""
    items.sort(key=lambda item: "trained_chain" not in getattr(item, "fixturenames", ()))


def pytest_collection_finish(session):
    """A full collection goes through all that JAX keeps: rare ones save a twelfth of the time."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


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
    # The first process that needs it trains it, and the others wait.
    with filelock.FileLock(workdir.parent / "lock"):
        if not (workdir / "summary.json").is_file():
            chain.run(tiny.config("joint"), workdir)
    return workdir
