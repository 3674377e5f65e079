import csv
import json
import shutil

import pytest

from histojax.errors import DiskError, UserError
from histojax.evaluation import comparison, comparison_table, scores
from histojax.imaging import enlargement
from tests import tiny


@pytest.fixture
def no_scoring(monkeypatch):
    """Any evaluation anew is a failure."""

    def refuse(*args, **kwargs):
        raise AssertionError("a run was evaluated anew")

    monkeypatch.setattr(scores, "score_workdir", refuse)


def altered(workdir, place, **data):
    """A copy of a workdir whose config says otherwise of its data (or seed)."""
    shutil.copytree(workdir, place)
    path = place / "config.json"
    config = json.loads(path.read_text())
    config["seed"] = data.pop("seed", config["seed"])
    config["data"].update(data)
    path.write_text(json.dumps(config))
    return place


def means(workdir, metric):
    return json.loads((workdir / "summary.json").read_text())["metrics"][metric]["mean"]


def test_stages_of_a_chain_are_compared_on_what_they_share(trained_chain, tmp_path, no_scoring):
    names = ["generator", "srgan", "joint"]
    result = comparison.compare([trained_chain / name for name in names], tmp_path / "out")
    assert list(result["scores"]) == ["sr", "hr"]
    psnr = result["scores"]["sr"]["psnr_rgb"]
    assert list(psnr) == names
    for name in names:
        assert psnr[name]["mean"] == pytest.approx(
            means(trained_chain / name, f"psnr_rgb_{name}"), abs=1e-9
        )
    difference = result["differences"]["sr"]["psnr_rgb"]
    assert list(difference) == ["srgan", "joint"]
    assert difference["srgan"]["mean"] == pytest.approx(
        psnr["srgan"]["mean"] - psnr["generator"]["mean"]
    )
    assert result["baselines"]["sr"]["psnr_rgb"]["bicubic"]["mean"] == pytest.approx(
        means(trained_chain, "psnr_rgb_bicubic")
    )
    assert any("Only joint has: Nuclei in the enhanced image" in note for note in result["notes"])
    # Both val images of this source are of one patient.
    assert any("come from 1 group and" in note for note in result["notes"])


def test_what_is_written_holds_the_same_numbers(trained_chain, tmp_path):
    workdirs = [trained_chain, trained_chain / "segmentation"]
    result = comparison.compare(workdirs, tmp_path / "out", pictures=1)
    # A joint run and a segmenter have the real image and its mask in common, and nothing else.
    assert list(result["scores"]) == ["hr_to_s", "hr"]
    assert json.loads((tmp_path / "out" / "comparison.json").read_text()) == result
    with (tmp_path / "out" / "comparison.csv").open() as file:
        lines = list(csv.DictReader(file))
    (line,) = [x for x in lines if x["metric"] == "dice" and x["run"] == "segmentation"]
    entry = result["differences"]["hr_to_s"]["dice"]["segmentation"]
    assert float(line["mean"]) == means(trained_chain, "dice_hr_to_s")
    assert float(line["difference_mean"]) == entry["mean"]
    assert float(line["p"]) == entry["p"]
    assert line["n"] == "2"
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<img ") == len(result["pictures"]) == 1
    assert (tmp_path / "out" / result["pictures"][0]).is_file()
    # Learning curves of the last stages, and of the stage that both have.
    assert "dice_pooled (val)" in page
    assert "Stage segmentation, by step" in page


@pytest.mark.faults
def test_a_folder_that_cannot_be_written_is_refused_at_once(trained_chain, tmp_path, no_scoring):
    (tmp_path / "file").write_text("")
    runs = [trained_chain, trained_chain / "joint"]
    with pytest.raises(DiskError, match=r"file/out failed \(Not a directory"):
        comparison.compare(runs, tmp_path / "file" / "out")


def test_recorded_scores_of_another_checkpoint_are_ignored(trained_chain, tmp_path):
    run = altered(trained_chain / "generator", tmp_path / "run")
    path = run / "evaluation" / "metrics.json"
    table = json.loads(path.read_text())
    wanted, names = table["data"], ["synthetic-val-0000-0", "synthetic-val-0000-1"]
    assert comparison.recorded(run, wanted, names)[0]["name"] == names[0]
    assert comparison.recorded(run, wanted, names[::-1]) is None
    assert comparison.recorded(run, {**wanted, "split": "test"}, names) is None
    for change in (
        {"checkpoints": {"generator": 999}},
        {"ensemble": True},
        {"enhancer": "bicubic"},
        {"data": {**wanted, "fingerprint": "0"}},
    ):
        path.write_text(json.dumps({**table, **change}))
        assert comparison.recorded(run, wanted, names) is None, change
    for damaged in (b"[]", b'"\xff"'):
        path.write_bytes(damaged)
        assert comparison.recorded(run, wanted, names) is None, damaged
    path.unlink()
    assert comparison.recorded(run, wanted, names) is None
    test = scores.score_workdir(run, split="test", output=run / "evaluation-test")["data"]
    names = ["synthetic-test-0000-0", "synthetic-test-0000-1"]
    assert comparison.recorded(run, test, names)[0]["name"] == names[0]


@pytest.mark.parametrize("name", ["microscope", "blind", "second_order"])
def test_the_seed_matters_where_the_degradation_draws(name):
    record = {"split": "val", "fingerprint": "a", "scale": 4, "degradation": {"name": "bicubic"}}
    one, other = {**record, "seed": 0}, {**record, "seed": 1}
    assert comparison.same_pairs(one, other)
    one["degradation"] = other["degradation"] = {"name": name}
    assert not comparison.same_pairs(one, other)
    assert comparison.same_pairs(one, {**other, "seed": 0})


def test_fields_that_a_degradation_does_not_use_do_not_matter():
    jpeg = [{"name": "bicubic", "jpeg_quality": [q, 95]} for q in (30, 60)]
    assert comparison.same_degradation(*jpeg)
    assert comparison.same_degradation({"name": "bicubic"}, jpeg[0])
    assert not comparison.same_degradation(*({**one, "name": "microscope"} for one in jpeg))
    assert not comparison.same_degradation(jpeg[0], {**jpeg[0], "name": "bilinear"})


def test_another_degradation_than_the_first_is_flagged(trained_chain, tmp_path):
    first = trained_chain / "generator"
    degradation = json.loads((first / "config.json").read_text())["data"]["degradation"]
    other = altered(first, tmp_path / "other", degradation={**degradation, "name": "microscope"})
    result = comparison.compare([first, other], tmp_path / "out", pictures=1)
    # The same network on the same images: nothing differs.
    assert result["differences"]["sr"]["psnr_rgb"]["other"]["mean"] == pytest.approx(0, abs=1e-9)
    assert result["differences"]["sr"]["psnr_rgb"]["other"]["p"] == 1
    assert result["data"]["degradation"]["name"] == "bicubic"
    assert any("trained for another degradation (microscope)" in note for note in result["notes"])
    assert result["runs"][1]["differs_in"] == ["data.degradation.name: 'bicubic' -> 'microscope'"]


def test_a_run_beside_itself_under_another_name_is_marked(trained_chain, tmp_path):
    first = trained_chain / "generator"
    other = altered(first, tmp_path / "other")
    result = comparison.compare([first, other], tmp_path / "out", pictures=1)
    sentence = "generator and other are the same run: they train alike, and their scores are equal."
    assert result["notes"][0] == sentence
    assert sentence in json.loads((tmp_path / "out" / "comparison.json").read_text())["notes"]
    assert sentence in (tmp_path / "out" / "report.html").read_text()
    assert sentence in comparison_table.table_text(result).splitlines()
    # Runs of two stages share neither config nor scores.
    result = comparison.compare([first, trained_chain / "srgan"], tmp_path / "two", pictures=1)
    assert not any("same run" in note for note in result["notes"])


def test_other_data_are_refused_until_one_is_named(trained_chain, tmp_path):
    first = trained_chain / "generator"
    other = altered(first, tmp_path / "other", seed=5)
    with pytest.raises(UserError, match=r"other has other images in its val split \(2 of synthet"):
        comparison.compare([first, other], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    root = tiny.folder(tmp_path / "data")
    result = comparison.compare(
        [first, other], tmp_path / "out", data=f"folder:{root}", split="all", pictures=2
    )
    assert result["data"]["images"] == 4
    assert result["differences"]["sr"]["ssim_y"]["other"] == {
        **{"mean": 0.0, "low": 0.0, "high": 0.0, "n": 4, "left_out": 0, "p": 1.0, "exact": True}
    }
    assert (
        sum("was trained on synthetic and is scored on folder:" in n for n in result["notes"]) == 2
    )
    assert len(result["pictures"]) == 2
    # The workdir's own evaluation stays what it was.
    assert json.loads((first / "evaluation" / "metrics.json").read_text())["data"]["images"] == 2


def test_images_seen_in_training_are_flagged(trained_chain, tmp_path):
    names = ["generator", "srgan"]
    result = comparison.compare(
        [trained_chain / name for name in names], tmp_path / "out", split="all", pictures=1
    )
    for name in names:
        assert any(
            note.startswith(f"{name} has seen 4 of these 8 images in training (synthetic-train")
            for note in result["notes"]
        )


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([], "0 workdir was named, and two or more are compared"),
        (["generator"], "1 workdir was named, and two or more are compared"),
        (["generator", "generator"], "generator is named twice"),
        (
            ["generator", "segmentation"],
            r"generator \(generator\), segmentation \(segmentation\) have",
        ),
        (["generator", "nothing"], "nothing is not a workdir"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(trained_chain, tmp_path, names, expected):
    with pytest.raises(UserError, match=expected):
        comparison.compare([trained_chain / name for name in names], tmp_path / "out")


def test_runs_of_two_scales_are_refused(trained_chain, tmp_path):
    other = altered(trained_chain / "generator", tmp_path / "x2", scale=2)
    with pytest.raises(UserError, match="x2 enhances x2 and generator x4"):
        comparison.compare([trained_chain / "generator", other], tmp_path / "out")


def test_labels_are_as_much_of_a_path_as_tells_runs_apart(trained_chain, tmp_path):
    for place in ("a/run", "b/run"):
        shutil.copytree(trained_chain / "generator", tmp_path / place)
    entries = comparison.entries_of([tmp_path / "a" / "run", tmp_path / "b" / "run"])
    assert [entry.label for entry in entries] == ["a/run", "b/run"]
    entries = comparison.entries_of([tmp_path / "a" / "run", trained_chain / "srgan"])
    assert [entry.label for entry in entries] == ["run", "srgan"]


def test_a_run_named_like_a_baseline_is_told_from_it(trained_chain, tmp_path):
    place = tmp_path / "bicubic"
    shutil.copytree(trained_chain / "generator", place)
    result = comparison.compare([place, trained_chain / "srgan"], tmp_path / "out", pictures=1)
    own, baseline = (result[part]["sr"]["psnr_rgb"] for part in ("scores", "baselines"))
    assert own["bicubic"]["mean"] == pytest.approx(means(place, "psnr_rgb_generator"))
    assert set(baseline) == set(enlargement.ENHANCERS)
    assert baseline["bicubic"]["mean"] != own["bicubic"]["mean"]
