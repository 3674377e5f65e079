import dataclasses
import math
import pathlib
import subprocess

import pytest
from absl import flags

from histojax.errors import UserError
from launch import jobs
from tests.launch.commands import loaded
from tests.launch.stand_in import ROOT

# ml_collections reads config files by it.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

WORDS = {
    "data": "folder:/images",
    "pupil": "configs/segmentation.py:smoke --config.steps=5",
    "pyramid": "configs/pyramid.py:smoke",
    "masks": "7",
    "size": "64",
    "seeds": "0,3",
    "ways": "augmented,tissue,pyramid,pseudo_labels,teacher",
}


@pytest.fixture
def few_labels():
    with loaded("launch.few_labels") as module:
        yield module


@pytest.fixture
def study(monkeypatch, few_labels):
    """The study's jobs, by flags, as {name: job} of pyramids and of pupils."""
    monkeypatch.chdir(ROOT)

    def made(shares=("0.2",), output=pathlib.Path("out"), **words):
        flags.FLAGS(["", *(f"--{name}={value}" for name, value in {**WORDS, **words}.items())])
        both = few_labels.study(output, shares)
        return [{job.name: job for job in found if job.seed == 3} for found in both]

    return made


def test_every_way_is_the_same_network_on_other_images(study, few_labels):
    pyramids, pupils = study()
    assert list(pupils) == [f"{way}-0.2" for way in few_labels.WAYS]
    augmented = set(pupils["augmented-0.2"].command[:-1])
    assert {
        "--config.steps=5",
        "--config.seed=3",
        "--config.data.source=folder:/images",
        "--config.data.labelled=0.2",
        "--config.checkpoint.best=last",
        "--config.instances.fit=False",
    } < augmented
    assert "--config.data.labelled=0.2" in pyramids["0.2"].words
    folder = pathlib.Path("out").resolve() / "pairs"
    for way in ("tissue", "pyramid", "pseudo_labels"):
        added = set(pupils[f"{way}-0.2"].command[:-1]) - augmented
        assert added == {f"--config.data.extra=folder:{folder}/{way}-0.2/seed_3"}
    taught = set(pupils["teacher-0.2"].command[:-1]) - augmented
    assert taught == {"--config.data.unlabelled=rest", "--config.teacher.weight=1.0"}


def test_share_1_has_no_other_patients(study):
    pupils = study(shares=("0.2", "1"))[1]
    assert [name for name in pupils if name.endswith("-1")] == [
        "augmented-1",
        "tissue-1",
        "pyramid-1",
    ]


def test_ways_have_the_baseline_and_pyramids_where_needed(study):
    pyramids, pupils = study(ways="teacher")
    assert list(pupils) == ["augmented-0.2", "teacher-0.2"]
    assert not pyramids
    study(pyramid=f"{WORDS['pyramid']} --config.init_from.pyramid=runs/coarse")
    # A folder may have a space in its name.
    pupils = study(output=pathlib.Path("a b"))[1]
    assert any("a b/pairs" in word for word in pupils["tissue-0.2"].words)


@pytest.mark.faults
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shares": ["0"]}, r"--shares: '0' has to be a number above 0, up to 1"),
        ({"shares": ["a fifth"]}, r"--shares: 'a fifth' has to be a number"),
        ({"shares": ["nan"]}, r"--shares: 'nan' has to be a number"),
        ({"shares": ["0.2", "0.2"]}, r"two runs are called '0\.2'"),
        ({"ways": "magic"}, r"--ways has 'magic', which is none of augmented, tissue"),
        ({"pupil": "configs/srgan.py"}, r"--pupil is of stage 'srgan'"),
        ({"pyramid": "configs/unet.py"}, r"--pyramid is of stage 'segmentation'"),
        ({"size": "24"}, r"--size=24 is smaller than the crops of --pyramid: give 32 px"),
        (
            {"pupil": "configs/segmentation.py:smoke --config.data.crop=96"},
            r"--size=64 is smaller than the crops of --pupil: give 96 px",
        ),
        ({"pupil": "configs/unet.py --config.stepz=3"}, r"--pupil: the config cannot be made"),
        ({"pupil": "configs/segmentation.py:huge"}, r"--pupil: the config cannot be made"),
    ],
)
def test_unusable_words_are_refused_before_training(changes, message, study):
    with pytest.raises(UserError, match=message):
        study(**changes)


def test_pairs_are_whole_or_not_there(tmp_path, monkeypatch, study, few_labels):
    called = []

    def run(command, **_):
        called.append(command)
        output = next(word.partition("=")[2] for word in command if word.startswith("--output="))
        pathlib.Path(output).mkdir()
        failed = len(called) == 2
        return subprocess.CompletedProcess(command, failed, stderr="one\nthe disk is full\n")

    monkeypatch.setattr(few_labels.subprocess, "run", run)
    pupils = study()[1]
    output = tmp_path / "pairs" / "pyramid-0.2" / "seed_3"
    with pytest.raises(UserError, match=r"python -m histojax\.synthesize .* failed: the disk is"):
        few_labels.make_pairs(tmp_path, pupils["pyramid-0.2"])
    assert not output.exists()
    for _ in range(2):
        few_labels.make_pairs(tmp_path, pupils["pyramid-0.2"])
    assert [path.name for path in output.parent.iterdir()] == ["seed_3"]
    assert len(called) == 4
    masks, tissue = map(set, called[2:])
    finder = f"--workdir={tmp_path / 'pupils' / 'augmented-0.2' / 'seed_3'}"
    assert {"histojax.masks", finder, "--count=7", "--size=64", "--seed=3"} < masks
    pyramid = f"--workdir={tmp_path / 'pyramids' / '0.2' / 'seed_3'}"
    assert {"histojax.synthesize", pyramid, "--seed=3"} < tissue
    few_labels.make_pairs(tmp_path, pupils["tissue-0.2"])
    assert {"histojax.synthesize", "--builtin", "--seed=3"} < set(called[5])
    few_labels.make_pairs(tmp_path, pupils["pseudo_labels-0.2"])
    assert {"--kind=predicted", "--with_images", "--size=64", finder} < set(called[6])
    for way in ("augmented", "teacher"):
        few_labels.make_pairs(tmp_path, dataclasses.replace(pupils[f"{way}-0.2"]))
    assert len(called) == 7
    assert all(words[-1] == "--num_processes=1" for words in called)


def test_ways_are_compared_with_the_baseline_seed_by_seed(few_labels):
    rows = []
    for seed, plain in ((0, 0.5), (1, 0.7)):
        for way, more in (("augmented", 0.0), ("pyramid", 0.02 + 0.02 * seed)):
            rows += [
                {"run": f"{way}-0.2", "seed": seed, "image": i, "organ": "", "dice_hr_to_s": value}
                for i, value in enumerate((plain + more - 0.1, plain + more + 0.1))
            ]
    rows += [{"run": "tissue-0.2", "seed": 1, "image": 0, "organ": "", "dice_hr_to_s": 0.4}]
    table = {entry["way"]: entry for entry in few_labels.differences(rows)}
    assert set(table) == {"pyramid", "tissue"}
    assert table["pyramid"]["more"] == pytest.approx(0.03)
    assert table["pyramid"]["sd"] == pytest.approx(0.02 / 2**0.5)
    # Of the one seed that both have.
    assert table["tissue"]["more"] == pytest.approx(-0.3)
    assert math.isnan(table["tissue"]["sd"])


def test_study_trains_makes_pairs_and_tabulates_once(stand_in, monkeypatch, capsys, few_labels):
    made = []

    def command(*words):
        made.append(words)
        output = next(word.partition("=")[2] for word in words if word.startswith("--output="))
        pathlib.Path(output).mkdir()

    monkeypatch.setattr(few_labels, "_command", command)
    (stand_in / "configs" / "segmentation.py").write_text(CONFIG_OF.format(stage="segmentation"))
    (stand_in / "configs" / "pyramid.py").write_text(CONFIG_OF.format(stage="pyramid"))
    words = {"data": "synthetic", "output": "out", "seeds": "0,1", "masks": "3", "size": "64"}
    flags.FLAGS(["", *(f"--{name}={value}" for name, value in words.items())])
    for _ in range(2):
        few_labels.main([])
    calls = sorted(stand_in.glob("out/*/*/*/calls"))
    assert len(calls) == 2 + 2 * len(few_labels.WAYS)
    assert all(len(path.read_text().split()) == 1 for path in calls)
    assert len(made) == 2 * (2 + 2 + 1)  # masks and tissue, masks and tissue, pseudo-labels
    printed = capsys.readouterr().out
    assert "more than augmented, seed by seed" in printed
    assert "0.6500" in printed
    assert jobs.finished(pathlib.Path("out/pupils")).keys() == {
        (f"{way}-0.2", seed) for way in few_labels.WAYS for seed in (0, 1)
    }


CONFIG_OF = """
from ml_collections import ConfigDict
def get_config():
    return ConfigDict({{
        "stage": "{stage}", "seed": 0, "data": {{"crop": 32, "source": "", "labelled": 1.0,
        "extra": "", "unlabelled": ""}}, "checkpoint": {{"best": ""}}, "instances": {{"fit": True}},
        "teacher": {{"weight": 0.0}},
    }})
"""
