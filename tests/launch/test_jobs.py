import json
import os

import pytest

from histojax.data import cores
from histojax.errors import UserError
from launch import jobs
from tests.launch.stand_in import CONFIG, ROOT


def calls(job):
    return (job.folder / "calls").read_text().split()


def test_names_come_from_config_size_and_overrides():
    root = str(ROOT / CONFIG)
    name, words = jobs.named(f"{root}:smoke --config.steps=5 --config.data.source=folder:/a/b")
    assert name == "segmentation-smoke-steps_5-data.source_folder_a_b"
    assert words == (
        f"--config={root}:smoke",
        "--config.steps=5",
        "--config.data.source=folder:/a/b",
    )
    assert jobs.named(f"plain: --config={root}")[0] == "plain"
    spaced = jobs.named(f"plain: {root} '--config.data.source=folder:/a b'")[1]
    assert spaced[1] == "--config.data.source=folder:/a b"


def test_a_sweep_goes_seed_by_seed(tmp_path):
    root = str(ROOT / CONFIG)
    made = jobs.plan([f"a: {root}", f"b: {root}"], ["0", "3"], ["--config.steps=2"], tmp_path)
    assert [(job.name, job.seed) for job in made] == [("a", 0), ("b", 0), ("a", 3), ("b", 3)]
    assert made[3].folder == tmp_path / "b" / "seed_3"
    assert made[3].command[-2:] == ("--config.seed=3", f"--workdir={made[3].folder}")
    assert made[0].words == (f"--config={root}", "--config.steps=2")


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
        jobs.plan([run.format(ROOT / CONFIG) for run in runs], seeds, common, tmp_path)


def test_an_override_may_speak_of_the_seed(tmp_path):
    run = f"a: {ROOT / CONFIG} --config.data.extra=folder:pairs/seed_{{seed}}"
    made = jobs.plan([run], ["0", "7"], [], tmp_path)
    assert made[0].words == made[1].words
    assert made[1].command[1] == "--config.data.extra=folder:pairs/seed_7"


def test_runs_share_devices_and_are_not_run_twice(stand_in):
    made = jobs.plan([f"a: {CONFIG}", f"b: {CONFIG}"], ["0", "1"], [], stand_in / "out")
    assert jobs.run_all(made, ["4", "5"]) == []
    devices = [calls(job) for job in made]
    assert all(len(each) == 1 for each in devices)
    assert {each[0] for each in devices} == {"4", "5"}
    assert jobs.run_all(made) == []
    assert [calls(job) for job in made] == devices


def used(job):
    return json.loads((job.folder / "cores").read_text())


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores cannot be chosen here")
def test_runs_without_devices_share_the_cores_out(stand_in):
    mine = cores.usable()
    if len(mine) < 2:
        pytest.skip("one core cannot be shared out")
    made = jobs.plan([f"a: {CONFIG}"], ["0", "1", "2"], [], stand_in / "out")
    # A run alone has them all, however many slots there are.
    assert jobs.run_all(made[:1], count=5) == []
    assert used(made[0]) == mine
    assert jobs.run_all(made, count=2) == []
    assert not set(used(made[1])) & set(used(made[2]))
    assert sorted(used(made[1]) + used(made[2])) == mine


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores cannot be chosen here")
def test_where_cores_may_not_be_chosen_runs_use_any(stand_in, monkeypatch):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    monkeypatch.setattr(cores, "shares", lambda count: [{0}] * count)
    made = jobs.plan([f"a: {CONFIG}"], ["0", "1"], [], stand_in / "out")
    assert jobs.run_all(made, count=2) == []
    assert [used(job) for job in made] == [cores.usable()] * 2


@pytest.mark.faults
def test_other_words_under_a_known_name_are_refused(tmp_path):
    root = str(ROOT / CONFIG)
    # A run that was refused before it trained does not bind its name.
    jobs.claim(jobs.plan([f"a: {root}"], ["5"], ["--config.stepz=3"], tmp_path), tmp_path)
    jobs.claim(jobs.plan([f"a: {root}"], ["0"], [], tmp_path), tmp_path)
    (tmp_path / "a" / "seed_0").mkdir(parents=True)
    (tmp_path / "a" / "seed_0" / "config.json").touch()
    jobs.claim(jobs.plan([f"a: {root}"], ["1"], [], tmp_path), tmp_path)
    with pytest.raises(UserError, match=r"was run with --config=\S+, not with .* --config.steps=3"):
        jobs.claim(jobs.plan([f"a: {root}"], ["0"], ["--config.steps=3"], tmp_path), tmp_path)
    (tmp_path / "sweep.json").write_text('["a"')
    with pytest.raises(UserError, match=r"sweep.json is damaged"):
        jobs.claim(jobs.plan([f"a: {root}"], ["0"], [], tmp_path), tmp_path)


def test_runs_of_earlier_commands_are_finished_too(stand_in):
    output = stand_in / "out"
    for name, seed in (("b", "10"), ("b", "2"), ("a", "0")):
        made = jobs.plan([f"{name}: {CONFIG}"], [seed], [], output)
        jobs.claim(made, output)
        assert jobs.run_all(made) == []
    jobs.claim(jobs.plan([f"a: {CONFIG}"], ["1"], [], output), output)
    assert jobs.finished(output) == {
        (name, seed): output / name / f"seed_{seed}"
        for name, seed in (("b", 10), ("b", 2), ("a", 0))
    }
