import numpy as np
import pytest
from scipy import ndimage

from histojax.errors import UserError
from histojax.imaging.tiling import read_window
from histojax.mosaic import placement, stitching, views
from histojax.mosaic.placement import Link
from tests.mosaic.fields import cut, errors, grid, tissue


def blank(rng, side=180, level=0.92):
    noise = 255 * (level + 0.01 * rng.standard_normal((side, side, 3)))
    return noise.round().astype(np.uint8)


def test_a_jittered_grid_is_placed_within_half_a_pixel():
    fields, corners = grid(tissue(), 3, 3, 180, 130, jitter=20)
    found = stitching.stitch(fields)
    assert {one.group for one in found.placements} == {1}
    assert errors(found.placements, corners).max() < 0.5
    assert found.left == {}
    assert max(one.residual for one in found.placements) < 0.5
    mosaic = found.mosaics[0]
    span = corners.max() - corners.min()
    rows = corners.real.max() - corners.real.min() + 180
    columns = corners.imag.max() - corners.imag.min() + 180
    assert abs(mosaic.height - rows) <= 1
    assert abs(mosaic.width - columns) <= 1
    assert span.real > 0
    # The mosaic is the tissue again, up to resampling by parts of a pixel.
    top, left = int(corners.real.min()), int(corners.imag.min())
    whole = mosaic.read(0, 0, 400, 400)
    shown = (whole != 255).any(-1)
    original = tissue()[top : top + 400, left : left + 400]
    assert np.abs(whole.astype(float) - original)[shown].mean() < 3


def test_shifts_larger_than_half_a_field_are_not_taken_for_their_wrapped_ones():
    fields = [cut(tissue(), 0, 0, 180, 180), cut(tissue(), 10, 145, 180, 180)]
    found = stitching.stitch(fields)
    assert errors(found.placements, [0, 10 + 145j]).max() < 0.5


def test_long_thin_fields_that_overlap_in_a_tenth_are_joined():
    fields = [cut(tissue(), y, x, 120, 360) for y, x in ((0, 0), (104, 0), (0, 150))]
    found = stitching.stitch(fields)
    assert errors(found.placements, [0, 104, 150j]).max() < 0.5


def test_the_order_of_the_fields_changes_nothing():
    fields, _ = grid(tissue(), 2, 2, 180, 120, jitter=12)
    one, other = stitching.stitch(fields), stitching.stitch(fields[::-1])
    assert [(p.y, p.x, p.gain) for p in one.placements] == [
        (p.y, p.x, p.gain) for p in other.placements[::-1]
    ]
    size = one.mosaics[0].height, one.mosaics[0].width
    np.testing.assert_array_equal(
        one.mosaics[0].read(0, 0, *size), other.mosaics[0].read(0, 0, *size)
    )


def test_turned_blurred_trimmed_and_uneven_fields_are_placed():
    image = tissue()
    fields, corners = grid(image, 2, 3, 190, 125)
    fields[1] = cut(image, 0, 125, 190, 190, angle=0.8)
    fields[2] = ndimage.gaussian_filter(fields[2], (1.5, 1.5, 0))
    fields[4] = (fields[4] * 0.9).astype(np.uint8)
    fields[5] = fields[5][:, :-10]
    found = stitching.stitch(fields)
    turned = found.placements[1]
    assert turned.angle == pytest.approx(0.8, abs=0.1)
    # A turned field's corner moves; its middle does not.
    arm = complex(189, 189) / 2
    middle = complex(turned.y, turned.x) + np.exp(1j * np.deg2rad(turned.angle)) * arm
    places = [complex(p.y, p.x) for p in found.placements]
    places[1] = middle - arm
    off = np.array(places) - corners
    assert np.abs(off - off.mean()).max() < 1


def test_a_field_turned_by_eight_degrees_is_found_by_landmarks():
    fields, _ = grid(tissue(), 2, 2, 200, 120)
    fields[3] = cut(tissue(), 120, 120, 200, 200, angle=8)
    found = stitching.stitch(fields)
    assert found.left == {}
    assert found.placements[3].angle == pytest.approx(8, abs=0.2)


@pytest.mark.faults
def test_foreign_blank_and_black_fields_are_left_out_by_name():
    rng = np.random.default_rng(0)
    fields, corners = grid(tissue(), 2, 2, 180, 120, jitter=10)
    names = ["a", "b", "c", "d", "foreign", "blank", "black"]
    fields += [cut(tissue(1), 40, 40, 180, 180), blank(rng), np.zeros((180, 180, 3), np.uint8)]
    found = stitching.stitch(fields, names=names)
    assert list(found.left) == ["foreign", "blank", "black"]
    assert "matches no other" in found.left["foreign"]
    assert "is blank" in found.left["blank"]
    assert found.left["black"] == "is black"
    assert errors(found.placements[:4], corners).max() < 0.5


@pytest.mark.faults
@pytest.mark.parametrize("level", [0, 255])
def test_frames_without_light_do_not_part_the_others(level):
    fields, _ = grid(tissue(), 3, 3, 180, 130, jitter=10)
    for number in (2, 5, 6):
        fields[number][:] = level
        fields[number][50, 70 + number] = 255  # a hot pixel, seen on black alone
    found = stitching.stitch(fields)
    assert [one.group for one in found.placements] == [1, 1, 0, 1, 1, 0, 0, 1, 1]


@pytest.mark.faults
def test_groups_that_do_not_touch_are_mosaics_of_their_own():
    first, corners = grid(tissue(), 2, 2, 180, 120)
    second = [cut(tissue(1), 0, x, 180, 180) for x in (0, 110)]
    found = stitching.stitch([second[0], *first, second[1]])
    assert [one.group for one in found.placements] == [2, 1, 1, 1, 1, 2]
    assert len(found.mosaics) == 2
    assert errors(found.placements[1:5], corners).max() < 0.5
    assert found.mosaics[1].width == pytest.approx(290, abs=1)
    assert "do not touch" in found.notes[0]


@pytest.mark.faults
def test_a_repeated_pattern_is_not_joined_at_a_guess():
    y, x = np.mgrid[:180, :180]
    dots = 160 + 70 * np.sin(2 * np.pi * y / 24) * np.sin(2 * np.pi * x / 24)
    rng = np.random.default_rng(0)
    fields = [
        np.clip(dots[..., None] + rng.normal(0, 2, (180, 180, 3)), 0, 255).astype(np.uint8)
        for _ in range(3)
    ]
    found = stitching.stitch(fields)
    assert found.mosaics == ()
    assert len(found.left) == 3


@pytest.mark.faults
def test_two_fields_of_different_tissue_are_not_joined():
    found = stitching.stitch([cut(tissue(k), 0, 0, 180, 180) for k in (0, 1)])
    assert found.mosaics == ()
    assert set(found.left) == {"0", "1"}


@pytest.mark.faults
@pytest.mark.parametrize(
    ("images", "expected"),
    [
        ([np.zeros((50, 50, 3), np.uint8)], "1 field(s) cannot be joined"),
        ([np.zeros((50, 50), np.uint8)] * 2, "a field is uint8 RGB"),
        ([np.zeros((50, 50, 3))] * 2, "a field is uint8 RGB"),
        ([np.zeros((500, 500, 3), np.uint8)] * 2 + [np.zeros((9, 9, 3), np.uint8)], "too small"),
    ],
)
def test_what_is_no_set_of_fields_is_refused(images, expected):
    with pytest.raises(UserError) as refused:
        stitching.stitch(images)
    assert expected in str(refused.value)


@pytest.mark.faults
def test_a_canvas_above_the_limit_is_refused_with_its_size():
    fields = [cut(tissue(), 0, x, 180, 180) for x in (0, 100)]
    with pytest.raises(UserError, match=r"280 x 180 px, above --max_pixels=50,000"):
        stitching.stitch(fields, max_pixels=50_000)


def test_a_mosaic_is_read_by_region_as_any_image():
    fields, _ = grid(tissue(), 1, 2, 180, 100)
    mosaic = stitching.stitch(fields, mpp=0.5).mosaics[0]
    assert mosaic.mpp == 0.5
    whole = mosaic.read(0, 0, mosaic.height, mosaic.width)
    np.testing.assert_array_equal(mosaic.read(33, 57, 90, 140), whole[33:123, 57:197])
    # As a network's window, beyond the border.
    window = read_window(mosaic, -8, -8, 64, 64)
    np.testing.assert_array_equal(window[8:, 8:], whole[:56, :56])


def test_fields_of_a_real_image_are_placed(real_data):
    from histojax.imaging import reader

    image = reader.read_image(sorted((real_data / "monuseg" / "images").iterdir())[0])
    fields, corners = grid(image, 2, 3, 320, 230, jitter=40)
    found = stitching.stitch(fields)
    assert errors(found.placements, corners).max() < 0.5


def test_a_real_strip_comes_out_whole(real_data):
    from histojax.imaging import reader

    tiles = sorted((real_data / "microscope" / "hr").iterdir())
    found = stitching.stitch([reader.read_image(tile) for tile in tiles])
    assert found.left == {}
    assert len(found.mosaics) == 1


def test_fields_out_of_focus_are_not_taken_for_one_place():
    crops = [cut(tissue(), 0, 0, 180, 180), cut(tissue(), 5, 63, 180, 180)]
    blurred = [ndimage.gaussian_filter(crop, (3, 3, 0)) for crop in crops]
    found = stitching.stitch(blurred)
    assert errors(found.placements, [0, 5 + 63j]).max() < 0.5


@pytest.mark.faults
def test_a_field_linked_by_chance_is_cut_where_it_covers_others():
    fields, _ = grid(tissue(), 2, 2, 180, 110)
    fields.append(cut(tissue(1), 40, 40, 180, 180))
    factors = views.factors_of(fields)
    read = [views.field_of(field, factors, "") for field in fields]
    links, _ = stitching._links(read, lambda text: None)
    ties = 60 + np.array([-30 - 30j, -30 + 30j, 30 - 30j, 30 + 30j])
    links.append(Link(0, 4, 100 + 60j, 0.0, 9.0, 0.5, 0.2, (ties, ties - 100 - 60j)))
    layout = placement.lay_out([field.size for field in read], links)
    assert len(set(layout.groups)) == 1
    cleared = stitching._without_contradictions(read, layout)
    assert [link.reason for link in cleared.links if 4 in (link.first, link.second)] == [
        "would lay fields over others that they do not match"
    ]
    assert len(set(cleared.groups[:4])) == 1
    assert cleared.groups[4] != cleared.groups[0]


def test_pairs_that_are_not_compared_by_landmarks_are_noted(monkeypatch):
    monkeypatch.setattr(stitching, "_MOST_LANDMARK_PAIRS", 2)
    images = [tissue(index)[:160, :160] for index in range(3)]
    found = stitching.stitch(images)
    assert "3 pairs without a link are too many to compare by landmarks." in found.notes
