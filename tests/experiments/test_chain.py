import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from ml_collections import ConfigDict
from PIL import Image

from histojax import files
from histojax.config import read_config
from histojax.errors import DiskError, UserError
from histojax.experiments import chain, check, init_from, summary
from histojax.runs import workdirs
from histojax.runs.metrics_log import read_metrics
from histojax.training import loop, validation
from tests import tiny

ROOT = pathlib.Path(__file__).parents[2]
NAMES = ["generator", "segmentation", "srgan", "joint"]
STOPPED = "checkpoint written; the same command goes on from there"


@pytest.fixture
def no_rehearsal(monkeypatch):
    """The whole chain of four is rehearsed by other tests, and takes seconds."""
    monkeypatch.setattr(check, "rehearse", lambda *args: None)


@pytest.fixture
def no_training(monkeypatch):
    """Any step that is taken is a failure."""

    def refuse(*args, **kwargs):
        raise AssertionError("a stage was trained")

    monkeypatch.setattr(loop, "train", refuse)


def test_stages_come_in_the_order_they_start_from_each_other():
    assert [stage.name for stage in chain.stages_of(tiny.config("joint"))] == NAMES
    assert [stage.name for stage in chain.stages_of(tiny.config("generator"))] == ["generator"]


@pytest.mark.faults
def test_two_different_stages_of_one_name_are_refused():
    config = tiny.config("joint")
    other = config.init_from.segmenter.copy_and_resolve_references()
    other.segmenter.features = 12
    config.init_from.segmenter = other
    with pytest.raises(UserError, match=r"called 'segmentation' but differ in segmenter.features"):
        chain.stages_of(config)


def test_a_chain_leaves_workdirs_for_its_stages_and_for_all(trained_chain):
    for name in NAMES:
        seen = json.loads((trained_chain / name / "manifest.json").read_text())
        assert len(seen["train"]) == len(seen["splits"]["train"]) == 4
        assert not set(seen["splits"]["train"]) & set(seen["splits"]["val"])
        starts = {"srgan": 4, "joint": 4}  # of the runs before, the same four images
        assert len(seen["before"]) == starts.get(name, 0)
    for folder in (trained_chain, *(trained_chain / name for name in NAMES)):
        for name in ("config.json", "summary.json", "report.html"):
            assert (folder / name).is_file(), folder / name
    summary = json.loads((trained_chain / "summary.json").read_text())
    assert list(summary["stages"]) == NAMES
    assert summary["name"] == "joint"
    trained = [stage["summary"]["seconds"] for stage in summary["stages"].values()]
    assert summary["training_seconds"] == pytest.approx(sum(trained))
    own = json.loads((trained_chain / "generator" / "summary.json").read_text())
    assert own["steps"] == 4
    assert own["versions"]["jax"] == jax.__version__
    assert own["data"]["images"] == 2
    assert set(own["parameters"]) == {"generator"}
    assert own["data"]["fingerprint"]


def test_a_second_call_trains_nothing(trained_chain, tmp_path, no_training, no_rehearsal, capsys):
    shutil.copytree(trained_chain, tmp_path / "run")
    summary = chain.run(tiny.config("joint"), tmp_path / "run")
    assert summary == json.loads((trained_chain / "summary.json").read_text())
    said = capsys.readouterr().err
    for name in NAMES:
        assert f"{name}: done at step 4" in said
    assert "everything is done" in said


def test_a_missing_stage_alone_is_trained_again(trained_chain, tmp_path, no_rehearsal, monkeypatch):
    shutil.copytree(trained_chain, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "srgan")
    trained = []

    def note(config, workdir, initial, known):
        trained.append((config.name, sorted(initial)))
        raise UserError("far enough")

    monkeypatch.setattr(loop, "train", note)
    with pytest.raises(UserError, match="far enough"):
        chain.run(tiny.config("joint"), tmp_path / "run")
    assert trained == [("srgan", ["generator", "segmenter"])]


@pytest.mark.faults
def test_a_differing_config_is_refused_with_its_fields(trained_chain, no_training):
    before = (trained_chain / "config.json").read_text()
    config = tiny.config("joint")
    config.loss.mask_weight = 0.5
    config.init_from.generator.init_from.generator.optimizer.b1 = 0.8
    with pytest.raises(UserError) as failure:
        chain.run(config, trained_chain)
    said = str(failure.value)
    assert "init_from.generator.init_from.generator.optimizer.b1: 0.9 -> 0.8" in said
    assert "loss.mask_weight: " in said
    assert said.count("->") == 2
    assert (trained_chain / "config.json").read_text() == before


def test_training_length_may_change_and_the_run_goes_on(trained_chain, tmp_path, capsys):
    workdir = tmp_path / "generator"
    shutil.copytree(trained_chain / "generator", workdir)
    chain.run(tiny.config("generator", steps=6), workdir)
    assert "going on from step 4" in capsys.readouterr().err
    assert json.loads((workdir / "summary.json").read_text())["steps"] == 6
    assert int(tiny.last_state(workdir).step) == 6


@pytest.mark.faults
def test_a_stage_that_others_started_from_is_not_lengthened(
    trained_chain, tmp_path, no_training, no_rehearsal
):
    workdir = tmp_path / "run"
    shutil.copytree(trained_chain, workdir)
    config = tiny.config("joint")
    config.init_from.generator.init_from.generator.steps = 6
    with pytest.raises(UserError) as failure:
        chain.run(config, workdir)
    assert str(failure.value).startswith(
        "generator would be trained further, but srgan, joint started from it as it was: "
        f"remove {workdir}/srgan, {workdir}/joint to train them again"
    )
    for name in ("srgan", "joint"):
        shutil.rmtree(workdir / name)
    with pytest.raises(AssertionError, match="a stage was trained"):
        chain.run(config, workdir)


def test_the_last_stage_may_always_be_lengthened(
    trained_chain, tmp_path, no_training, no_rehearsal
):
    shutil.copytree(trained_chain, tmp_path / "run")
    config = tiny.config("joint")
    config.steps = 6
    with pytest.raises(AssertionError, match="a stage was trained"):
        chain.run(config, tmp_path / "run")


@pytest.mark.faults
def test_a_bad_value_of_the_last_stage_is_found_at_once(tmp_path, no_training):
    for field, value, message in (
        ("loss.pixel", "l3", "loss.pixel='l3' is not known"),
        ("segmenter.features", 6, "features=6 is not a multiple of 4"),
        ("loss.adversarial.kind", "minimax", "loss.adversarial.kind='minimax' is not known"),
        ("data.degradation.name", "blindd", "degradation.name='blindd' is not known"),
        ("data.augmentation.stain_sigma", -0.5, "stain_sigma"),
        ("data.crop", 20, r"joint: .*an image of 20 x 20 pixels does not fit"),
    ):
        config = tiny.config("joint")
        if field != "loss.pixel":  # this stage alone, since the others take seconds each
            config.init_from = ConfigDict()
            config.loss.features.weight = 0.0
        if field == "data.crop":
            config.segmenter.depth = 3
        config.update_from_flattened_dict({field: value})
        with pytest.raises(UserError, match=message):
            chain.run(config, tmp_path / "run")
        assert not (tmp_path / "run").exists()


@pytest.mark.faults
def test_a_degradation_not_for_the_device_leaves_no_workdir(tmp_path, no_training):
    config = tiny.config("generator")
    config.data.placement = "device"
    config.data.degradation.name = "blind"
    with pytest.raises(UserError, match=r"placement='device' is not possible: .*; use 'host'"):
        chain.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "scale"),
    [
        ("generator", 2),
        ("joint", 3),
        ("srresnet", 8),
        pytest.param("srgan_srresnet", 8, marks=pytest.mark.slow),
    ],
)
def test_every_scale_factor_is_rehearsed(name, scale):
    config = tiny.CONFIGS[name].get_config("smoke")
    config.data.scale = scale
    ordered = chain.stages_of(config)
    assert {stage.data.scale for stage in ordered} == {scale}
    check.rehearse(ordered)


@pytest.mark.parametrize("scale", [0, 1, 5, 6])
def test_another_scale_factor_is_refused(scale, tmp_path, no_training):
    config = tiny.CONFIGS["joint"].get_config("smoke")
    config.data.scale = scale
    with pytest.raises(UserError, match=rf"scale factor {scale} .*one of \[2, 3, 4, 8\]"):
        chain.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_shifted_pairs_are_found_before_anything_is_trained(tmp_path, no_training):
    root = tiny.folder(tmp_path / "data", count=3, size=256, lr=4)
    config = tiny.config("generator")
    config.data.source = f"folder:{root}"
    check.rehearse([config])
    image = np.asarray(Image.open(root / "images" / "p2.png"))
    tiny.write_lr(root, "p2", np.roll(image, -3, axis=0), 4)  # of the val split
    with pytest.raises(UserError, match=r"1 of 1, 'p2' the furthest, (2\.9|3\.0|3\.1) hr px up"):
        chain.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    config.data.max_shift = 4.0
    check.rehearse([config])


def test_a_source_is_checked_once_for_all_stages(tmp_path, monkeypatch):
    root = tiny.folder(tmp_path / "data", lr=4)
    config = tiny.config("srgan")
    for stage in chain.stages_of(config):
        stage.data.source = f"folder:{root}"
    checked = []
    monkeypatch.setattr(
        check, "check_registration", lambda source, scale, limit: checked.append(source.split)
    )
    check.rehearse(chain.stages_of(config))
    assert checked == ["train", "val"]


@pytest.mark.faults
def test_unlabelled_images_are_found_at_once(tmp_path, no_training):
    root = tiny.folder(tmp_path / "data")
    (root / "instances" / "p1.png").unlink()
    config = tiny.config("joint")
    for stage in chain.stages_of(config):
        stage.data.source = f"folder:{root}"
    with pytest.raises(UserError, match="p1"):
        chain.run(config, tmp_path / "run")


def test_a_run_is_started_from_by_its_folder(trained_chain):
    config = tiny.config("srgan")
    generator = trained_chain / "generator"
    config.init_from = ConfigDict(
        {"generator": str(generator), "segmenter": str(trained_chain / "segmentation")}
    )
    check.rehearse(chain.stages_of(config))
    initial = init_from.initial_variables(config, {}.__getitem__)
    assert sorted(initial) == ["generator", "segmenter"]
    run = workdirs.load(generator)
    assert tiny.same(initial["generator"], run.state.ema["generator"])


def test_a_generator_run_brings_its_discriminator(trained_chain):
    config = tiny.config("joint")
    config.init_from = ConfigDict({"generator": str(trained_chain / "srgan"), "segmenter": ""})
    initial = init_from.initial_variables(config, {}.__getitem__)
    assert sorted(initial) == ["discriminator", "generator"]


@pytest.mark.faults
def test_a_run_without_the_network_is_refused(trained_chain, tmp_path, no_training):
    config = tiny.config("srgan")
    folder = str(trained_chain / "segmentation")
    config.init_from = ConfigDict({"generator": folder, "segmenter": folder})
    with pytest.raises(
        UserError, match=r"init_from\.generator=.*segmentation holds no generator, but"
    ):
        chain.run(config, tmp_path / "run")


@pytest.mark.faults
def test_a_run_of_another_architecture_is_refused_name_by_name(
    trained_chain, tmp_path, no_training
):
    config = tiny.config("srgan")
    config.generator.features = 12
    config.init_from = ConfigDict(
        {
            "generator": str(trained_chain / "generator"),
            "segmenter": str(trained_chain / "segmentation"),
        }
    )
    with pytest.raises(
        UserError, match=r"of init_from\.generator is of another architecture"
    ) as found:
        chain.run(config, tmp_path / "run")
    assert "~ params/block_0/reduce/kernel stored (1, 1, 8, 8), needed (1, 1, 12, 8)" in str(
        found.value
    )


def test_a_chain_claims_its_folder_with_its_stages(trained_chain):
    assert read_config(trained_chain / "config.json")["chain"] == NAMES


def weights(workdir, series="last"):
    """Every array of a stage's newest checkpoint of a series, as it lies there."""
    folder = workdir / "checkpoints" / series
    step = max(int(path.name) for path in folder.glob("[0-9]*"))
    with ocp.StandardCheckpointer() as reader:
        return reader.restore((folder / str(step) / "state").absolute())


def lines(workdir):
    """metrics.jsonl without wall times."""
    found = read_metrics(workdir / "metrics.jsonl")
    return [{k: v for k, v in row.items() if k != "seconds"} for row in found]


@pytest.mark.faults
def test_a_disk_that_fills_at_any_file_is_one_sentence(tmp_path, monkeypatch):
    """The kernel refuses to let a file grow while its own code writes it; then there is room."""
    config, workdir = tiny.config("generator"), tmp_path / "run"
    config.checkpoint.best = "last"  # so that every evaluation saves

    def refused_by(owner, name, call, file):
        """The sentence of a run whose disk is full at the n-th call of a function."""
        real, calls = getattr(owner, name), []

        def limited(*args, **kwargs):
            calls.append(name)
            if len(calls) < call:
                return real(*args, **kwargs)
            with tiny.full_disk():
                return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, limited)
        with pytest.raises(DiskError) as failure:
            chain.run(config, workdir)
        monkeypatch.setattr(owner, name, real)
        said = str(failure.value)
        # Before config.json is written there is nothing to go on from.
        saved = "; what was saved before is whole, and the same command goes on from it"
        kept = saved if (workdir / "config.json").exists() else ""
        assert re.fullmatch(
            rf"Writing to {workdir}/{file} failed \(File too large; [\d,.]+ MB are free\): free "
            f"space there or name a folder that can be written{kept}",
            said,
        ), said

    refused_by(loop, "claim_workdir", 1, r"config\.json")
    refused_by(summary.writers, "write_json", 1, r"manifest\.json")
    refused_by(loop.MetricWriter, "write", 2, r"metrics\.jsonl")
    refused_by(validation.figures, "write_samples", 1, r"samples/step_0000002\.png")
    # The first two are of step 2: best and last. The next run saves both again, and then step 4.
    refused_by(loop.checkpoint.Series, "save", 2, "checkpoints/last/2")
    refused_by(loop.checkpoint.Series, "save", 4, "checkpoints/last/4")
    assert [p.name for p in (workdir / "checkpoints" / "last").iterdir()] == ["2"]
    refused_by(summary.writers, "write_json", 1, r"evaluation/metrics\.json")
    refused_by(summary.writers, "write_json", 2, r"summary\.json")
    refused_by(summary.pages, "run_report", 1, r"report\.html")
    chain.run(config, workdir)
    assert (workdir / "report.html").is_file()
    chain.run(config, tmp_path / "undisturbed")
    assert tiny.same(weights(workdir), weights(tmp_path / "undisturbed"))
    assert lines(workdir) == lines(tmp_path / "undisturbed")


@pytest.mark.faults
def test_a_workdir_in_use_is_refused_and_its_stages_too(
    trained_chain, tmp_path, no_training, no_rehearsal
):
    whole, stage = tmp_path / "run", tmp_path / "run" / "srgan"
    shutil.copytree(trained_chain, whole)
    for held in (whole, stage):
        (stage / "summary.json").unlink(missing_ok=True)
        with (
            files.sole_use(held),
            pytest.raises(UserError, match=rf"{held} is in use by process {os.getpid()} on"),
        ):
            chain.run(tiny.config("joint"), whole)
    with pytest.raises(AssertionError, match="a stage was trained"):
        chain.run(tiny.config("joint"), whole)


@pytest.mark.faults
def test_a_run_whose_disk_turns_read_only_resumes_later(trained_chain, tmp_path):
    """A half-trained stage: what is there stays as it is, and ends as if nothing had been."""
    workdir = tmp_path / "run"
    shutil.copytree(trained_chain / "generator", workdir)
    shutil.rmtree(workdir / "checkpoints" / "last" / "4")
    (workdir / "summary.json").unlink()

    def contents():
        return {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()}

    before = contents()
    with tiny.read_only_disk(), pytest.raises(DiskError) as failure:
        chain.run(tiny.config(), workdir)
    assert re.fullmatch(
        rf"Writing to {workdir}/\.lock failed \(Read-only file system; .* are free\): free space "
        "there or name a folder that can be written; what was saved before is whole, and the same "
        "command goes on from it",
        str(failure.value),
    ), failure.value
    assert contents() == before
    chain.run(tiny.config(), workdir)
    assert tiny.same(weights(workdir), weights(trained_chain / "generator"))


@pytest.mark.faults
def test_a_clock_that_goes_backwards_gives_no_negative_duration(
    trained_chain, tmp_path, no_rehearsal, monkeypatch
):
    workdir = tmp_path / "run"
    shutil.copytree(trained_chain, workdir)
    (workdir / "summary.json").unlink()
    now = iter(range(10**9, 0, -3600))
    monkeypatch.setattr(time, "time", lambda: float(next(now)))
    summary = chain.run(tiny.config("joint"), workdir)
    assert 0 < summary["seconds"] < 600


class Command:
    """The main command on a tiny config, a chain of all four stages unless it is another.

    With lengths, {stage: steps}, on the networks and data of `configs/joint.py` in size laptop.
    """

    def __init__(self, folder, steps=0, lengths=None, name="joint"):
        self._config = folder / "chain.py"
        self._words = [f"--config.lengths.{name}={n}" for name, n in (lengths or {}).items()]
        if lengths:
            self._config = ROOT / "configs" / "joint.py"
        else:
            self._config.write_text(
                "from tests import tiny\n\n\ndef get_config(size=''):\n"
                f"    return tiny.config({name!r}, steps={steps})\n"
            )

    def run(self, workdir, *, end=None, after=0, wait=0.0):
        """(exit status, what was said); `end`, a signal, comes `wait` s after so many log lines."""
        words = ["-m", "histojax.main", f"--config={self._config}", *self._words]
        # Whoever prints or writes a path of the workdir has to do without a locale.
        environment = {**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
        if end:
            # A kill while a compiled program is being kept would spoil it for other tests.
            environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "1e9"
        said = []
        with subprocess.Popen(
            [sys.executable, *words, f"--workdir={workdir}"],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            ending = threading.Timer(wait, process.send_signal, [end])
            if end and not after:
                ending.start()
            for line in process.stderr:
                said.append(line)
                if re.match(r"\w+ \d+/\d+  ", line):
                    after -= 1
                    if end and not after:
                        ending.start()
            status = process.wait(timeout=3600 if self._words else 300)
            ending.cancel()
        text = "".join(said)
        assert "Traceback" not in text, text
        # SIGTERM is heard while a stage trains; elsewhere there is nothing that it could save.
        expected = {None: {0}, signal.SIGKILL: {0, -9}, signal.SIGTERM: {0, -15}}[end]
        assert status in expected, text
        return status, text


def scores(workdir):
    """What summary.json says of the networks, and not of how long they took."""
    summary = json.loads((workdir / "summary.json").read_text())
    kept = ("steps", "checkpoint_step", "checkpoints", "metrics", "differences")
    return {name: summary[name] for name in kept if name in summary}


def check_the_same(workdir, undisturbed):
    assert scores(workdir) == scores(undisturbed)
    for name in NAMES:
        check_the_same_stage(workdir / name, undisturbed / name)
    assert (workdir / "report.html").is_file()


def check_the_same_stage(workdir, undisturbed):
    assert scores(workdir) == scores(undisturbed), workdir
    for series in ("last", "best"):
        assert tiny.same(*(weights(folder, series) for folder in (workdir, undisturbed))), series
    assert lines(workdir) == lines(undisturbed), workdir
    assert not list(workdir.rglob("*.orbax-checkpoint-tmp"))
    assert (workdir / "report.html").is_file()


@pytest.mark.faults
def test_a_killed_run_ends_in_the_same_weights(trained_chain, tmp_path):
    command = Command(tmp_path, steps=4, name="generator")
    workdir = tmp_path / "Läufe mit Pausen é"
    assert command.run(workdir, end=signal.SIGKILL, after=3)[0] == -signal.SIGKILL
    assert command.run(workdir)[0] == 0
    check_the_same_stage(workdir, trained_chain / "generator")


@pytest.mark.slow
@pytest.mark.faults
def test_a_chain_killed_three_times_ends_in_the_same_weights(trained_chain, tmp_path):
    command, workdir = Command(tmp_path, steps=4), tmp_path / "Läufe mit Pausen é"
    draw = random.Random(3)
    for end, after, longest in (
        (signal.SIGKILL, 5, 0.5),
        (signal.SIGTERM, 8, 0.1),
        (signal.SIGKILL, 8, 0.5),
    ):
        status, said = command.run(workdir, end=end, after=after, wait=draw.uniform(0, longest))
        assert status == -end or STOPPED in said
    assert command.run(workdir)[0] == 0
    check_the_same(workdir, trained_chain)


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.parametrize(
    ("chained", "start", "line"),
    [
        pytest.param({"steps": 8}, 6.0, 0.7, id="tiny"),
        pytest.param(
            {"lengths": {"generator": 600, "segmentation": 200, "srgan": 150, "joint": 150}},
            40.0,
            10.0,
            id="laptop",
        ),
    ],
)
def test_a_chain_killed_twenty_times_ends_in_the_same_weights(chained, start, line, tmp_path):
    command, draw = Command(tmp_path, **chained), random.Random(20)
    undisturbed = tmp_path / "undisturbed"
    command.run(undisturbed)
    kills = finished = 0
    while kills < 20:
        workdir = tmp_path / str(finished)
        end = draw.choice((signal.SIGKILL, signal.SIGTERM))
        after = draw.randrange(12)
        # Before the first line lie imports, the rehearsal and the way back to the checkpoint.
        wait = draw.uniform(0, line if after else start)
        status, said = command.run(workdir, end=end, after=after, wait=wait)
        if status == 0 and STOPPED not in said:
            check_the_same(workdir, undisturbed)
            finished += 1
            continue
        kills += 1
        last = said.strip().splitlines()[-1:]
        print(f"{kills}: {end.name}, {after} lines and {wait:.2f} s after the start; {last}")
    command.run(workdir)
    check_the_same(workdir, undisturbed)


def test_a_start_that_training_does_not_improve_is_kept(trained_chain, tmp_path, capsys):
    config = tiny.config("generator")
    config.init_from.generator = str(trained_chain / "generator")
    config.optimizer.update(learning_rate=1.0, schedule="constant", clip_norm=0.0)
    chain.run(config, tmp_path / "run")
    rows = [
        row for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if row["split"] == "val"
    ]
    assert [row["step"] for row in rows] == [0, 2, 4]
    assert rows[0]["psnr_rgb"] > max(row["psnr_rgb"] for row in rows[1:])
    kept, start = (workdirs.load(p) for p in (tmp_path / "run", trained_chain / "generator"))
    assert kept.step == 0
    assert tiny.same(*(run.state.variables("generator", averaged=True) for run in (kept, start)))
    said = "no step was better than what it started from, which it keeps"
    assert said in " ".join(capsys.readouterr().err.split())
