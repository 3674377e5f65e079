import ast
import csv
import dataclasses
import pathlib
import subprocess
import sys

import pytest

from configs import base
from histojax.data import augmentation
from histojax.errors import UserError
from launch import few_labels_plan, jobs
from tests.launch.stand_in import CONFIG

# The command as its module runs it, with stand-ins for the main one and for those of pairs.
DRIVER = """
import pathlib, sys
from absl import flags
from histojax import command
from launch import few_labels, few_labels_plan, jobs
jobs.PROGRAM = (sys.executable, "main.py")
def pairs(pyramid, plan, device):
    output = plan.pairs(pyramid.name) / f"seed_{pyramid.seed}"
    output.mkdir(parents=True, exist_ok=True)
    (output / "of").write_text(f"{pyramid.folder}")
few_labels_plan.make_pairs = pairs
def predicted(share, seed, plan, device):
    assert (plan.finder(share, seed) / "summary.json").is_file()
    output = plan.predicted(share) / f"seed_{seed}"
    output.mkdir(parents=True, exist_ok=True)
    (output / "of").write_text(f"{plan.finder(share, seed)}")
few_labels_plan.make_predicted = predicted
few_labels_plan.make_tissue = lambda share, seed, plan, device: predicted(share, seed, plan, device)
few_labels_plan.check = lambda plan, seeds: None  # the stand-in's config is an empty file
flags.mark_flags_as_required(["data", "output"])
command.run(few_labels.main)
"""
ROOT = pathlib.Path(__file__).parents[2]


def plan(**changes):
    config = {
        "shares": ["0.20", "1.0"],
        "ways": few_labels_plan.WAYS,
        "data": "folder:/images",
        "output": pathlib.Path("out"),
        "count": 7,
        "size": 64,
        "kind": "turned",
        "pupil": f"{CONFIG} --config.steps=5",
        "pyramid": CONFIG,
        "teacher_weight": 2.0,
        "looks": "labelled",
        "confidence": 0.8,
        **changes,
    }
    return few_labels_plan.plan_of(**config)


def words(runs, name):
    return next(run for run in runs if run.startswith(f"{name}: ")).split()


def test_every_way_of_a_share_is_the_same_network_on_other_images():
    runs = plan().pupil_runs()
    # Nothing is without labels where all are used.
    assert len(runs) == 2 * len(few_labels_plan.WAYS) - 3
    for way in ("teacher", "predicted", "synthetic_predicted"):
        assert not any(run.startswith(f"{way}-1:") for run in runs)
    common = {
        "--config.steps=5",
        "--config.data.source=folder:/images",
        "--config.data.labelled=0.2",
        "--config.checkpoint.best=last",
        "--config.instances.fit=False",
    }
    for way in few_labels_plan.WAYS:
        assert common <= set(words(runs, f"{way}-0.2"))
    plain, augmented = (set(words(runs, f"{way}-0.2")[2:]) for way in ("real", "augmented"))
    assert augmented == common
    assert "--config.data.augmentation.flips=False" in plain - augmented
    folder = f"folder:{pathlib.Path('out').resolve()}/pairs/0.2/turned-7x64/seed_{{seed}}"
    added = set(words(runs, "synthetic-0.2")[2:]) - augmented
    assert {word.strip("'") for word in added} == {f"--config.data.extra={folder}"}
    alone = set(words(runs, "synthetic_only-0.2")) - set(words(runs, "synthetic-0.2"))
    assert "--config.data.extra_weight=1.0" in alone
    taught = set(words(runs, "teacher-0.2")[2:]) - augmented
    assert taught == {"--config.data.unlabelled=rest", "--config.teacher.weight=2.0"}


def test_predicted_masks_are_beside_the_same_labelled_images():
    runs = plan().pupil_runs()
    augmented = set(words(runs, "augmented-0.2")[2:])
    out = pathlib.Path("out").resolve()
    for way, folder in (
        ("predicted", f"{out}/predicted/0.2/64-0.8"),
        ("tissue", f"{out}/pairs/tissue-0.2/turned-7x64"),
        ("synthetic_predicted", f"{out}/pairs/predicted-0.2/turned-7x64"),
    ):
        (added,) = set(words(runs, f"{way}-0.2")[2:]) - augmented
        assert added.strip("'") == f"--config.data.extra=folder:{folder}/seed_{{seed}}"


def test_pyramids_see_the_same_share_and_are_needed_by_synthetic_pairs_alone():
    runs = plan().pyramid_runs()
    assert [run.partition(":")[0] for run in runs] == ["0.2", "predicted-0.2", "1"]
    assert "--config.data.labelled=0.2" in words(runs, "0.2")
    more = set(words(runs, "predicted-0.2")) - set(words(runs, "0.2")) - {"predicted-0.2:"}
    folder = f"{pathlib.Path('out').resolve()}/predicted/0.2/64-0.8/seed_{{seed}}"
    assert {word.strip("'") for word in more} == {f"--config.data.extra=folder:{folder}"}
    # Share 1 leaves nothing to predict masks of, and a folder may have a space in its name.
    assert not plan(ways=["augmented", "synthetic_predicted"], shares=["1"]).needs_pairs
    (run,) = plan(ways=["synthetic_predicted"], output=pathlib.Path("a b")).pyramid_runs()
    assert any("a b/predicted" in word for word in jobs.named(run)[1])
    assert plan().needs_pairs
    assert plan().predicting() == ["0.2"]
    assert not plan(ways=["real", "teacher"]).needs_pairs
    assert plan(ways=["predicted"]).pyramid_runs() == []
    assert [run.partition(":")[0] for run in plan(ways=["synthetic_only"]).pyramid_runs()] == [
        "0.2",
        "1",
    ]


def test_masks_are_predicted_where_something_is_made_of_them():
    assert not plan(ways=["augmented", "synthetic", "teacher"]).needs_finder
    assert plan(ways=["augmented", "predicted"]).needs_finder
    assert plan(ways=["augmented", "synthetic"], kind="predicted").needs_finder
    assert plan(ways=["augmented", "synthetic"], kind="predicted").predicting() == []
    assert not plan(ways=["augmented", "teacher"], looks="all").needs_finder
    colored = plan(ways=["augmented", "synthetic"], looks="all")
    assert colored.needs_finder
    assert colored.predicting() == ["0.2"]
    # Other pairs than those in the colours of the labelled images.
    assert colored.pairs("0.2") != plan().pairs("0.2")
    assert plan().colors("0.2", 3) == colored.colors("1", 3) == ()
    assert colored.pairs("1") == plan().pairs("1")
    assert colored.pairs("tissue-0.2") == plan().pairs("tissue-0.2")
    assert plan(looks="all", confidence=0.7).pairs("0.2") != colored.pairs("0.2")
    looks = ("--looks=training", "--looks=folder:out/predicted/0.2/64-0.8/seed_3")
    assert colored.colors("0.2", 3) == looks
    own = plan(ways=["augmented", "synthetic"], looks="own")
    assert own.colors("0.2", 3) == own.colors("1", 3) == ("--looks=own",)
    assert own.pairs("0.2") not in (colored.pairs("0.2"), plan().pairs("0.2"))
    assert own.pairs("tissue-0.2") == plan().pairs("tissue-0.2")
    assert not own.needs_finder


@pytest.mark.faults
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"shares": ["0.2", "0"]}, r"--shares: '0' has to be a number above 0, up to 1"),
        ({"shares": ["a fifth"]}, r"--shares: 'a fifth' has to be a number"),
        ({"shares": ["nan"]}, r"--shares: 'nan' has to be a number"),
        ({"shares": ["0.2", "0.20"]}, r"--shares=0\.2,0\.2 has to name shares, each once"),
        ({"ways": ["magic"]}, r"--ways: 'magic' is not known; choose out of real, augmented"),
        ({"ways": []}, r"--ways= has to name ways"),
    ],
)
def test_what_cannot_be_run_is_refused(changes, said):
    with pytest.raises(UserError, match=said):
        plan(**changes)


def test_plain_images_are_the_pupils_own_without_any_augmentation():
    fields = {word.rpartition(".augmentation.")[2] for word in few_labels_plan._PLAIN}
    assert {field.partition("=")[0] for field in fields} == set(base.augmentation())
    plain = base.augmentation()
    for field in fields:
        name, _, value = field.partition("=")
        plain[name] = ast.literal_eval(value)
    augmentation.Augmentation.from_config(plain)


REAL = {"pupil": "configs/segmentation.py:smoke", "pyramid": "configs/pyramid.py:smoke"}


@pytest.mark.faults
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"pupil": "configs/srgan.py"}, r"--pupil='configs/srgan\.py' is of stage 'srgan'"),
        (
            {"pyramid": "configs/unet.py"},
            r"--pyramid='configs/unet\.py' is of stage 'segmentation'",
        ),
        ({"size": 24}, r"--size=24 is smaller than the crops of 32 px"),
        (
            {"size": 24, "ways": ["augmented", "tissue"]},
            r"--size=24 is smaller than the crops of 32 px",
        ),
        (
            {"size": 24, "ways": ["augmented", "predicted"]},
            r"--size=24 is smaller than the crops of 32 px",
        ),
        (
            {"pupil": "configs/segmentation.py:smoke --config.data.crop=96"},
            r"--size=64 is smaller than the crops of 96 px",
        ),
        ({"shares": ["0.999"]}, r"0\.999 of the 8 training patients are all of them"),
        (
            {"ways": ["real", "predicted"]},
            r"--ways=real,predicted needs masks that the run of the way 'augmented' makes",
        ),
        (
            {"ways": ["tissue"]},
            r"--ways=tissue needs masks that the run of the way 'augmented' makes or finds",
        ),
        (
            {"ways": ["synthetic"], "kind": "predicted"},
            r"--ways=synthetic needs masks that the run of the way 'augmented' makes",
        ),
        (
            {"ways": ["synthetic"], "looks": "all"},
            r"--ways=synthetic needs masks that the run of the way 'augmented' makes",
        ),
        (
            {"pyramid": f"{REAL['pyramid']} --config.pyramid.base=tisue"},
            r"pyramid\.start='tisue' is not known",
        ),
        ({"looks": "own"}, r"--looks=own is for pyramids that start from tissue, and .* colours"),
        ({"shares": ["1"], "kind": "predicted"}, r"1 of the 8 training patients are all of them"),
        ({"pupil": "configs/segmentation.py:huge"}, r"no config that can be read: size 'huge'"),
    ],
)
def test_what_would_stop_it_after_hours_is_said_at_once(changes, said, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError, match=said):
        few_labels_plan.check(plan(data="synthetic", **{**REAL, **changes}), ["0", "1"])
    few_labels_plan.check(plan(data="synthetic", **REAL), ["0", "1"])


def test_pyramids_from_tissue_may_keep_its_colors(monkeypatch):
    monkeypatch.chdir(ROOT)
    pyramid = f"{REAL['pyramid']} --config.pyramid.base=tissue"
    few_labels_plan.check(
        plan(data="synthetic", **{**REAL, "looks": "own", "pyramid": pyramid}), ["0"]
    )


def job(folder, seed=3):
    return jobs.Job("0.2", seed, (), folder / "pyramid")


def test_pairs_are_whole_or_not_there(tmp_path, monkeypatch):
    called = []

    def run(command, **_):
        called.append(command)
        output = next(word.partition("=")[2] for word in command if word.startswith("--output="))
        pathlib.Path(output).mkdir()
        failed = len(called) == 2
        return subprocess.CompletedProcess(command, failed, stderr="one\nthe disk is full\n")

    monkeypatch.setattr(few_labels_plan.subprocess, "run", run)
    own = plan(output=tmp_path)
    output = tmp_path / "pairs/0.2/turned-7x64/seed_3"
    with pytest.raises(UserError, match=r"python -m histojax\.synthesize .* failed: the disk is"):
        few_labels_plan.make_pairs(job(tmp_path), own)
    assert not output.exists()
    few_labels_plan.make_pairs(job(tmp_path), own)
    assert [path.name for path in output.parent.iterdir()] == ["seed_3"]
    masks, tissue = called[2:]
    assert {"histojax.masks", "--count=7", "--size=64", "--kind=turned", "--seed=3"} <= set(masks)
    assert {"histojax.synthesize", "--seed=3", f"--workdir={tmp_path / 'pyramid'}"} <= set(tissue)
    few_labels_plan.make_pairs(job(tmp_path), own)
    assert len(called) == 4
    # Masks that are predicted are of the network trained on the labelled images alone.
    found = dataclasses.replace(own, kind="predicted")
    few_labels_plan.make_pairs(dataclasses.replace(job(tmp_path), name="predicted-0.2"), found)
    finder = tmp_path / "pupils/augmented-0.2/seed_3"
    assert {"--kind=predicted", f"--workdir={finder}"} <= set(called[4])
    assert f"--workdir={tmp_path / 'pyramid'}" in called[5]
    assert (tmp_path / "pairs/predicted-0.2/predicted0.8-7x64/seed_3").is_dir()
    for _ in range(2):
        few_labels_plan.make_predicted("0.2", 3, own)
    assert len(called) == 7
    assert {
        "--kind=predicted",
        "--with_images",
        "--size=64",
        "--confidence=0.8",
        f"--workdir={finder}",
    } <= set(called[6])
    assert [path.name for path in (tmp_path / "predicted/0.2/64-0.8").iterdir()] == ["seed_3"]
    few_labels_plan.make_tissue("0.2", 3, own)
    masks, tissue = called[7:]
    assert {"--kind=turned", "--count=7", "--seed=3", f"--workdir={finder}"} <= set(masks)
    assert {"histojax.synthesize", "--builtin", "--seed=3"} <= set(tissue)
    assert not any(word.startswith("--workdir") for word in tissue)
    assert (tmp_path / "pairs/tissue-0.2/turned-7x64/seed_3").is_dir()
    del called[7:]
    colored = dataclasses.replace(own, looks="all")
    few_labels_plan.make_pairs(job(tmp_path), colored)
    assert set(colored.colors("0.2", 3)) <= set(called[8])


def test_a_way_is_compared_with_augmented_images_seed_by_seed():
    rows = []
    for seed, plain in ((0, 0.5), (1, 0.7)):
        for way, more in (("augmented", 0.0), ("synthetic", 0.02 + 0.02 * seed)):
            rows += [
                {"run": f"{way}-0.2", "seed": seed, "image": i, "organ": "", "dice_hr_to_s": value}
                for i, value in enumerate((plain + more - 0.1, plain + more + 0.1))
            ]
    rows += [{"run": "real-0.2", "seed": 1, "image": 0, "organ": "", "dice_hr_to_s": 0.4}]
    table = {entry["way"]: entry for entry in few_labels_plan.by_share(rows)}
    assert list(table) == ["real", "augmented", "synthetic"]
    assert table["augmented"]["mean"] == pytest.approx(0.6)
    assert table["synthetic"]["more"] == pytest.approx(0.03)
    assert table["synthetic"]["more_sd"] == pytest.approx(0.02 / 2**0.5)
    # Of the one seed that both have.
    assert table["real"]["more"] == pytest.approx(-0.3)
    shown = few_labels_plan.cells(table["synthetic"])
    assert shown["more than augmented"] == "+0.0300 ± 0.0141"
    assert few_labels_plan.cells(table["augmented"])["more than augmented"] == "-"
    assert few_labels_plan.cells(table["real"])["mean"] == "0.4000"


def test_curves_are_drawn_over_several_shares_alone(tmp_path):
    rows = [
        {"run": f"augmented-{share}", "seed": 0, "image": 0, "organ": "", "dice_hr_to_s": 0.5}
        for share in (0.2, 1.0)
    ]
    for count, curves in ((1, 0), (2, 1)):
        text = few_labels_plan.write(tmp_path, few_labels_plan.by_share(rows[:count]))
        assert text.count("0.5000") == count
        shown = (tmp_path / "labels.html").read_text()
        assert shown.count("0.5000") == count
        assert shown.count("<svg") == curves


def test_the_command_trains_pyramids_pairs_and_pupils_and_goes_on(stand_in):
    (stand_in / "driver.py").write_text(DRIVER)
    words = [
        sys.executable,
        "driver.py",
        "--data=folder:/images",
        "--output=out",
        f"--pupil={CONFIG}",
        f"--pyramid={CONFIG}",
        "--shares=0.2",
        "--seeds=0,1",
        "--ways=augmented,synthetic,tissue,predicted,synthetic_predicted",
        "--masks=3",
    ]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    for _ in range(2):
        done = subprocess.run(
            words, cwd=stand_in, env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
    # Each was run once.
    calls = sorted(path.relative_to(stand_in) for path in stand_in.glob("out/*/*/*/calls"))
    assert len(calls) == 4 + 10
    assert all(len((stand_in / path).read_text().split()) == 1 for path in calls)
    made = (stand_in / "out/pairs/0.2/replaced-3x256/seed_1/of").read_text()
    assert made == "out/pyramids/0.2/seed_1"
    table = list(csv.DictReader((stand_in / "out/labels.csv").read_text().splitlines()))
    ways = ["augmented", "synthetic", "tissue", "predicted", "synthetic_predicted"]
    assert [row["way"] for row in table] == ways
    made = (stand_in / "out/predicted/0.2/256-0.8/seed_1/of").read_text()
    assert made == "out/pupils/augmented-0.2/seed_1"
    assert float(table[0]["mean"]) == pytest.approx(0.65)
    assert "0.6500" in done.stdout
    assert "0.6500" in (stand_in / "out/labels.html").read_text()
