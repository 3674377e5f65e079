import csv
import math
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from histojax.errors import UserError
from launch import sweep, sweep_table

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = "configs/segmentation.py"
# What stands for the main command: it notes its words and where it runs, and leaves scores.
STAND_IN = """
import json, os, pathlib, sys, time
words = dict(word.split("=", 1) for word in sys.argv[1:])
folder = pathlib.Path(words["--workdir"])
folder.mkdir(parents=True, exist_ok=True)
with (folder / "calls").open("a") as file:
    file.write(os.environ.get("CUDA_VISIBLE_DEVICES", "-") + "\\n")
if words.get("--config.steps") == "0":
    sys.exit("histojax: steps=0 has to be 1 or more")
if words.get("--config.steps") == "9":
    import signal
    signal.signal(signal.SIGTERM, lambda *_: ((folder / "stopped").touch(), sys.exit(0)))
    time.sleep(60)
time.sleep(0.2)
(folder / "evaluation").mkdir()
seed = int(words["--config.seed"])
(folder / "evaluation" / "per_image.csv").write_text(
    "name,group,dice_hr_to_s,dice_otsu\\n"
    f"TCGA-A7-A13E-01Z,a,{0.5 + 0.1 * seed},0.1\\nTCGA-B0-5711-01Z,b,{0.7 + 0.1 * seed},0.1\\n"
)
(folder / "summary.json").write_text("{}")
"""


# The command as its module runs it, with the stand-in for the main one.
DRIVER = """
import sys
from absl import flags
from histojax import command
from launch import sweep
sweep.PROGRAM = (sys.executable, "main.py")
flags.mark_flag_as_required("output")
command.run(sweep.main, words=True)
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A folder with a config and a main command that trains nothing."""
    (tmp_path / "main.py").write_text(STAND_IN)
    (tmp_path / "driver.py").write_text(DRIVER)
    (tmp_path / "configs").mkdir()
    (tmp_path / CONFIG).touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sweep, "PROGRAM", (sys.executable, "main.py"))
    return tmp_path


def calls(job):
    return (job.folder / "calls").read_text().split()


def test_names_come_from_config_size_and_overrides():
    root = str(ROOT / CONFIG)
    name, words = sweep.named(f"{root}:smoke --config.steps=5 --config.data.source=folder:/a/b")
    assert name == "segmentation-smoke-steps_5-data.source_folder_a_b"
    assert words == (
        f"--config={root}:smoke",
        "--config.steps=5",
        "--config.data.source=folder:/a/b",
    )
    assert sweep.named(f"plain: --config={root}")[0] == "plain"
    spaced = sweep.named(f"plain: {root} '--config.data.source=folder:/a b'")[1]
    assert spaced[1] == "--config.data.source=folder:/a b"


def test_a_sweep_goes_seed_by_seed(tmp_path):
    root = str(ROOT / CONFIG)
    jobs = sweep.plan([f"a: {root}", f"b: {root}"], ["0", "3"], ["--config.steps=2"], tmp_path)
    assert [(job.name, job.seed) for job in jobs] == [("a", 0), ("b", 0), ("a", 3), ("b", 3)]
    assert jobs[3].folder == tmp_path / "b" / "seed_3"
    assert jobs[0].words == (f"--config={root}", "--config.steps=2")


@pytest.mark.faults
@pytest.mark.parametrize(
    ("runs", "seeds", "common", "said"),
    [
        ([], ["0"], [], r"a sweep has no runs; give --run"),
        (["nothing.py"], ["0"], [], r"nothing.py is not a file"),
        (["a: "], ["0"], [], r"names no config"),
        (["{} --steps=3"], ["0"], [], r"'--steps=3' is not an override"),
        (["{} 'half"], ["0"], [], r"cannot be read \(No closing quotation\)"),
        (["../a: {}"], ["0"], [], r"'../a' cannot name a folder"),
        (["a: {}", "a: {}"], ["0"], [], r"two runs are called 'a'"),
        (["{}"], ["0", "x"], [], r"'x' is not a whole number"),
        (["{}"], ["1", "1"], [], r"each once"),
        (["{}"], ["0"], ["--config.seed=4"], r"given by --seeds, not by --config.seed=4"),
        (["{}"], ["0"], ["steps=4"], r"after --: 'steps=4' is not an override"),
    ],
)
def test_what_cannot_be_run_is_refused(runs, seeds, common, said, tmp_path):
    with pytest.raises(UserError, match=said):
        sweep.plan([run.format(ROOT / CONFIG) for run in runs], seeds, common, tmp_path)


def test_runs_share_devices_and_are_not_run_twice(stand_in):
    jobs = sweep.plan([f"a: {CONFIG}", f"b: {CONFIG}"], ["0", "1"], [], stand_in / "out")
    assert sweep.Runner(["4", "5"])(jobs) == []
    devices = [calls(job) for job in jobs]
    assert all(len(each) == 1 for each in devices)
    assert {each[0] for each in devices} == {"4", "5"}
    assert sweep.Runner([None])(jobs) == []
    assert [calls(job) for job in jobs] == devices


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
    # Means .6, .7 and .8 of the three seeds, whose standard deviation is .1.
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
def test_a_failed_run_is_named_with_its_last_words_and_the_others_run(stand_in):
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
def test_other_words_under_a_known_name_are_refused(tmp_path):
    root = str(ROOT / CONFIG)
    # What was refused before it began does not bind its name.
    sweep.claim(sweep.plan([f"a: {root}"], ["5"], ["--config.stepz=3"], tmp_path), tmp_path)
    sweep.claim(sweep.plan([f"a: {root}"], ["0"], [], tmp_path), tmp_path)
    (tmp_path / "a" / "seed_0").mkdir(parents=True)
    (tmp_path / "a" / "seed_0" / "config.json").touch()
    again = sweep.claim(sweep.plan([f"a: {root}"], ["1"], [], tmp_path), tmp_path)
    assert [job.seed for job in again] == [0, 1]
    with pytest.raises(UserError, match=r"was run with --config=\S+, not with .* --config.steps=3"):
        sweep.claim(sweep.plan([f"a: {root}"], ["0"], ["--config.steps=3"], tmp_path), tmp_path)
    (tmp_path / "sweep.json").write_text('{"a": []}')
    with pytest.raises(UserError, match=r"sweep.json is damaged"):
        sweep.claim(sweep.plan([f"a: {root}"], ["0"], [], tmp_path), tmp_path)


def test_the_spread_of_one_seed_is_not_known():
    rows = [{"run": "a", "seed": 0, "image": "x", "organ": "", "dice_hr_to_s": 0.5}]
    (entry,) = sweep_table.aggregate(rows, ["dice_hr_to_s"])
    assert math.isnan(entry["sd"])
    assert sweep_table.cell(entry) == "0.5000 (1)"
    assert sweep_table.cell(None) == "-"


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
    assert "<td>-</td>" in page
