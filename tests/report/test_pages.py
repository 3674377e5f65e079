import html.parser
import json
import re
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest

from histojax.imaging import figures
from histojax.report import pages

_VOID = {"meta", "img", "br", "hr", "link", "input"}


class _Page(html.parser.HTMLParser):
    """Checks that tags balance, and keeps what tests ask for."""

    def __init__(self, source):
        super().__init__()
        self.open, self.tags, self.words = [], [], []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.words.append(data)

    @property
    def text(self):
        return " ".join("".join(self.words).split())

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def _read(path):
    source = path.read_text(encoding="utf-8")
    parsed = _Page(source)
    assert not parsed.all("script")
    assert not parsed.all("link")
    assert not re.search(r"url\(|@import", source)
    for image in parsed.all("img"):
        assert image["src"].startswith("data:image/jpeg;base64,")
        assert image["alt"]
    for link in parsed.all("a"):
        assert not re.match(r"[a-z]+:|/", link["href"])
    return source, parsed


def _entry(mean):
    spread = abs(mean) / 100
    return {"mean": mean, "low": mean - spread, "high": mean + spread, "n": 6, "left_out": 0}


def _image(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def _stage(folder, name="joint", **summary):
    """A small workdir of a joint run, as training and evaluation leave it."""
    folder.mkdir(parents=True)
    config = {
        "name": name,
        "stage": name,
        "steps": 40,
        "data": {"source": "synthetic", "batch_size": 4, "scale": 4},
        "optimizer": {"learning_rate": 0.0004, "note": None},
        "init_from": {},
    }
    (folder / "config.json").write_text(json.dumps(config))
    rows = []
    for step in range(10, 41, 10):
        loss = None if step == 30 else 1.0 / step
        rows.append(
            {
                "step": step,
                "split": "train",
                "loss": loss,
                "loss_pixel": 0.5 / step,
                "gradient_norm_generator": 0.25,
                "skipped": 0,
                "skipped_in_a_row": 0,
                "seconds": step,
            }
        )
    rows.append({"step": 40, "split": "val", "psnr_rgb": 26.54321, "dice_pooled": 0.81})
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "metrics.jsonl").write_text(lines + '{"step": 41, "spl')
    for step in (20, 40):
        row = {"lr": _image(8, 8), "hr": _image(32, 32), "predicted_sr": _image(32, 32, step)}
        figures.write_samples(folder / "samples" / f"step_{step:07d}.png", [row], scale=4)
    figures.write_comparison(
        folder / "evaluation" / "figures" / "a.png", "a", {"lr": _image(8, 8), "hr": _image(32, 32)}
    )
    values = {
        "name": name,
        "stage": name,
        "steps": 40,
        "checkpoint_step": 30,
        "seconds": 200.0,
        "parameters": {"generator": 1203411},
        "metrics": {
            "psnr_rgb_bicubic": _entry(24.81),
            "psnr_rgb_joint": _entry(26.95),
            "power_spectrum_error_bicubic": _entry(0.211),
            "power_spectrum_error_joint": _entry(0.337),
            "dice_bicubic_to_s": _entry(0.701),
            "dice_joint": _entry(0.823),
            "dice_hr_to_s": _entry(0.841),
            "iou_joint": {"mean": None, "low": None, "high": None, "n": 0},
        },
        "differences": {"psnr_rgb_joint - psnr_rgb_bicubic": _entry(2.14)},
        "data": {"source": "synthetic", "split": "val", "images": 6, "fingerprint": "3fa9c1"},
        "hardware": {"devices": 1, "kind": "cpu", "cores": 2},
        "versions": {"jax": "0.10.2"},
        **summary,
    }
    (folder / "summary.json").write_text(json.dumps(values))
    return values


def _rows(source, caption):
    """Row heading -> its cells' HTML, of the table with this caption."""
    (table,) = [t for t in re.findall(r"<table.*?</table>", source, re.S) if caption in t]
    rows = re.findall(r"<tr[^>]*><th scope=\"row\">(.*?)</th>(.*?)</tr>", table, re.S)
    return {
        re.sub(r"<.*", "", head): re.findall(r"<td.*?</td>", cells, re.S) for head, cells in rows
    }


def test_scores_stand_in_rows_of_methods_with_the_best_marked(tmp_path):
    _stage(tmp_path / "run")
    path = pages.run_report(tmp_path / "run")
    assert path == tmp_path / "run" / "report.html"
    source, parsed = _read(path)
    images = _rows(source, "Enhanced images")
    assert list(images) == ["bicubic", "joint"]
    assert "24.81" in images["bicubic"][0]
    assert "24.56 – 25.06" in images["bicubic"][0]
    # More decibels are better, a larger spectrum error is worse.
    assert ["best" in cell for cell in images["joint"]] == [True, False]
    assert ["best" in cell for cell in images["bicubic"]] == [False, True]
    masks = _rows(source, "Nuclei")
    assert list(masks) == ["bicubic → S", "joint", "HR → S"]
    assert [("best" in cells[0]) for cells in masks.values()] == [False, True, False]
    assert masks["joint"][1] == '<td class="none">–</td>'
    assert "+2.14 dB over bicubic" in parsed.text
    assert "+0.122 over bicubic → S" in parsed.text


def test_a_gain_is_told_over_the_linear_filter_where_its_row_is_there(tmp_path):
    rows = {"bicubic": 24.81, "linear": 26.5, "joint": 26.95}
    metrics = {f"psnr_rgb_{row}": _entry(psnr) for row, psnr in rows.items()}
    _stage(tmp_path / "run", metrics=metrics)
    assert "+0.45 dB over linear" in _read(pages.run_report(tmp_path / "run"))[1].text


def test_scores_of_glands_are_called_so(tmp_path):
    metrics = {"dice_hr_to_s": _entry(0.8), "object_hausdorff_hr_to_s": _entry(41.26)}
    _stage(tmp_path / "run", metrics=metrics, differences={})
    source, _ = _read(pages.run_report(tmp_path / "run"))
    assert "41.3" in _rows(source, "Glands, against the annotation")["HR → S"][1]
    assert "Nuclei, against" not in source


def test_the_report_says_what_the_run_was(tmp_path):
    _stage(tmp_path / "run", command="python -m histojax.main --config=configs/joint.py:smoke")
    _, parsed = _read(pages.run_report(tmp_path / "run"))
    for words in (
        "to nuclear mask, at x4, for 40 steps of 4 crops of synthetic tissue",
        "3 min 20 s",
        "step 30",
        "6 images of the val split",
        "python -m histojax.main --config=configs/joint.py:smoke",
        "generator 1,203,411",
        "jax 0.10.2",
        "kind cpu",
        "3fa9c1",
        "optimizer.learning_rate",
    ):
        assert words in parsed.text


def test_curves_and_pictures_are_there(tmp_path):
    _stage(tmp_path / "run")
    source, parsed = _read(pages.run_report(tmp_path / "run"))
    assert "26.54" in parsed.text
    assert "total 0.025 (1 not finite)" in parsed.text
    assert "No step was skipped" in parsed.text
    labels = " ".join(svg["aria-label"] for svg in parsed.all("svg"))
    for name in ("PSNR", "Loss and its terms", "Gradient norms", "overlap"):
        assert name in labels
    # The last sheet of samples, and one figure.
    alts = [image["alt"] for image in parsed.all("img")]
    assert alts[0].startswith("Validation crops at step 40.")
    assert len(alts) == 2
    assert "input | bicubic | enhanced | original" in alts[0]
    assert len(source) < 6_000_000


def test_all_text_is_escaped(tmp_path):
    evil = "<script>alert(1)</script>&\"'\u0000\ud800"
    _stage(
        tmp_path / "run",
        name=evil,
        command=evil,
        hardware={evil: evil},
        metrics={f"psnr_rgb_{evil}": _entry(1.0), evil: _entry(2.0)},
        differences={evil: _entry(1.0)},
        data={"source": evil, "split": evil, "images": evil, "fingerprint": evil},
    )
    with open(tmp_path / "run" / "metrics.jsonl", "w") as file:
        file.write(json.dumps({"step": 1, "split": evil, evil: 1.0, f"loss_{evil}": 2.0}) + "\n")
    source, parsed = _read(pages.run_report(tmp_path / "run"))
    assert "<script>" not in source
    assert "alert(1)" in parsed.text
    assert "\0" not in source


def test_an_empty_folder_is_said_in_words(tmp_path):
    (tmp_path / "run").mkdir()
    _, parsed = _read(pages.run_report(tmp_path / "run"))
    for words in (
        "no scores yet",
        "no metrics.jsonl",
        "no sample pictures",
        "no evaluation figures",
        "no readable config.json",
    ):
        assert words in parsed.text
    _, parsed = _read(pages.chain_report(tmp_path / "run"))
    assert "none has been trained yet" in parsed.text


@pytest.mark.faults
@pytest.mark.parametrize(
    "values",
    [
        {},
        {"metrics": None, "data": None, "hardware": None, "seconds": None, "steps": None},
        {"metrics": {"psnr_rgb_a": None, "dice_a": 0.5, "other": {"mean": None}}, "seconds": 5},
        {"metrics": {"dice_joint": {"mean": 0.5}}, "differences": {"a - b": None}},
    ],
)
def test_summaries_with_nulls_and_gaps_are_drawn(tmp_path, values):
    (tmp_path / "summary.json").write_text(json.dumps(values))
    (tmp_path / "config.json").write_text('{"name": "joint", "stage": null, "data": null}')
    (tmp_path / "metrics.jsonl").write_text('{"step": null}\n{"split": "val", "a": 1}\n[1]\n')
    _, parsed = _read(pages.run_report(tmp_path))
    assert "None" not in parsed.text
    assert "nan" not in parsed.text


def test_damaged_pictures_and_json_are_said_in_words(tmp_path):
    _stage(tmp_path / "run")
    for path in (tmp_path / "run").rglob("*.png"):
        path.write_bytes(path.read_bytes()[:90])
    (tmp_path / "run" / "summary.json").write_text("{")
    _, parsed = _read(pages.run_report(tmp_path / "run"))
    assert "step_0000040.png cannot be read as a picture" in parsed.text
    assert "a.png cannot be read as a picture" in parsed.text
    assert "no scores yet" in parsed.text
    assert not parsed.all("img")


def test_skipped_steps_are_counted(tmp_path):
    rows = [{"step": n, "split": "train", "loss": 1.0, "skipped": max(0, n - 3)} for n in range(6)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    _, parsed = _read(pages.run_report(tmp_path))
    assert "2 steps were not finite and were skipped" in parsed.text


def test_a_chain_has_a_section_and_a_link_for_each_stage(tmp_path):
    stages = {
        name: {"folder": name, "summary": _stage(tmp_path / name, name=name)}
        for name in ("generator", "joint")
    }
    own = _stage(tmp_path / "whole")
    (tmp_path / "config.json").write_text(
        json.dumps({"name": "joint", "stage": "joint", "chain": list(stages)})
    )
    (tmp_path / "summary.json").write_text(
        json.dumps({**own, "stages": stages, "seconds": 4000.0, "training_seconds": 3700.0})
    )
    source, parsed = _read(pages.chain_report(tmp_path))
    links = [link["href"] for link in parsed.all("a") if not link["href"].startswith("#")]
    assert links == ["generator/report.html", "joint/report.html"]
    assert "Stage: generator" in parsed.text
    assert "2 stages trained one after another: generator, joint" in parsed.text
    assert "1 h 06 min" in parsed.text
    assert list(_rows(source, "Nuclei")) == ["bicubic → S", "joint", "HR → S"]
    # One sheet of samples for each stage.
    assert len(parsed.all("img")) == 2
    # A chain that was stopped before its end shows the stages begun.
    (tmp_path / "summary.json").unlink()
    _, parsed = _read(pages.chain_report(tmp_path))
    assert "Stage: joint" in parsed.text


def test_the_index_of_predictions(tmp_path):
    made = SimpleNamespace(
        name="a <b>",
        size=(1000, 2000),
        mpp=0.5,
        scale=4,
        files={name: tmp_path / f"a b.{name}.tif" for name in ("sr", "labels", "classes")},
        nuclei=1500,
        note="at 0.5 um/px",
        class_names=("background", "<tumour>"),
        before=True,
        area_mm2=0.5,
        box=(0, 0, 1000, 2000),
    )
    bare = SimpleNamespace(
        **{**vars(made), "name": "c", "size": (10, 20), "mpp": None, "scale": 1, "files": {}},
    )
    bare.box, bare.area_mm2 = (0, 0, 10, 20), None
    vars(bare).update(nuclei=None, note="fresh", class_names=(), before=False)
    preview = np.asarray(PIL.Image.fromarray(_image(30, 90)))
    path = tmp_path / "index.html"
    pages.prediction_index(path, workdir="runs/joint", rows=[(made, preview), (bare, preview)])
    _, parsed = _read(path)
    hrefs = [link["href"] for link in parsed.all("a") if not link["href"].startswith("#")]
    assert hrefs == ["a%20b.sr.tif", "a%20b.labels.tif", "a%20b.classes.tif"]
    assert parsed.text.count("0 background, 1 <tumour>") == 1
    assert "3,000 per mm²" in parsed.text
    assert "2 images predicted by the run in runs/joint, 1,500 nuclei in all" in parsed.text
    assert "2,000 × 1,000 px, enhanced to 8,000 × 4,000 px" in parsed.text
    assert "made before: at 0.5 um/px" in parsed.text
    assert "made before: fresh" not in parsed.text
    assert "Not predicted" not in parsed.text
    assert len(parsed.all("img")) == 2
    unsummed = "fields overlap (a and c share 50 %): nuclei are not summed"
    left = {"in/<x>.txt": "its ending is not that of an image"}
    pages.prediction_index(path, workdir="r", rows=[(made, preview)], left=left, unsummed=unsummed)
    _, parsed = _read(path)
    assert f"1 image predicted by the run in r; {unsummed}." in parsed.text
    assert "Not predicted" in parsed.text
    assert "in/<x>.txt" in parsed.text
    assert left["in/<x>.txt"] in parsed.text
    # Of a slide the glass does not count.
    made.area_mm2 = 0.25
    pages.prediction_index(path, workdir="r", rows=[(made, preview)])
    assert "6,000 per mm²" in _read(path)[1].text
    # A part of a slide at 0.5 um per px, which was read at 1.
    made.box, made.scale = (100, 200, 300, 400), 2.0
    pages.prediction_index(path, workdir="r", rows=[(made, preview)])
    part = "of which 400 × 300 px at x 200, y 100 were predicted, enhanced to 800 × 600 px"
    assert part in _read(path)[1].text


def test_warnings_are_listed_and_make_no_curve(tmp_path):
    folder = tmp_path / "joint"
    _stage(folder)
    before = _read(pages.run_report(folder))[1]
    path = folder / "metrics.jsonl"
    row = {"step": 1200, "split": "warning", "text": "D wins <surely>; lower its rate"}
    path.write_text(json.dumps(row) + "\n" + path.read_text())
    after = _read(pages.run_report(folder))[1]
    assert "Warnings during training" not in before.text
    assert "Warnings during training:" in after.text
    assert "Step 1,200: D wins <surely>; lower its rate." in after.text
    assert len(after.all("svg")) == len(before.all("svg")) > 0
