"""Shared fixtures. Eight CPU devices are forced, so that device counts can be compared, and XLA's
optimiser is off, because compiling takes far longer than the tiny networks of the tests run."""

import os
import pathlib
import tempfile

from histojax.command import OLDER_FUSIONS  # of which nothing imports JAX yet

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
    from histojax import chain
    from tests import tiny

    workdir = tmp_path_factory.mktemp("chain") / "run"
    chain.run(tiny.config("joint"), workdir)
    return workdir
