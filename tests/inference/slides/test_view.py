"""The scale at which a slide is read, and what of it is predicted."""

import numpy as np
import pytest

from histojax.errors import UserError
from histojax.imaging.reader import open_image
from histojax.inference.scale import Estimate
from histojax.inference.slides.view import LARGEST_FIELD, Options, is_slide, view_of
from tests.imaging import stub_slide
from tests.inference.slides import dark

IMAGE = dark.tissue(600, 800, dark.nuclei(600, 280), glass=300)
FINDER = dark.run(mpp_in=0.5, mpp_out=0.5)


@pytest.fixture
def path(tmp_path):
    return dark.write(tmp_path / "a.tif", IMAGE, mpp=0.25)


def seen(path, run=FINDER, mpp=None, estimate=None, **options):
    with open_image(path) as image:
        return view_of(run, image, path, mpp, estimate, Options(**options))


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
    assert (view.factor, note) == (1.0, "enhanced as it is")
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
    assert (view.mpp, view.factor, view.tissue_mm2) == (None, 1.0, None)
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
    assert view.tissue_mm2 == pytest.approx(600 * 300 * 0.0625 / 1e6, rel=0.06)
    part, _ = seen(path, region=(100, 300, 200, 60))
    assert part.wanted(150, 50, 10, 10)
    assert not part.wanted(0, 0, 140, 400)
    assert not part.wanted(182, 0, 100, 400)
    assert not part.wanted(150, 152, 10, 100)
    assert part.tissue_mm2 == pytest.approx(200 * 60 * 0.0625 / 1e6, rel=0.1)


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
    assert [view.tissue_mm2 for view in views] == pytest.approx([views[0].tissue_mm2] * 2, rel=0.02)
