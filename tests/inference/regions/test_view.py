"""The scale at which a slide is read, and what of it is predicted."""

from types import SimpleNamespace

import numpy as np
import pytest

from histojax.errors import UserError
from histojax.imaging.reader import open_image
from histojax.inference.regions import view as view_module
from histojax.inference.regions.view import LARGEST_FIELD, Options, is_slide, scale_factor, view_of
from histojax.inference.scale import Estimate
from tests.imaging import stub_slide
from tests.inference.regions import dark

IMAGE = dark.tissue(600, 800, dark.nuclei(600, 280), glass=300)
FINDER = dark.run(mpp_in=0.5, mpp_out=0.5)


@pytest.fixture(autouse=True)
def slides(monkeypatch):
    """Every image is taken for a slide."""
    monkeypatch.setattr(view_module, "is_slide", lambda *_: True)


@pytest.fixture
def path(tmp_path):
    return dark.write(tmp_path / "a.tif", IMAGE, mpp=0.25)


def seen(path, run=FINDER, mpp=None, estimate=None, **options):
    with open_image(path) as image:
        view, _, note = view_of(run, image, path, mpp, estimate, Options(**options))
        return view, note


def test_a_run_that_finds_nuclei_reads_the_scale_of_its_training(path):
    view, note = seen(path)
    assert view.mpp == pytest.approx(0.25)
    assert view.factor == pytest.approx(0.5)
    assert view.size == (600, 800)
    assert (view.image.height, view.image.width) == (300, 400)
    assert note == "at 0.25 um/px: read 0.5 times as large, like the 0.5 um/px of the training"
    # The scale of what is read is that of the slide over the factor.
    assert view.mpp / view.factor == pytest.approx(0.5)


def test_any_ratio_of_scales_is_resampled(tmp_path):
    path = dark.write(tmp_path / "a.tif", IMAGE, mpp=0.263)
    view, _ = seen(path)
    assert view.factor == pytest.approx(0.526, rel=1e-3)
    assert (view.image.height, view.image.width) == (316, 421)


def test_the_user_s_scale_goes_before_the_file_s_and_that_is_said(path):
    view, note = seen(path, mpp=0.5)
    assert (view.mpp, view.factor) == (0.5, 1.0)
    assert note == "at 0.5 um/px, as in the training; the file states 0.25 um/px"
    assert "the file states" not in seen(path, mpp=0.2501)[1]


def test_an_enhancer_reads_the_slide_as_it_is_unless_it_is_told(path):
    run = dark.run("generator", mpp_in=1.0, mpp_out=0.25)
    view, note = seen(path, run)
    assert view.factor == 1.0
    assert note == "at 0.25 um/px, enhanced as it is; the training had 1 um/px"
    view, note = seen(path, run, read_mpp=1.0)
    assert (view.factor, note) == (pytest.approx(0.25), "at 0.25 um/px, read at 1 um/px")


def test_a_run_that_does_both_reads_what_its_enhancer_was_trained_on(path, tmp_path):
    joint = dark.run("joint", mpp_in=1.0, mpp_out=0.25, nucleus_diameter=24)
    view, note = seen(path, joint)
    assert view.factor == pytest.approx(0.25)
    assert note == "at 0.25 um/px: read 0.25 times as large, like the 0.25 um/px of the training"
    # Nuclei of 12 px are to measure 24 px in the enhanced image, and 6 px in what is read.
    unscaled = dark.write(tmp_path / "b.tif", IMAGE)
    view, note = seen(unscaled, joint, estimate=Estimate(12, 11, 13, 50, True, ""))
    assert view.factor == pytest.approx(0.5)
    assert "its nuclei measure 12 px" in note
    assert "its scale is unknown" in seen(unscaled, joint)[1]
    with pytest.raises(UserError, match=r"--read_mpp=1 needs the scale of .*b\.tif, which is unkn"):
        seen(unscaled, dark.run("generator"), read_mpp=1.0)


@pytest.mark.faults
def test_the_objective_alone_is_a_guess_and_that_is_said(monkeypatch, tmp_path):
    path = tmp_path / "a.mrxs"
    path.write_bytes(b"")
    stub_slide.install(monkeypatch, IMAGE, objective_power="20")
    view, note = seen(path)
    assert (view.mpp, view.factor) == (0.5, 1.0)
    assert "its scale is a guess by its objective of 20x, --mpp=... corrects it" in note
    assert "guess" not in seen(path, mpp=0.25)[1]
    # The nuclei know better than the objective.
    sure = Estimate(24, 23, 25, 50, True, "")
    run = dark.run(mpp_in=0.5, mpp_out=0.5, nucleus_diameter=12)
    view, note = seen(path, run, estimate=sure)
    assert (view.mpp, view.factor) == (None, 0.5)
    assert "guess" not in note


@pytest.mark.faults
def test_the_objective_of_an_aperio_slide_is_a_guess_too(tmp_path):
    path, text = tmp_path / "a.svs", "Aperio Image Library v11.2.1|AppMag = 20"
    view, note = seen(dark.write(path, IMAGE, description=text))
    assert view.mpp == 0.5
    assert "its scale is a guess by its objective of 20x" in note
    text += "|MPP = 0.2427"
    view, note = seen(dark.write(path, IMAGE, description=text))
    assert view.mpp == 0.2427
    assert "guess" not in note


@pytest.mark.faults
def test_um_per_px_go_before_the_objective(monkeypatch, tmp_path):
    path = tmp_path / "a.mrxs"
    path.write_bytes(b"")
    stub_slide.install(monkeypatch, IMAGE, objective_power="20", mpp_x="0.2427", mpp_y="0.2427")
    view, note = seen(path)
    assert view.mpp == 0.2427
    assert "guess" not in note


@pytest.mark.faults
def test_a_slide_without_any_scale_is_read_as_it_is_and_that_is_said(tmp_path):
    view, note = seen(dark.write(tmp_path / "a.tif", IMAGE))
    assert (view.mpp, view.factor, view.area_mm2) == (None, 1.0, None)
    assert "its scale is unknown" in note
    assert "--mpp=... gives it" in note


def test_a_region_smaller_than_a_pixel_of_what_is_read_is_one(path):
    run = dark.run("generator")
    for corner in ((0, 0), (799, 599)):
        view, _ = seen(path, run, read_mpp=1.0, region=(*corner, 1, 1))
        assert view.seen_box[2:] == (1, 1)


@pytest.mark.faults
def test_a_region_outside_of_the_slide_is_refused(path):
    for region in ((0, 0, 801, 10), (0, 0, 10, 0), (-1, 0, 5, 5), (790, 590, 10, 11)):
        given = ",".join(map(str, region))
        words = rf"--region={given} is not inside .* of 800 x 600 px: give X,Y,WIDTH,HEIGHT"
        with pytest.raises(UserError, match=words):
            seen(path, region=region)
    view, _ = seen(path, region=(790, 590, 10, 10))
    assert view.box == (590, 790, 10, 10)
    assert view.seen_box == (295, 395, 5, 5)


def test_tissue_within_the_box_is_wanted(path):
    view, _ = seen(path)  # at half the size
    assert view.box == (0, 0, 600, 800)
    assert view.wanted(0, 0, 64, 64)
    # Glass begins at 300 px of the slide, and the mask reaches 40 um, 160 px, beyond the tissue.
    assert view.wanted(0, 160, 64, 64)
    assert not view.wanted(0, 350, 64, 50)
    assert view.area_mm2 == pytest.approx(600 * 300 * 0.0625 / 1e6, rel=0.06)
    part, _ = seen(path, region=(100, 300, 200, 60))
    assert part.wanted(150, 50, 10, 10)
    assert not part.wanted(0, 0, 140, 400)
    assert not part.wanted(182, 0, 100, 400)
    assert not part.wanted(150, 152, 10, 100)
    assert part.area_mm2 == pytest.approx(200 * 60 * 0.0625 / 1e6, rel=0.1)


@pytest.mark.faults
def test_the_frame_is_a_px_inside_of_what_was_scanned(monkeypatch, tmp_path, path):
    assert seen(path)[0].frame == (0, 0, 300, 400)
    scan = tmp_path / "a.mrxs"
    scan.write_bytes(b"")
    bounds = {"bounds_x": "100", "bounds_y": "0", "bounds_width": "400", "bounds_height": "600"}
    stub_slide.install(monkeypatch, IMAGE, mpp_x="0.25", mpp_y="0.25", **bounds)
    assert seen(scan)[0].frame == (0, 51, 300, 198)


def test_slides_are_told_by_their_ending_or_their_size(tmp_path, path, monkeypatch):
    with open_image(path) as image:
        assert not is_slide(path, image)
        assert is_slide(path.with_suffix(".SVS"), image)
        assert is_slide(path.with_suffix(".ndpi"), image)
        image.height = LARGEST_FIELD // image.width + 1
        assert is_slide(path, image)


@pytest.mark.faults
def test_two_scales_of_one_tissue_give_one_factor_a_um(tmp_path):
    half = dark.write(tmp_path / "b.tif", np.ascontiguousarray(IMAGE[::2, ::2]), mpp=0.5)
    whole = dark.write(tmp_path / "c.tif", IMAGE, mpp=0.25)
    views = [seen(path)[0] for path in (half, whole)]
    assert [view.image.height for view in views] == [300, 300]
    assert [view.area_mm2 for view in views] == pytest.approx([views[0].area_mm2] * 2, rel=0.02)


def stub(*capabilities, **meta):
    """A run of which only the scale is asked."""
    meta = {"mpp_in": None, "mpp_out": None, **meta}
    return SimpleNamespace(
        stage=SimpleNamespace(capabilities=frozenset(capabilities)), meta=meta, workdir="run"
    )


SURE = Estimate(40, 36, 44, 120, True, "")
UNSURE = Estimate(40, 20, 80, 7, False, "only 7 nuclei")
AT_1 = {"mpp_in": 1.0, "mpp_out": 1.0}


@pytest.mark.parametrize(
    ("mpp", "estimate", "meta", "factor", "said"),
    [
        (1.0, None, AT_1, 1, "at 1 um/px, as in the training"),
        (1.04, None, AT_1, 1, "at 1.04 um/px, as in the training"),
        (2.0, None, AT_1, 2, "at 2 um/px: read 2 times as large, like the 1 um/px of the training"),
        (0.263, None, {"mpp_out": 0.5}, 0.526, "read 0.526 times as large, like the 0.5 um/px of"),
        (31.0, None, AT_1, 31, "read 31 times as large"),
        (2.5, None, AT_1, 2.5, "enhancing model, such as nuclei-joint-x4, may find more"),
        (None, None, AT_1, 1, "so it is read as if it had the run's 1 um/px; --mpp=... gives it"),
        (0.5, None, {}, 1, "at 0.5 um/px, read as it is: the run does not know its own scale"),
        (
            None,
            SURE,
            {},
            0.5,
            "its nuclei measure 40 px (36 to 44, estimated from 120 of them): read",
        ),
        (0.5, SURE, {}, 0.5, "read 0.5 times as large, like the 20 px of the training"),
        (None, UNSURE, AT_1, 1, "the run's 1 um/px; --mpp or --nucleus_diameter gives it; its nuc"),
        (None, UNSURE, {}, 1, "so it is read as it is; --mpp or --nucleus_diameter gives it"),
        (0.5, UNSURE, {}, 1, "its own scale; its nuclei do not tell it: only 7 nuclei"),
        # What the user says of nuclei wins over what the file says of its scale.
        (1.0, Estimate(5, 5, 5, 0, True, "--nucleus_diameter"), AT_1, 4, "measure 5 px (--nuc"),
    ],
)
def test_a_segmenter_reads_images_at_the_scale_of_its_training(mpp, estimate, meta, factor, said):
    run = stub("segment", nucleus_diameter=20, **meta)
    found, note = scale_factor(run, 1, mpp, estimate)
    assert found == pytest.approx(factor)
    assert said in note
    # Behind an enhancer of factor 4 the enhanced image has a quarter of the input's mpp.
    if found != 1:
        both = stub("segment", "enhance", nucleus_diameter=20, **meta)
        found, note = scale_factor(both, 4, mpp, estimate, enhanced=True)
        assert found == pytest.approx(factor / 4)
        assert found == 1 or "enhanced as it is, then read" in note
        _, note = scale_factor(both, 4, mpp, estimate)
        assert "enhanced" not in note


@pytest.mark.parametrize("mpp", [None, 0.1, 1.0, 3.0])
def test_an_enhancer_takes_images_as_they_are(mpp):
    factor, note = scale_factor(stub("enhance", **AT_1), 4, mpp)
    assert factor == 1
    assert {None: "unknown", 1.0: "as in the training"}.get(
        mpp, "enhanced as it is; the tr"
    ) in note


@pytest.mark.faults
@pytest.mark.parametrize("mpp", [0.03, 33.0])
def test_a_scale_that_must_be_a_mistake_is_refused(mpp):
    with pytest.raises(UserError, match=r"um/px, more than a factor of 32 from the 1 um/px of"):
        scale_factor(stub("segment", **AT_1), 1, mpp)
