import csv
import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from histojax.errors import UserError
from histojax.imaging import reader
from histojax.imaging.labels import read_labels
from histojax.inference import batch, prediction, record, scale, tiled
from histojax.inference.regions import cut
from histojax.inference.regions.view import Options
from histojax.inference.scale import Estimate
from histojax.runs import workdirs
from histojax.tissue import rendering
from tests import commands, tiny
from tests.inference.regions import dark as slides
from tests.mosaic import fields

pytestmark = pytest.mark.usefixtures("blank_pages")

SUFFIXES = ("predicted.json", "csv", "geojson", "sr.geojson", "html")


def write_inputs(folder):
    """One image of 40 x 56 px as PNG, JPEG and TIFF (which tells its scale)."""
    folder.mkdir()
    image = tiny.tissue(5, 64)[0][:40, :56]
    Image.fromarray(image).save(folder / "a.png")
    Image.fromarray(image).save(folder / "b.jpg", quality=95)
    tiny.write_tiff(folder / "c.tif", image, mpp=1.0)
    return image


def test_png_jpeg_and_tiff_are_predicted_four_times_as_large(trained_chain, tmp_path):
    write_inputs(tmp_path / "in")
    made = batch.predict_files(trained_chain, [tmp_path / "in"], tmp_path / "out")
    assert [p.name for p in made] == ["a", "b", "c"]
    assert {(p.size, p.scale) for p in made} == {((40, 56), 4)}
    for one in made:
        sr = reader.read_image(one.files["sr"])
        labels = read_labels(one.files["sr.labels"])
        assert sr.shape == (160, 224, 3)
        assert labels.shape == (160, 224)
        np.testing.assert_array_equal(read_labels(one.files["labels"]), labels[2::4, 2::4])
        assert set(np.unique(labels)) - {0} == set(range(1, one.nuclei + 1))
    np.testing.assert_array_equal(
        reader.read_image(made[0].files["sr"]), reader.read_image(made[2].files["sr"])
    )
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(
        [f"{n}.{kind}.tif" for n in "abc" for kind in ("sr", "labels", "sr.labels")]
        + [
            f"{n}.{end}"
            for n in "abc"
            for end in ("predicted.json", "csv", "geojson", "sr.geojson", "html")
        ]
        + ["index.html", "summary.csv"]
    )
    assert (made[0].mpp, made[1].mpp) == (None, None)
    assert "its scale is unknown" in made[0].note
    with reader.open_image(made[2].files["sr"]) as image:
        assert image.mpp == pytest.approx(0.25, rel=1e-3)
    index = (tmp_path / "out" / "index.html").read_text()
    assert all(f"{name}.sr.tif" in index for name in "abc")


def test_tiles_agree_with_the_whole(trained_chain, tmp_path):
    write_inputs(tmp_path / "in")
    made = [
        batch.predict_files(
            trained_chain / "generator", [tmp_path / "in" / "a.png"], tmp_path / str(t), tile=t
        )[0]
        for t in (64, 1024)
    ]
    assert set(made[0].files) == {"page", "sr"}
    tiles, whole = (reader.read_image(one.files["sr"]).astype(int) for one in made)
    assert np.abs(tiles - whole).max() <= 1


@pytest.mark.faults
@pytest.mark.parametrize("size", [(1, 1), (3, 2)])
def test_an_image_of_a_pixel_is_predicted(trained_chain, tmp_path, size):
    Image.new("RGB", size[::-1], (250, 249, 251)).save(tmp_path / "a.png")
    made = batch.predict_files(trained_chain, [tmp_path / "a.png"], tmp_path / "out")[0]
    assert made.size == size
    assert reader.read_image(made.files["sr"]).shape == (4 * size[0], 4 * size[1], 3)
    assert read_labels(made.files["labels"]).shape == size


@pytest.mark.faults
def test_a_truncated_image_costs_only_itself(trained_chain, tmp_path, capsys):
    write_inputs(tmp_path / "in")
    broken = tmp_path / "in" / "b.jpg"
    broken.write_bytes(broken.read_bytes()[:600])
    with pytest.raises(UserError, match=r"b\.jpg.* is truncated"):
        batch.predict_files(trained_chain / "generator", [tmp_path / "in"], tmp_path / "out")
    made = sorted(p.name for p in (tmp_path / "out").iterdir())
    results = [f"{name}.{end}" for name in "ac" for end in ("html", "predicted.json", "sr.tif")]
    assert made == [*results, "index.html", "summary.csv"]
    index = (tmp_path / "out" / "index.html").read_text()
    assert "a.sr.tif" in index
    assert "c.sr.tif" in index
    assert "b.sr.tif" not in index
    assert "b.jpg is truncated" in index
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"not predicted: {broken} is truncated")


@pytest.mark.faults
def test_all_failures_are_counted(trained_chain, tmp_path):
    write_inputs(tmp_path / "in")
    for name in ("a.png", "b.jpg"):
        file = tmp_path / "in" / name
        file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(UserError, match="2 of 3 images could not be predicted") as failure:
        batch.predict_files(trained_chain / "generator", [tmp_path / "in"], tmp_path / "out")
    assert "a.png" in str(failure.value)
    assert "b.jpg" in str(failure.value)


def dark(image):
    gray = image.astype(np.float32).mean(-1, keepdims=True)
    return {"mask": 1 / (1 + np.exp((gray - 128) / 16))}


@pytest.fixture
def finder(trained_chain, monkeypatch):
    """The meta of a trained run whose network is replaced by one that finds what is dark."""
    run = workdirs.load(trained_chain / "segmentation")
    run.meta.update(mpp_in=None, mpp_out=None, nucleus_diameter=12)
    network = tiled.TiledNetwork(dark, halo=2, stride=1, scale=1, largest=64)
    monkeypatch.setattr(batch.workdirs, "load", lambda _: run)
    monkeypatch.setattr(batch.tiled, "predictor", lambda *_, **__: network)
    return run.meta


def two_fields(folder):
    """Two images with one dark disc each, of 12 px in a.png and of 8 px in b.png."""
    folder.mkdir()
    y, x = np.mgrid[:40, :40] - 19.5
    for name, radius in (("a", 6), ("b", 4)):
        disc = np.where(np.hypot(y, x) <= radius, 0, 255).astype(np.uint8)
        Image.fromarray(disc).convert("RGB").save(folder / f"{name}.png")
    return folder


def again(tmp_path, **options):
    """Which of the two fields are made, and which stand as they were made before."""
    made = batch.predict_files(tmp_path, [tmp_path / "in"], tmp_path / "out", **options)
    assert [one.nuclei for one in made] == [1, 1]
    return [one.before for one in made]


def test_an_image_is_predicted_once_by_a_model(finder, tmp_path, capsys):
    two_fields(tmp_path / "in")
    assert again(tmp_path) == [False, False]
    first = (tmp_path / "out" / "a.labels.tif").stat().st_mtime_ns
    assert again(tmp_path) == [True, True]
    assert (tmp_path / "out" / "a.labels.tif").stat().st_mtime_ns == first
    left = "left as made before (--overwrite makes them again): a.png, b.png"
    assert left in capsys.readouterr().err
    page = (tmp_path / "out" / "index.html").read_text()
    assert page.count("made before: its scale is unknown") == 2
    assert "2 images predicted" in page
    # It still stands where its image would now be too large.
    assert again(tmp_path, max_pixels=100) == [True, True]
    assert again(tmp_path, overwrite=True) == [False, False]
    assert again(tmp_path, outputs=["labels"]) == [False, False]
    assert again(tmp_path, mpp=0.5, outputs=["labels"]) == [False, False]
    assert again(tmp_path, mpp=0.5, outputs=["labels"]) == [True, True]
    assert again(tmp_path, nucleus_diameter=10.0) == [False, False]
    assert again(tmp_path, nucleus_diameter=10.0) == [True, True]


def test_what_has_changed_since_is_predicted_again(finder, tmp_path):
    folder = two_fields(tmp_path / "in")
    out = tmp_path / "out"
    assert again(tmp_path) == [False, False]
    labels = out / "a.labels.tif"
    labels.write_bytes(labels.read_bytes()[:-10])
    assert again(tmp_path) == [False, True]
    labels.unlink()
    assert again(tmp_path) == [False, True]
    (out / "b.predicted.json").write_text("[1")
    assert again(tmp_path) == [True, False]
    shutil.copy(folder / "a.png", folder / "b.png")
    assert again(tmp_path) == [True, False]
    finder["thresholds"] = {"mask": 0.4}
    assert again(tmp_path) == [False, False]


@pytest.mark.faults
def test_a_prediction_that_fails_leaves_no_record_of_the_one_before(finder, tmp_path, monkeypatch):
    two_fields(tmp_path / "in")
    again(tmp_path)

    def stopped(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(batch.record, "write", stopped)
        with pytest.raises(KeyboardInterrupt):
            again(tmp_path, overwrite=True)
    assert not (tmp_path / "out" / "a.predicted.json").exists()
    assert again(tmp_path) == [False, True]


def sure(diameter, nuclei=50):
    return Estimate(diameter, diameter - 1, diameter + 1, nuclei, True, "")


def notes(tmp_path, **options):
    made = batch.predict_files(tmp_path, [tmp_path / "in"], tmp_path / "out", **options)
    return [one.note for one in made]


def test_an_unknown_scale_is_estimated_once(finder, tmp_path, monkeypatch):
    two_fields(tmp_path / "in")
    asked = []

    def estimated(image):
        asked.append(image.path.name)
        return sure(24) if image.path.name == "a.png" else sure(6)

    monkeypatch.setattr(scale, "estimator", lambda run: estimated)
    first = notes(tmp_path)
    assert first == [
        "its nuclei measure 24 px (23 to 25, estimated from 50 of them): read 0.5 times as large, "
        "like the 12 px of the training",
        "its nuclei measure 6 px (5 to 7, estimated from 50 of them): read 2 times as large, "
        "like the 12 px of the training",
    ]
    assert asked == ["a.png", "b.png"]
    kept = json.loads((tmp_path / "out" / "a.predicted.json").read_text())
    assert kept["estimate"] == vars(sure(24))
    assert notes(tmp_path) == first
    assert asked == ["a.png", "b.png"]
    # What the user gives is not estimated.
    (note, _) = notes(tmp_path, nucleus_diameter=12.0)
    assert note == "its nuclei measure 12 px (--nucleus_diameter), as in the training"
    assert asked == ["a.png", "b.png"]
    notes(tmp_path)
    assert asked == ["a.png", "b.png"] * 2
    # Where both scales are known there is nothing to estimate.
    finder.update(mpp_in=0.5, mpp_out=0.5)
    assert notes(tmp_path, mpp=0.5) == ["at 0.5 um/px, as in the training"] * 2
    assert asked == ["a.png", "b.png"] * 2


def test_fields_that_agree_share_one_estimate(finder, tmp_path, monkeypatch):
    two_fields(tmp_path / "in")
    few = Estimate(20, 10, 40, 3, False, "only 3 nuclei")
    found = {"a.png": sure(24), "b.png": few}
    monkeypatch.setattr(scale, "estimator", lambda run: lambda image: found[image.path.name])
    first = notes(tmp_path)
    assert all("estimated from 50" in note for note in first)
    # An image that is made again by itself goes by the same estimate: the other's is kept.
    (tmp_path / "out" / "b.labels.tif").unlink()
    del found["a.png"]
    assert notes(tmp_path) == first
    found["a.png"] = sure(24)
    monkeypatch.setattr(scale, "agreed", lambda estimates: few)
    made = notes(tmp_path, overwrite=True)
    assert "estimated from 50" in made[0]
    assert made[1].endswith("its nuclei do not tell it: only 3 nuclei")


def test_an_image_of_another_camera_does_not_share_the_estimate(finder, tmp_path, monkeypatch):
    two_fields(tmp_path / "in")
    with Image.open(tmp_path / "in" / "b.png") as image:
        image.crop((0, 0, image.width - 8, image.height)).save(tmp_path / "in" / "b.png")
    few = Estimate(None, 6, 131, 0, False, "it is outside the range of 6 to 131 px")
    found = {"a.png": sure(24), "b.png": few}
    monkeypatch.setattr(scale, "estimator", lambda run: lambda image: found[image.path.name])
    made = notes(tmp_path)
    assert "estimated from 50" in made[0]
    assert made[1].endswith("it is outside the range of 6 to 131 px")


@pytest.mark.faults
def test_a_diameter_needs_a_run_that_knows_its_own(finder, tmp_path):
    two_fields(tmp_path / "in")
    del finder["nucleus_diameter"]
    with pytest.raises(UserError, match=r"=9 needs a run that knows the size of its nuclei, and"):
        again(tmp_path, nucleus_diameter=9.0)
    for name in ("mpp", "nucleus_diameter"):
        for value in (0.0, -1.0, float("nan"), float("inf")):
            with pytest.raises(UserError, match=rf"--{name}=\S+ has to be a number of .* above 0"):
                again(tmp_path, **{name: value})
    with pytest.raises(UserError, match=r"'outlines' is not known; choose one of page, sr, labels"):
        again(tmp_path, outputs=["outlines"])
    assert not (tmp_path / "out").exists()


def test_nuclei_of_fields_that_overlap_are_not_summed(finder, tmp_path, monkeypatch, capsys):
    folder = two_fields(tmp_path / "in")
    again(tmp_path)
    assert "2 nuclei in all" in (tmp_path / "out" / "index.html").read_text()
    said = "fields overlap (a.png and b.png share 50%): nuclei are not summed"
    monkeypatch.setattr(batch, "overlapping", lambda done: said if len(done) == 2 else "")
    again(tmp_path)
    assert said in capsys.readouterr().err
    page = (tmp_path / "out" / "index.html").read_text()
    assert said in page
    assert "in all" not in page
    (folder / "b.png").unlink()
    batch.predict_files(tmp_path, [folder], tmp_path / "out")
    assert "1 nucleus in all" in (tmp_path / "out" / "index.html").read_text()


def test_fields_that_overlap_are_named_with_what_they_share(tmp_path, monkeypatch):
    tissue = rendering.tissue(0, 0, 400)["image"]
    other = rendering.tissue(0, 2, 240)["image"]
    images = {"a.png": tissue[:240, :240], "b.png": tissue[:240, 120:360], "c.png": other}
    done = {
        tmp_path / name: prediction.Prediction(name[0], (240, 240), *[None] * 6) for name in images
    }
    for path in done:
        Image.fromarray(images[path.name]).save(path)
    said = batch.overlapping(done)
    found = re.fullmatch(r"fields overlap \(a.png and b.png share (\d+)%\): nuclei are .*", said)
    assert int(found[1]) == pytest.approx(50, abs=5)
    # A slide is not read for it.
    slide = dataclasses.replace(done[tmp_path / "a.png"], size=(17_000, 17_000))
    assert batch.overlapping({tmp_path / "slide.png": slide, **done}) == said
    del done[tmp_path / "a.png"]
    assert batch.overlapping(done) == ""
    monkeypatch.setattr(batch, "_MOST_FIELDS", 1)
    said = "over 1 fields are not searched for overlaps: nuclei are not summed"
    assert batch.overlapping(done) == said


SLIDE = slides.tissue(300, 300, [(60.0, 60.0, 8), (200.0, 150.0, 9)])


@pytest.fixture
def on_slides(monkeypatch):
    """A network that finds what is dark on slides, and counts what it sees."""
    network = slides.Network()
    monkeypatch.setattr(batch.workdirs, "load", lambda _: slides.run())
    monkeypatch.setattr(batch.tiled, "predictor", lambda *_, **__: network.tiled)
    return network


def cohort(folder, count, damaged=()):
    folder.mkdir()
    for index in range(count):
        image = SLIDE if index % 2 else SLIDE[:, ::-1]
        path = slides.write(folder / f"s{index:02}.svs", image, mpp=0.5, tile=64)
        if index in damaged:
            slides.damage(path, 7)
    return folder


def lines_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.faults
def test_two_damaged_slides_of_twelve_cost_themselves_alone(on_slides, tmp_path):
    folder, out = cohort(tmp_path / "in", 12, damaged=(3, 8)), tmp_path / "out"

    def predict(part):
        return batch.predict_files(tmp_path, [folder], out, tile=64, part=(part, 2))

    for part, name in ((0, "s08"), (1, "s03")):
        with pytest.raises(UserError, match=rf"{name}\.svs is damaged in .* copy it again"):
            predict(part)
        rows = lines_of(out / f"summary-{part + 1}-of-2.csv")
        assert [row["state"] for row in rows] == ["done"] * 5 + ["failed"]
        assert rows[-1]["image"].endswith(f"{name}.svs")
        assert "is damaged in" in rows[-1]["note"]
        assert {row["nuclei"] for row in rows[:-1]} == {"2"}
        page = (out / f"index-{part + 1}-of-2.html").read_text()
        assert f"{name}.svs is damaged in" in page
        assert "10 nuclei in all" in page
    done = {path.name for path in out.glob("s??.csv")}
    assert done == {f"s{index:02}.csv" for index in range(12) if index not in (3, 8)}
    seen = on_slides.windows
    assert seen > 0
    # Nothing is done twice, and what was refused stays refused.
    times = {path: path.stat().st_mtime_ns for path in out.glob("s??.*")}
    for part in (0, 1):
        with pytest.raises(UserError, match="is damaged in"):
            predict(part)
    assert on_slides.windows == seen
    kept = [path for path in times if path.is_file() and ".predicted" not in path.name]
    assert {path: path.stat().st_mtime_ns for path in kept} == {path: times[path] for path in kept}
    # A whole copy of the file is predicted.
    shutil.copy(folder / "s04.svs", folder / "s08.svs")
    assert [made.nuclei for made in predict(0)] == [2] * 6


@pytest.mark.faults
def test_both_failures_of_a_cohort_are_named_in_one_summary(on_slides, tmp_path):
    folder, out = cohort(tmp_path / "in", 4, damaged=(1, 2)), tmp_path / "out"
    with pytest.raises(UserError, match=r"2 of 4 images could not be .*: s01\.svs, s02\.svs"):
        batch.predict_files(tmp_path, [folder], out, tile=64)
    rows = lines_of(out / "summary.csv")
    assert [row["state"] for row in rows] == ["done", "done", "failed", "failed"]
    for row in rows[:2]:
        assert (row["height_px"], row["width_px"]) == ("300", "300")
        assert float(row["mpp_um"]) == pytest.approx(0.5)
        # All of it is tissue: 300 x 300 px of 0.5 um.
        assert float(row["area_mm2"]) == pytest.approx(0.0225, rel=0.02)
        assert row["note"].startswith("at 0.5 um/px")


@pytest.mark.faults
@pytest.mark.parametrize("failure", [OSError(5, "Input/output error"), KeyError("x")])
def test_what_fails_costs_one_slide_and_leaves_a_traceback(
    on_slides, tmp_path, monkeypatch, caplog, failure
):
    folder, out = cohort(tmp_path / "in", 3), tmp_path / "out"
    predict = batch.predict_image

    def failing(run, network, path, *rest, **more):
        if path.name == "s01.svs":
            raise failure
        return predict(run, network, path, *rest, **more)

    monkeypatch.setattr(batch, "predict_image", failing)
    said = rf"s01\.svs failed \({type(failure).__name__}: .*\): report the traceback above"
    with pytest.raises(UserError, match=said):
        batch.predict_files(tmp_path, [folder], out, tile=64)
    assert "Traceback (most recent call last)" in caplog.text
    assert [row["state"] for row in lines_of(out / "summary.csv")] == ["done", "done", "failed"]


def test_an_image_is_read_for_its_record_when_its_turn_comes(on_slides, tmp_path, monkeypatch):
    folder, order = cohort(tmp_path / "in", 2), []
    digest = record.image_digest

    def counted(path):
        order.append(path.name)
        return digest(path)

    monkeypatch.setattr(record, "image_digest", counted)
    monkeypatch.setattr(batch, "say", order.append)
    batch.predict_files(tmp_path, [folder], tmp_path / "out", tile=64)
    lines = [order.index(f"{k}/2 {folder}/s0{k - 1}.svs") for k in (1, 2)]
    assert lines == [order.index("s00.svs") - 1, order.index("s01.svs") - 1]
    order.clear()
    batch.predict_files(tmp_path, [folder], tmp_path / "out", tile=64)
    assert order[:3] == [
        "comparing 2 of 2 images with what was made before",
        "s00.svs",
        "s01.svs",
    ]


@pytest.fixture
def enhancing(monkeypatch):
    """A network that makes each px two times two."""
    network = slides.Network(2, enhances=True, segments=False)
    monkeypatch.setattr(batch.workdirs, "load", lambda _: slides.run("generator"))
    monkeypatch.setattr(batch.tiled, "predictor", lambda *_, **__: network.tiled)


def test_a_part_of_a_photograph_is_predicted(enhancing, tmp_path):
    Image.fromarray(SLIDE).save(tmp_path / "a.png")

    def sr(**options):
        made = batch.predict_files(
            tmp_path, [tmp_path / "a.png"], tmp_path / "out", tile=64, **options
        )
        return reader.read_image(made[0].files["sr"])

    part = sr(options=Options(region=(40, 20, 100, 60)))
    np.testing.assert_array_equal(part, SLIDE[20:80, 40:140].repeat(2, 0).repeat(2, 1))
    assert sr().shape == (600, 600, 3)
    assert sr(outputs=["sr"], options=Options(enhance=True)).shape == (600, 600, 3)
    # 300 px of 0.5 um are read as 150 px of 1 um.
    assert sr(mpp=0.5, options=Options(read_mpp=1.0)).shape == (300, 300, 3)


@pytest.mark.faults
def test_flags_that_would_change_nothing_are_refused(enhancing, tmp_path, monkeypatch):
    Image.fromarray(SLIDE).save(tmp_path / "a.png")

    def refused(said, **options):
        with pytest.raises(UserError, match=said):
            batch.predict_files(
                tmp_path, [tmp_path / "a.png"], tmp_path / "out", options=Options(**options)
            )

    for value in (0.0, -1.0, float("nan")):
        refused(r"--read_mpp=\S+ has to be a number of .* above 0", read_mpp=value)
    refused(r"--read_mpp=1 needs the scale of .*a\.png, which is unknown: give", read_mpp=1.0)
    monkeypatch.setattr(batch.workdirs, "load", lambda _: slides.run())
    refused(r"--read_mpp=1 needs a run that enhances, and runs/dark reads at", read_mpp=1.0)
    refused(r"--enhance needs a run that enhances, and runs/dark does not", enhance=True)


@pytest.mark.faults
def test_a_slide_without_a_scale_stays_in_its_cohort(on_slides, tmp_path):
    folder = cohort(tmp_path / "in", 3)
    slides.write(folder / "s03.svs", SLIDE, tile=64)
    made = batch.predict_files(tmp_path, [folder], tmp_path / "out", tile=64)
    assert [one.nuclei for one in made] == [2] * 4
    rows = lines_of(tmp_path / "out" / "summary.csv")
    assert [row["state"] for row in rows] == ["done"] * 4
    assert [bool(row["mpp_um"]) for row in rows] == [True] * 3 + [False]
    assert "its scale is unknown" in rows[3]["note"]
    assert "area_px2" in lines_of(made[3].files["table"])[0]


@pytest.mark.faults
def test_the_page_of_a_large_cohort_shows_the_first_slides(on_slides, tmp_path, monkeypatch):
    monkeypatch.setattr(batch, "_MOST_SHOWN", 2)
    folder = cohort(tmp_path / "in", 3)
    batch.predict_files(tmp_path, [folder], tmp_path / "out", tile=64)
    page = (tmp_path / "out" / "index.html").read_text()
    assert "6 nuclei in all. The first 2 are shown; summary.csv lists all." in page
    assert page.count("The middle of") == page.count("<img") * 2 == 4
    assert len(lines_of(tmp_path / "out" / "summary.csv")) == 3


@pytest.mark.faults
def test_a_slide_that_is_damaged_a_little_is_in_the_index(on_slides, tmp_path, monkeypatch):
    monkeypatch.setattr(cut, "_MOST_DAMAGED", 0.9)
    # The middle, which the index shows, cannot be read.
    folder = cohort(tmp_path / "in", 2, damaged=())
    slides.damage(folder / "s00.svs", 12)
    made = batch.predict_files(tmp_path, [folder], tmp_path / "out", tile=64)
    assert "damaged part" in made[0].note
    assert "taken as white" in (tmp_path / "out" / "index.html").read_text()
    # It was damaged before: the note stands.
    again = batch.predict_files(tmp_path, [folder], tmp_path / "out", tile=64)
    assert [one.before for one in again] == [True, True]
    assert again[0].note == made[0].note


@pytest.mark.faults
def test_a_damaged_tile_does_not_keep_nuclei_from_telling_the_scale(
    on_slides, tmp_path, monkeypatch
):
    monkeypatch.setattr(cut, "_MOST_DAMAGED", 0.9)
    monkeypatch.setattr(batch.workdirs, "load", lambda _: slides.run(nucleus_diameter=12))
    folder = tmp_path / "in"
    folder.mkdir()
    slides.damage(slides.write(folder / "a.svs", SLIDE, tile=64), 12)

    def estimated(image):
        image.read(0, 0, image.height, image.width)
        return sure(12)

    monkeypatch.setattr(scale, "estimator", lambda run: estimated)
    (note,) = notes(tmp_path)
    assert note.startswith("its nuclei measure 12 px (11 to 13, estimated from 50 of them)")

    def failing(image):
        raise RuntimeError("no room")

    monkeypatch.setattr(scale, "estimator", lambda run: failing)
    (note,) = notes(tmp_path, overwrite=True)
    assert "do not tell it: their size cannot be estimated (no room); " in note


@pytest.mark.faults
def test_regions_of_before_are_dropped_where_all_is_asked_for_again(on_slides, tmp_path):
    folder, out = cohort(tmp_path / "in", 1), tmp_path / "out"
    on_slides.stop_after = 0
    with pytest.raises(UserError, match="Stop"):
        batch.predict_files(tmp_path, [folder], out, tile=64)
    kept = out / "s00.parts" / "y000000-x000000.npz"
    kept.write_bytes(b"damaged")
    on_slides.stop_after = None
    with pytest.raises(UserError, match=r"s00\.svs failed"):
        batch.predict_files(tmp_path, [folder], out, tile=64)
    made = batch.predict_files(tmp_path, [folder], out, tile=64, overwrite=True)
    assert made[0].nuclei == 2


@pytest.mark.faults
def test_a_slide_is_made_again_where_flags_change_its_results_alone(on_slides, tmp_path):
    folder = cohort(tmp_path / "in", 1)

    def before(**options):
        made = batch.predict_files(
            tmp_path, [folder], tmp_path / "out", tile=64, options=Options(**options)
        )
        return made[0].before

    assert not before()
    assert before()
    assert before(workers=1)
    assert before(max_output_pixels=10)
    assert not before(cell_expansion=3.0)
    assert not before(region=(0, 0, 150, 300))
    assert before(region=(0, 0, 150, 300))
    assert not before()
    labels = tmp_path / "out" / "s00.labels.tif"
    labels.write_bytes(labels.read_bytes()[: labels.stat().st_size // 2])
    assert not before()


@pytest.mark.faults
def test_names_with_dots_keep_them(on_slides, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.1.svs", "a.2.svs", "a.svs"):
        slides.write(folder / name, SLIDE, mpp=0.5, tile=64)
    made = batch.predict_files(tmp_path, [folder], tmp_path / "out", tile=64)
    assert [one.files["table"].name for one in made] == ["a.1.csv", "a.2.csv", "a.csv"]
    assert len({one.files["labels"] for one in made}) == 3


def test_fields_are_joined_before_nuclei_are_counted(trained_chain, tmp_path):
    shown, corners = fields.grid(fields.tissue(), 2, 2, 180, 120, jitter=10)
    folder = tmp_path / "in"
    folder.mkdir()
    for number, one in enumerate([*shown, np.full_like(shown[0], 255)]):
        Image.fromarray(one).save(folder / f"t{number}.png")
    out = tmp_path / "out"
    flags = [f"--workdir={trained_chain}", f"--input={folder}", f"--output={out}", "--mosaic"]
    flags.append("--mpp=1")
    # Both times the field without tissue is named, once all else is done.
    for state in ("out", "made before"):
        status, _, said = commands.run("predict", *flags)
        assert status == 2
        assert "1 of 5 fields are left out (t4.png is blank" in said
        assert state in said
    with reader.open_image(out / "mosaic" / "mosaic.tif") as image:
        assert image.mpp == pytest.approx(1, rel=1e-3)
        size = image.height, image.width
    spread = np.ptp(corners.real), np.ptp(corners.imag)
    assert size == pytest.approx([180 + reach for reach in spread], abs=2)
    assert read_labels(out / "mosaic.labels.tif").shape == size
    assert sorted(path.name for path in (out / "mosaic").iterdir()) == [
        "index.html",
        "mosaic.tif",
        "placement.csv",
    ]


@pytest.mark.faults
def test_fields_are_not_joined_with_what_was_made_of_them(on_slides, tmp_path):
    shown, _ = fields.grid(fields.tissue(), 1, 2, 180, 110)
    for number, one in enumerate([*shown, np.zeros_like(shown[0])]):
        Image.fromarray(one).save(tmp_path / f"t{number}.png")
    for _ in range(2):
        # As of an earlier call that found two mosaics.
        for ending in ("predicted.json", "geojson"):
            (tmp_path / f"mosaic-2.{ending}").touch()
        with pytest.raises(UserError, match=r"1 of 3 fields are left out \(t2\.png is black"):
            batch.predict_files(tmp_path, [tmp_path], tmp_path, outputs=["labels"], mosaic=True)
        assert not list(tmp_path.glob("mosaic-2*"))
        assert "t2.png" in (tmp_path / "index.html").read_text()


@pytest.mark.faults
def test_a_mosaic_of_nothing_is_refused(trained_chain, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(2):
        Image.fromarray(np.full((64, 64, 3), 255 - number, np.uint8)).save(folder / f"{number}.png")
    with pytest.raises(UserError, match="2 of 2 fields are left out"):
        batch.predict_files(trained_chain, [folder], tmp_path / "out", mosaic=True)
    status, _, said = commands.run(
        "predict", f"--workdir={trained_chain}", "--mosaic", "--num_parts=2"
    )
    assert status == 2
    assert "leave --num_parts out" in said


@pytest.mark.faults
def test_files_of_other_results_do_not_stay_beside_new_ones(on_slides, tmp_path):
    Image.fromarray(SLIDE).save(tmp_path / "a.png")

    def predict(*outputs, **options):
        given = {"outputs": list(outputs) or None, "options": Options(**options)}
        batch.predict_files(tmp_path, [tmp_path / "a.png"], tmp_path / "out", **given)
        names = {path.name for path in (tmp_path / "out").iterdir()}
        return names - {"index.html", "summary.csv", "a.predicted.json"}

    assert predict() == {"a.csv", "a.geojson", "a.html", "a.labels.tif"}
    # Of the same nuclei all may stay.
    assert predict("table") == {"a.csv", "a.geojson", "a.html", "a.labels.tif"}
    # A file of the user's own is none of them.
    (tmp_path / "out" / "a.classes.tif").write_bytes(b"own")
    left = predict("table", region=(0, 0, 200, 200))
    assert left == {"a.csv", "a.classes.tif"}


def test_what_a_stopped_call_left_is_no_input(on_slides, tmp_path):
    Image.fromarray(SLIDE).save(tmp_path / "a.png")
    (tmp_path / "a.parts").mkdir()
    (made,) = batch.predict_files(tmp_path, [tmp_path], tmp_path)
    assert made.nuclei == 2
