import csv
import json
import math
import os
import signal
import subprocess
import sys
import time

import pytest

from histojax.errors import UserError
from launch import sweep_table
from tests.launch.stand_in import CONFIG, ROOT

# The command as its module runs it, with the stand-in for the main one.
DRIVER = """
import sys
from absl import flags
from histojax import cli
from launch import jobs, sweep
jobs.PROGRAM = (sys.executable, "main.py")
flags.mark_flag_as_required("output")
cli.run(sweep.main, words=True)
"""


@pytest.fixture
def stand_in(stand_in):
    (stand_in / "driver.py").write_text(DRIVER)
    return stand_in


def test_a_host_takes_its_share(stand_in):
    words = ["--run", f"a: {CONFIG}", "--run", f"b: {CONFIG}", "--seeds=0,1,2", "--output=out"]
    for host in (1, 0):
        done = command(*words, "--hosts=2", f"--host={host}", cwd=stand_in)
        assert done.returncode == 0, done.stderr
        assert ("3 of 6 runs are not done yet" in done.stderr) == (host == 1)
    assert [p.parent.name for p in sorted(stand_in.glob("out/*/*/calls"))] == [
        f"seed_{seed}" for seed in (0, 1, 2, 0, 1, 2)
    ]
    table = list(csv.DictReader((stand_in / "out" / "table.csv").read_text().splitlines()))
    # The means of the three seeds are 0.6, 0.7 and 0.8; their standard deviation is 0.1.
    whole = next(row for row in table if row["run"] == "a" and row["organ"] == "all")
    assert whole["metric"] == "dice_hr_to_s"
    assert [float(whole[k]) for k in ("seeds", "images", "mean", "sd")] == pytest.approx(
        [3, 2, 0.7, 0.1]
    )
    kidney = next(row for row in table if row["run"] == "a" and row["organ"] == "kidney")
    assert float(kidney["mean"]) == pytest.approx(0.8)
    assert "0.7000 ± 0.1000 (3)" in done.stdout
    assert "0.7000 ± 0.1000 (3)" in (stand_in / "out" / "sweep.html").read_text()


@pytest.mark.faults
def test_a_failed_run_is_named_and_the_others_run(stand_in):
    done = command(
        f"--run=bad: {CONFIG} --config.steps=0", f"--run=good: {CONFIG}", "--output=out",
        cwd=stand_in,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1] == (
        "histojax: 1 of 2 runs failed: bad, seed 0: histojax: steps=0 has to be 1 or more "
        "(out/bad/seed_0.log)"
    )
    assert (stand_in / "out" / "good" / "seed_0" / "summary.json").is_file()
    assert "good" in done.stdout


@pytest.mark.faults
def test_a_signal_stops_the_runs_first(stand_in):
    with subprocess.Popen(
        words_of(f"--run=long: {CONFIG} --config.steps=9", "--output=out"),
        cwd=stand_in, env=environment(), stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        folder = stand_in / "out" / "long" / "seed_0"
        deadline = time.monotonic() + 60
        while not (folder / "calls").is_file() and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 130
        said = process.stderr.read()
    assert (folder / "stopped").is_file()
    assert "Traceback" not in said


@pytest.mark.faults
def test_the_spread_of_one_seed_is_not_known():
    rows = [{"run": "a", "seed": 0, "image": "x", "organ": "", "dice_hr_to_s": 0.5}]
    (entry,) = sweep_table.aggregate(rows, ["dice_hr_to_s"])
    assert math.isnan(entry["sd"])
    assert sweep_table.cell_text(entry) == "0.5000 (1)"


@pytest.mark.faults
def test_an_unknown_metric_is_refused_with_those_there_are(tmp_path):
    rows = [{"run": "a", "seed": 0, "image": "x", "organ": "", "dice_hr_to_s": 0.5}]
    with pytest.raises(UserError, match=r"no run has 'aji'; choose out of dice_hr_to_s"):
        sweep_table.write(tmp_path, rows, ["aji"])
    assert not list(tmp_path.iterdir())


@pytest.mark.faults
def test_a_run_without_scores_is_named(tmp_path):
    with pytest.raises(UserError, match=r"per_image.csv cannot be read .* histojax.evaluate"):
        sweep_table.collect({("a", 0): tmp_path})


def test_runs_that_differ_in_name_alone_are_marked(tmp_path):
    folders = {}
    for name, seed, dice in (
        ("exp4", 0, 0.5),
        ("exp5", 0, 0.5),
        ("exp4", 1, 0.5),
        ("exp7", 0, 0.6),
    ):
        folder = folders[name, seed] = tmp_path / name / f"seed_{seed}"
        (folder / "evaluation").mkdir(parents=True)
        (folder / "evaluation" / "per_image.csv").write_text(
            f"name,group,dice_hr_to_{name}\nx,a,{dice}\ny,b,\n"
        )
        (folder / "config.json").write_text(json.dumps({"name": name, "seed": seed}))
    rows = sweep_table.collect(folders)
    notes = sweep_table.same_runs(folders, rows)
    assert notes == [
        "exp4, seed 0, and exp5, seed 0, are the same run: they train alike, and their scores are "
        "equal."
    ]
    keys = [key for key in rows[0] if key.startswith("dice")]
    assert notes[0] in sweep_table.write(tmp_path / "out", rows, keys, notes)
    assert notes[0] in (tmp_path / "out" / "sweep.html").read_text()
    # A run whose config is gone is compared with none.
    (folders["exp4", 0] / "config.json").unlink()
    assert sweep_table.same_runs(folders, rows) == []


def words_of(*words):
    return [sys.executable, "driver.py", *words]


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def command(*words, cwd):
    return subprocess.run(
        words_of(*words), cwd=cwd, env=environment(), capture_output=True, text=True, timeout=120
    )


def test_a_score_that_an_organ_lacks_is_a_dash(tmp_path):
    rows = [
        {"run": "a", "seed": 0, "image": "x", "organ": "liver", "psnr_rgb_sr": 28.0},
        {"run": "b", "seed": 0, "image": "y", "organ": "", "dice_hr_to_s": 0.5},
    ]
    sweep_table.write(tmp_path, rows)
    page = (tmp_path / "sweep.html").read_text()
    assert "liver" in page
    assert '<td class="none">–</td>' in page


def test_the_table_has_the_scores_of_classes():
    names = ["dice_hr_to_p", "class_miou_hr_to_p", "class_dice_stroma_hr_to_p"]
    others = ["miou_hr_to_p", "class_miou_bicubic_to_p", "dice_classical"]
    row = dict.fromkeys([*names, *others], 0.5)
    assert sweep_table.main_metrics([row]) == names
