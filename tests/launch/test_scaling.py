import json
import pathlib
import subprocess
import sys

import pytest

from histojax.errors import UserError
from tests.launch.commands import load

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def scaling(monkeypatch):
    """The command's module, which reads its default config from the repository."""
    monkeypatch.chdir(ROOT)
    return load("launch.scaling")


# ml_collections reads config files by it.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


def test_rows_are_compared_with_the_first(scaling):
    times = [(1, 8, 4.0, 4.0), (4, 8, 2.0, 5.0)]
    rows = scaling.compared(
        [
            {"devices": n, "batch_size": b, "images_per_second": b / t, "cpu_seconds": cpu}
            for n, b, t, cpu in times
        ]
    )
    # Four devices halve the time: half of their throughput. 5 CPU seconds stand beside 4.
    assert [row["efficiency"] for row in rows] == [1.0, 0.5]
    assert [row["times_cpu"] for row in rows] == [1.0, 1.25]


@pytest.mark.faults
@pytest.mark.parametrize("words", [[], ["0"], ["1", "two"]])
def test_numbers_of_devices_are_checked(scaling, words):
    with pytest.raises(UserError, match="has to be numbers from 1"):
        scaling.counts_of(words)


@pytest.mark.slow
def test_command_measures_draws_and_writes(tmp_path):
    words = ["--config=configs/generator.py:smoke", "--config.data.batch_size=4", "--steps=2"]
    command = [sys.executable, "-m", "launch.scaling", *words, "--devices=2,1"]
    done = subprocess.run(
        [*command, f"--output={tmp_path}"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "scaling.json").read_text())["rows"]
    sizes = {kind: [(r["devices"], r["batch_size"]) for r in rows[kind]] for kind in rows}
    assert sizes == {"strong": [(1, 4), (2, 4)], "weak": [(1, 2), (2, 4)]}
    # The largest number of devices has one batch in both, and is measured once.
    assert rows["strong"][1]["seconds"] == rows["weak"][1]["seconds"]
    assert (tmp_path / "scaling.html").read_text().count("<svg") == 2
