"""Tissue is told from glass, ink and frames; all and nothing are answers too."""

import numpy as np
import pytest
import tifffile

from histojax.imaging import reader as reading
from histojax.imaging.reader import open_image
from histojax.inference.regions.tissue_mask import TissueMask, tissue_in, tissue_mask
from tests.inference.regions import dark

# At 8 um per px.
SIDE = 160
TISSUE = np.s_[40:120, 30:100]


def overview(glass=dark.GLASS, tissue=dark.PINK, noise=2.0):
    """Pink with purple nuclei, which 8 um per px mix, on glass."""
    rng = np.random.default_rng(0)
    image = np.empty((SIDE, SIDE, 3))
    image[:] = glass
    mixed = rng.uniform(0, 0.6, (80, 70, 1))
    image[TISSUE] = (1 - mixed) * np.array(tissue) + mixed * np.array(dark.PURPLE)
    return (image + rng.normal(0, noise, image.shape)).clip(0, 255).round().astype(np.uint8)


def check(mask):
    """The tissue is in the mask, and little more."""
    assert mask[TISSUE].mean() > 0.99
    outside = mask.copy()
    outside[38:122, 28:102] = False
    assert outside.mean() < 0.002


def paled(image, share):
    """The same colours with a share of their saturation, as HSV has it."""
    image = image.astype(float)
    lightest = image.max(-1, keepdims=True)
    return (lightest - share * (lightest - image)).round().astype(np.uint8)


def test_tissue_is_found():
    check(tissue_in(overview(), 8.0))


@pytest.mark.faults
def test_pale_tissue_is_found():
    check(tissue_in(paled(overview(), 0.5), 8.0))
    check(tissue_in(paled(overview(), 0.3), 8.0))
    check(tissue_in(overview(tissue=(246, 226, 238)), 8.0))


@pytest.mark.faults
def test_tissue_under_saffron_is_found():
    # Optical densities of 0.04, 0.08 and 0.10, and of darker collagen.
    check(tissue_in(overview(tissue=(233, 212, 203)), 8.0))
    check(tissue_in(overview(tissue=(215, 170, 150)), 8.0))


@pytest.mark.faults
@pytest.mark.parametrize("glass", [(255, 255, 255), (243, 242, 240), (230, 232, 229)])
def test_glass_may_have_a_color_of_its_own(glass):
    check(tissue_in(overview(glass=glass), 8.0))


@pytest.mark.faults
@pytest.mark.parametrize("glass", [(243, 243, 245), (242, 240, 243), (238, 238, 238)])
def test_glass_is_no_tissue_beside_parts_that_were_not_scanned(glass):
    image = overview(glass=glass)
    image[:, 130:] = 255
    check(tissue_in(image, 8.0))


@pytest.mark.faults
@pytest.mark.parametrize(
    "color",
    [
        *((40, 60, 170), (30, 120, 60), (20, 20, 22)),
        *((220, 40, 30), (240, 130, 20), (250, 230, 80), (245, 235, 205)),
    ],
)
def test_pens_are_no_tissue(color):
    image = overview()
    image[10:16, 5:150] = color
    image[125:155, 140:146] = color
    check(tissue_in(image, 8.0))


@pytest.mark.faults
def test_a_black_frame_is_no_tissue():
    image = overview()
    image[:10] = image[-10:] = image[:, :10] = image[:, -10:] = 6
    mask = tissue_in(image, 8.0)
    check(mask)
    assert not mask[:8].any()


@pytest.mark.faults
def test_a_frame_that_is_all_tissue_or_all_glass_is_not_cut_in_two():
    tissue = overview()[TISSUE]
    assert tissue_in(tissue, 8.0).mean() > 0.99
    rng = np.random.default_rng(1)
    for level, noise in ((255, 0), (248, 3), (240, 4)):
        glass = rng.normal(level, noise, (SIDE, SIDE, 3)).clip(0, 255).round().astype(np.uint8)
        assert not tissue_in(glass, 8.0).any()


def test_specks_and_holes_are_measured_in_um():
    # 36 px are 2,304 um2 at 8 um per px, and 576 um2 at 4.
    image = np.full((SIDE, SIDE, 3), dark.GLASS, np.uint8)
    image[50:56, 50:56] = dark.PURPLE
    assert tissue_in(image, 8.0)[50:56, 50:56].all()
    assert not tissue_in(image, 4.0).any()


@pytest.mark.faults
def test_a_field_full_of_tissue_is_all_tissue(tmp_path):
    # 1024 px at 0.25 um per px: 256 um a side.
    image = dark.tissue(1024, 1024, dark.nuclei(1024, 1024))
    with open_image(dark.write(tmp_path / "a.tif", image, mpp=0.25)) as field:
        found = tissue_mask(field, field.mpp)
    assert found.mask.mean() > 0.98
    assert found.overview.shape == (800, 800, 3)
    assert found.mask.shape == (800, 800)
    assert found.pixels_in(0, 0, 1024, 1024) == pytest.approx(1024 * 1024, rel=0.02)


def test_the_area_of_tissue_is_without_the_margin_that_is_looked_at(tmp_path):
    # 512 um of tissue beside as much glass, at 0.5 um per px.
    image = dark.tissue(1024, 2048, [], glass=1024)
    with open_image(dark.write(tmp_path / "a.tif", image, mpp=0.5)) as slide:
        found = tissue_mask(slide, slide.mpp)
    assert found.pixels_in(0, 0, 1024, 2048) == pytest.approx(1024 * 1024, rel=0.03)
    # And 40 um beyond.
    assert found.any_in(500, 1024 + 60, 1, 1)
    assert not found.any_in(500, 1024 + 120, 1, 1)


def test_parts_of_the_mask_are_asked_for_in_px_of_the_image():
    mask = np.zeros((50, 100), bool)
    mask[10:20, 30:40] = True
    found = TissueMask(np.zeros((50, 100, 3), np.uint8), mask, mask, (0.1, 0.1))
    assert found.any_in(100, 300, 1, 1)
    assert found.any_in(0, 0, 101, 301)
    assert not found.any_in(0, 0, 100, 1000)
    assert not found.any_in(200, 300, 300, 100)
    # Less than a px of the mask, and what lies at the image's end.
    assert found.any_in(199.5, 399.5, 0.2, 0.2)
    assert not found.any_in(499.9, 999.9, 0.1, 0.1)
    assert found.pixels_in(0, 0, 500, 1000) == pytest.approx(10_000)
    assert found.pixels_in(100, 350, 100, 650) == pytest.approx(5_000)
    part = found.within(105, 350, 400, 655)
    assert part.pixels_in(0, 0, 500, 1000) == pytest.approx(5_000)
    assert part.any_in(150, 350, 10, 10)
    assert not part.any_in(150, 300, 10, 10)


@pytest.mark.faults
def test_a_slide_without_smaller_levels_is_reduced_in_parts(tmp_path, monkeypatch):
    """As one of 40,000 x 40,000 px: what is read at once has a bound, and the file is small."""
    image = np.broadcast_to(np.array(dark.PINK, np.uint8), (2000, 2100, 3))
    path = dark.write(tmp_path / "a.tif", image, mpp=0.25, tile=512)
    assert path.stat().st_size < 2**18
    monkeypatch.setattr(reading, "_AT_ONCE", 2**20)
    sizes = []
    with open_image(path, cache_bytes=2**22) as slide:
        read = slide.read

        def noted(y, x, height, width):
            sizes.append(height * width)
            return read(y, x, height, width)

        monkeypatch.setattr(slide, "read", noted)
        found = tissue_mask(slide, 0.25)
    assert found.mask.all()
    assert max(sizes) <= 2**20
    # Once for the mask and once for the picture, each part with what its resampling reaches into.
    assert sum(sizes) < 4 * 2000 * 2100


def test_a_smaller_level_is_read_instead_of_the_whole(tmp_path):
    image = dark.tissue(1600, 2400, dark.nuclei(1600, 1580), glass=1600)
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        options = {"photometric": "rgb", "tile": (256, 256), "metadata": None}
        for step in (1, 2, 4):
            file.write(image[::step, ::step], **options)
    with open_image(tmp_path / "a.tif") as slide:
        found = tissue_mask(slide, 0.25)
        assert slide.segments.decoded == 0
    assert found.factor == pytest.approx((1 / 3, 1 / 3), rel=0.01)
    columns = found.mask.mean(axis=0)
    assert columns[:530].mean() > 0.97
    # 40 um of glass are 53 px, and 2 px of the mask 21.
    assert columns[533 + 53 + 21 + 6 :].max() == 0
