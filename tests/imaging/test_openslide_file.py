import numpy as np
import openslide
import pytest

from histojax.errors import UserError
from histojax.imaging.reader import ResampledReader, open_image
from tests.imaging import stub_slide

RNG = np.random.default_rng(1)
IMAGE = RNG.integers(0, 200, (120, 160, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)


@pytest.fixture
def slide(tmp_path):
    path = tmp_path / "a.mrxs"
    path.write_bytes(b"what only OpenSlide knows")
    return path


def test_a_slide_states_its_scale_its_levels_and_what_was_scanned(monkeypatch, slide):
    stated = {"mpp_x": "0.25", "mpp_y": "0.25", "objective_power": "40"}
    bounds = {"bounds_x": "500", "bounds_y": "100", "bounds_width": "300", "bounds_height": "200"}
    stub_slide.install(monkeypatch, IMAGE, factors=(1, 4), **stated, **bounds)
    with open_image(slide) as image:
        assert (image.height, image.width, image.page) == (960, 1280, "level 1 of 2")
        assert (image.mpp, image.mpp_from, image.power) == (0.25, "mirax", 40.0)
        assert [(level.height, level.width) for level in image.reductions] == [(240, 320)]
        assert image.bounds == (100, 500, 200, 300)
        # Regions count from the corner of the file, whatever was scanned.
        np.testing.assert_array_equal(image.read(96, 480, 50, 70), IMAGE[96:146, 480:550])


def test_a_slide_without_bounds_was_scanned_whole(monkeypatch, slide):
    stub_slide.install(monkeypatch, IMAGE)
    with open_image(slide) as image:
        assert image.bounds == (0, 0, 960, 1280)
        assert (image.mpp, image.mpp_from, image.power) == (None, "none", None)


@pytest.mark.faults
def test_an_objective_is_no_scale(monkeypatch, slide):
    stub_slide.install(monkeypatch, IMAGE, objective_power="20", mpp_x="1000", mpp_y="1000")
    with open_image(slide) as image:
        assert (image.mpp, image.power) == (None, 20.0)
        assert "mirax of 1000 um" in image.mpp_from


@pytest.mark.faults
def test_a_region_of_a_level_lies_where_level_0_has_it(monkeypatch, slide):
    asked = stub_slide.install(monkeypatch, IMAGE, factors=(1, 4))
    with open_image(slide) as image:
        got = image.reductions[0].read(30, 50, 20, 40)
    # OpenSlide takes the corner in px of level 0, and the size in those of the level.
    assert asked == [((200, 120), 1, (40, 20)), "closed"]
    np.testing.assert_array_equal(got[::2, ::2], IMAGE[124:204:8, 204:364:8])


@pytest.mark.faults
@pytest.mark.parametrize(
    ("properties", "color"),
    [({}, (255, 255, 255)), ({"background_color": "F0E1D2"}, (240, 225, 210))],
)
def test_what_was_not_scanned_shows_the_background(monkeypatch, slide, properties, color):
    alpha = np.full(IMAGE.shape[:2], 255, np.uint8)
    alpha[:480, :640] = 0
    alpha[480:, :640] = 51
    stub_slide.install(monkeypatch, IMAGE, alpha=alpha, **properties)
    with open_image(slide) as image:
        got = image.read(0, 0, 960, 1280)
    assert (got[:480, :640] == color).all()
    np.testing.assert_array_equal(got[:, 640:], IMAGE[:, 640:])
    mixed = 0.2 * IMAGE[480:, :640] + 0.8 * np.array(color)
    np.testing.assert_allclose(got[480:, :640], mixed, atol=0.501)


@pytest.mark.faults
def test_a_damaged_place_is_named_and_others_are_still_read(monkeypatch, slide):
    stub_slide.install(monkeypatch, IMAGE, damaged=(300, 410))
    with open_image(slide) as image:
        # After an error OpenSlide's handle answers nothing more: it has to be opened again.
        for _ in range(2):
            with pytest.raises(UserError, match=r"a\.mrxs is damaged at y=256 x=400 \(no such"):
                image.read(256, 400, 100, 100)
        np.testing.assert_array_equal(image.read(400, 400, 9, 9), IMAGE[400:409, 400:409])


@pytest.mark.faults
def test_a_slide_that_does_not_open_is_one_sentence(monkeypatch, slide):
    stub_slide.install(monkeypatch, IMAGE)

    def refuse(self, path):
        raise openslide.OpenSlideError("Can't find Slidedat.ini")

    monkeypatch.setattr(openslide.OpenSlide, "__init__", refuse)
    with pytest.raises(UserError, match=r"a\.mrxs cannot be opened \(Can't find Slidedat\.ini\)"):
        open_image(slide)


def test_half_the_size_is_read_from_the_level_that_is_no_smaller(monkeypatch, slide):
    asked = stub_slide.install(monkeypatch, IMAGE, factors=(1, 2, 8))
    with open_image(slide) as image:
        for factor, level in ((0.9, 0), (0.5, 1), (0.4, 1), (0.125, 2), (0.1, 2)):
            ResampledReader(image, factor).read(0, 0, 10, 10)
            assert asked.pop()[1] == level


def test_dicom_slides_are_read(real_data):
    folder = real_data / "slides" / "fixtures"
    with open_image(folder / "highdicom" / "sm_image.dcm") as image:
        assert (image.height, image.width, image.mpp, image.power) == (50, 50, 0.499, None)
        whole = image.read(0, 0, 50, 50)
    with openslide.OpenSlide(folder / "highdicom" / "sm_image.dcm") as other:
        expected = np.asarray(other.read_region((0, 0), 0, (50, 50)))
    assert (expected[..., 3] == 255).all()
    np.testing.assert_array_equal(whole, expected[..., :3])
    # An objective of 20x beside 0.499 um/px.
    with open_image(folder / "openslide-python" / "boxes_0.dcm") as image:
        assert (image.mpp, image.power) == (0.499, 20.0)


@pytest.mark.faults
def test_a_dicom_slide_of_16_bits_is_refused(real_data):
    folder = real_data / "slides" / "fixtures" / "highdicom"
    with pytest.raises(
        UserError, match=r"grayscale\.dcm cannot be opened \(.*: convert it, or copy it again"
    ):
        open_image(folder / "sm_image_grayscale.dcm")
