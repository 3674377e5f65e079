import json
import math
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from absl import flags
from PIL import Image

from histojax.errors import UserError
from tests import tiny
from tests.launch.commands import load, loaded

ROOT = pathlib.Path(__file__).parents[2]
tissue_report = load("launch.tissue_report")


def test_middles_are_compared_with_rims_in_density():
    instances = np.zeros((80, 80), np.int32)
    y, x = np.mgrid[:80, :80]
    image = np.full((80, 80, 3), 240, np.uint8)
    # Of 12 px in radius, one vesicular and one dark in its middle; and one too small to have one.
    for number, (row, column, middle, rim) in enumerate([(20, 20, 200, 100), (20, 60, 50, 100)], 1):
        far = np.hypot(y - row, x - column)
        instances[far < 12] = number
        image[far < 12], image[far < 8.5] = rim, middle
    instances[60:66, 60:66] = 7
    # And one that the border cuts off, whose own outline is not to be seen there.
    instances[50:78, :20] = 9
    image[50:78, :20] = 10
    found = tissue_report.middle_over_rim(image, instances)
    np.testing.assert_allclose(found, [-math.log(2), math.log(2)], atol=1e-6)
    row = tissue_report.statistics(image, instances)
    assert row["pale_middles"] == 0.5
    bare = tissue_report.statistics(image, 0 * instances)
    assert math.isnan(bare["pale_middles"])
    # What no image has is nothing, and what some have is theirs.
    table = tissue_report.summary([bare, bare])
    assert all(math.isnan(value) for value in table["pale_middles"].values())
    assert tissue_report.summary([bare, row])["pale_middles"]["mean"] == 0.5
    rows = {row[""]: row for row in tissue_report.table_of(table, table)}
    assert rows["nuclear_fraction"]["within"] == "yes"
    assert "within" not in rows["pale_middles"]


def report(*words):
    with loaded("launch.tissue_report") as command:
        flags.FLAGS(["", *words])
        command.main([])


def test_real_images_are_compared_with_built_in_and_other_ones(tmp_path, capsys):
    tiny.folder(tmp_path / "real", count=3)
    tiny.folder(tmp_path / "made", count=2)
    real, output = f"--real=folder:{tmp_path / 'real'}", tmp_path / "out"
    size = ("--size=64", "--split=all", f"--output={output}")
    report(real, *size, "--patients=2", "--patches=1")
    assert "patches of 64 px per second" in capsys.readouterr().out
    table = json.loads((output / "table.json").read_text())
    assert list(table["images"]["synthetic"]) == ["patient 0", "patient 1"]
    report(real, *size, f"--synthetic=folder:{tmp_path / 'made'}")
    assert "per second" not in capsys.readouterr().out
    table = json.loads((output / "table.json").read_text())
    assert len(table["images"]["real"]) == 3
    made = table["images"]["synthetic"]
    assert len(made) == 2
    mean = np.mean([row["nuclear_fraction"] for row in made.values()])
    assert table["synthetic"]["nuclear_fraction"]["mean"] == pytest.approx(mean, abs=1e-3)


@pytest.mark.faults
def test_images_that_cannot_be_measured_are_named(tmp_path):
    with pytest.raises(UserError, match="--output is empty: name a folder"):
        report("--real=folder:x", "--output=")
    for kind, array in (("images", np.full((64, 64, 3), 200)), ("masks", np.eye(64))):
        (tmp_path / "bare" / kind).mkdir(parents=True)
        Image.fromarray(array.astype(np.uint8)).save(tmp_path / "bare" / kind / "a.png")
    output = ("--split=all", f"--output={tmp_path / 'out'}")
    with pytest.raises(UserError, match="has no instances"):
        report(f"--real=folder:{tmp_path / 'bare'}", *output, "--size=64")
    tiny.folder(tmp_path / "small", count=1)
    with pytest.raises(UserError, match="has 64 x 64 px, and squares of 128 px are compared"):
        report(f"--real=folder:{tmp_path / 'small'}", *output, "--size=128")


@pytest.mark.faults
def test_missing_flags_are_named():
    command = [sys.executable, "-m", "launch.tissue_report", "--real=folder:x"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--output" in done.stderr
    assert "Traceback" not in done.stderr
