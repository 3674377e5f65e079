import numpy as np
import PIL.Image
import pytest

from histojax.imaging import figures
from histojax.imaging.resampling import upsample


def _image(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def _open(path):
    with PIL.Image.open(path) as image:
        return np.asarray(image.convert("RGB")), figures.read_sheet(image)


def _enlarged(image, factor):
    return image.repeat(factor, 0).repeat(factor, 1)


def test_agreement_colors_each_of_the_four_cases():
    predicted, annotated = np.array([[1, 1, 0, 0]]), np.array([[3, 0, 5, 0]])
    drawn = figures.agreement(predicted, annotated)
    expected = [figures.FOUND, figures.EXTRA, figures.MISSED, (255, 255, 255)]
    np.testing.assert_array_equal(drawn[0], expected)


def test_agreement_shows_tissue_paler_than_what_is_found_in_it():
    black = np.zeros((2, 2, 3), np.uint8)
    drawn = figures.agreement(np.eye(2), np.eye(2), black)
    assert (drawn[0, 0] == figures.FOUND).all()
    # Black tissue becomes a light grey, so no tissue looks like a nucleus found.
    np.testing.assert_array_equal(drawn[0, 1], [160, 160, 160])
    with pytest.raises(ValueError, match="cannot be compared"):
        figures.agreement(np.zeros((2, 2)), np.zeros((2, 3)))


def test_samples_show_what_there_is_at_one_size(tmp_path):
    lr, hr, sr = _image(12, 12), _image(48, 48, 1), _image(48, 48, 2)
    probability = np.zeros((48, 48, 1), np.float32)
    probability[10:30, 10:30] = 0.9
    row = {
        "lr": lr,
        "hr": hr,
        "mask": (probability[..., 0] > 0).astype(np.uint8),
        "predicted_sr": sr,
        "predicted_mask": probability,
    }
    path = tmp_path / "samples" / "step_0000500.png"
    figures.write_samples(path, [row, row], scale=4)
    pixels, sheet = _open(path)
    captions = ("input", "bicubic", "enhanced", "original", "annotated", "predicted", "agreement")
    assert sheet.captions == (captions,)
    # 48 px are enlarged by 4, the first whole factor that reaches 160 px.
    side, gap = 192, 6
    assert pixels.shape[1] == gap + 7 * (side + gap)

    def panel(index):
        x = gap + index * (side + gap)
        return pixels[gap : gap + side, x : x + side]

    np.testing.assert_array_equal(panel(0), _enlarged(lr, 16))
    np.testing.assert_array_equal(panel(1), _enlarged(np.asarray(upsample(lr, 4)), 4))
    np.testing.assert_array_equal(panel(2), _enlarged(sr, 4))
    np.testing.assert_array_equal(panel(3), _enlarged(hr, 4))
    # The annotated square is 80 px wide on the sheet; its contour is one px inside it.
    changed = (panel(4) != panel(3)).any(-1)
    assert 0.95 * (4 * 80 - 4) <= changed.sum() <= 4 * 80 - 4
    assert not changed[41:119, 41:119].any()
    gray = panel(5)
    assert (gray[100, 100] == round(0.9 * 255)).all()
    assert (gray[0, 0] == 0).all()
    assert (gray[40, 100] == figures.PREDICTED).all()
    assert (panel(6)[100, 100] == figures.FOUND).all()
    assert set(sheet.legend) == set(figures.AGREEMENT)


@pytest.mark.parametrize(
    ("row", "captions"),
    [
        ({"lr": _image(8, 10)}, ("input", "bicubic")),
        (
            {"hr": _image(32, 32), "mask": np.ones((32, 32)), "predicted_mask": np.ones((32, 32))},
            ("original", "annotated", "predicted", "agreement"),
        ),
        ({"predicted_mask": np.full((32, 32, 1), np.nan)}, ("predicted",)),
        (
            {
                f"predicted_{name}": np.full((32, 32, 1), 0.5)
                for name in ("mask", "marker", "distance")
            },
            ("predicted", "marker", "distance"),
        ),
        ({"mask": np.full((16, 16), 3)}, ("annotated",)),
    ],
)
def test_samples_of_any_stage_are_drawn(tmp_path, row, captions):
    figures.write_samples(tmp_path / "a.png", [row], scale=4)
    assert _open(tmp_path / "a.png")[1].captions == (captions,)


def test_samples_of_differing_sizes_and_of_nothing(tmp_path):
    rows = [{"hr": _image(32, 32)}, {"hr": _image(64, 32), "predicted_sr": _image(64, 32)}]
    figures.write_samples(tmp_path / "a.png", rows, scale=4)
    sheet = _open(tmp_path / "a.png")[1]
    assert sheet.captions == (("original",), ("enhanced", "original"))
    with pytest.raises(ValueError, match="no samples"):
        figures.write_samples(tmp_path / "b.png", [], scale=4)
    with pytest.raises(ValueError, match="cannot be drawn"):
        figures.write_samples(tmp_path / "b.png", [{}], scale=4)
    assert not (tmp_path / "b.png").exists()


def test_the_busiest_windows_have_texture_and_no_overlap():
    image = np.full((200, 300, 3), 128, np.uint8)
    image[100:140, 200:240] = _image(40, 40)
    image[20:60, 40:80] = _image(40, 40) // 4
    corners = figures.busiest(image, 48, count=2, step=4)
    (y, x), (v, u) = corners
    # The window of 48 px holds the 40 px of texture, the stronger one first.
    assert 92 <= y <= 100
    assert 192 <= x <= 200
    assert 12 <= v <= 20
    assert 32 <= u <= 40
    assert all(side % 4 == 0 for corner in corners for side in corner)
    flat = np.zeros((100, 100, 3), np.uint8)
    assert figures.busiest(flat, 50, count=9) == [(0, 0), (0, 50), (50, 0), (50, 50)]


def test_comparison_cuts_the_same_window_out_of_every_picture(tmp_path):
    lr = np.full((50, 60, 3), 90, np.uint8)
    hr = np.full((200, 240, 3), 200, np.uint8)
    lr[25:, 30:], hr[100:, 120:] = _image(25, 30), _image(100, 120, 1)
    sr = 255 - hr
    pictures = {"lr": lr, "sr 25.00 dB": sr, "hr": hr, "joint Dice 0.812": hr, "annotation": sr}
    figures.write_comparison(tmp_path / "f" / "a.png", "a <name>", pictures, crops=1)
    pixels, sheet = _open(tmp_path / "f" / "a.png")
    assert sheet.captions == (
        ("a <name>", "lr", "sr 25.00 dB", "hr"),
        ("annotation", "joint Dice 0.812"),
    )
    ((y, x),) = figures.busiest(hr, 96, count=1, step=4)
    gap, cell = 6, 192

    def panel(column, top):
        left = gap + column * (cell + gap)
        return pixels[top : top + cell, left : left + cell]

    window = hr[y : y + 96, x : x + 96]
    np.testing.assert_array_equal(
        panel(1, gap), _enlarged(lr[y // 4 : y // 4 + 24, x // 4 : x // 4 + 24], 8)
    )
    np.testing.assert_array_equal(panel(2, gap), _enlarged(255 - window, 2))
    np.testing.assert_array_equal(panel(3, gap), _enlarged(window, 2))
    below = range(gap + cell, pixels.shape[0] - cell)
    assert any(np.array_equal(panel(1, top), _enlarged(window, 2)) for top in below)
    # The overview frames the window in black.
    assert (panel(0, gap) == 0).all(-1).any()


@pytest.mark.parametrize("shape", [(16, 20), (4, 4), (100, 400)])
def test_comparison_of_small_and_narrow_images(tmp_path, shape):
    hr = _image(*shape)
    lr = hr[::4, ::4]
    figures.write_comparison(tmp_path / "a.png", "a" * 60, {"lr": lr, "hr": hr})
    pixels, sheet = _open(tmp_path / "a.png")
    assert pixels.shape[0] > 16
    assert sheet.captions[0][1:] == ("lr", "hr")


def test_comparison_refuses_sizes_that_do_not_fit(tmp_path):
    with pytest.raises(ValueError, match="no whole fraction"):
        figures.write_comparison(
            tmp_path / "a.png", "a", {"lr": _image(9, 9), "hr": _image(32, 32)}
        )
    with pytest.raises(ValueError, match="no pictures"):
        figures.write_comparison(tmp_path / "a.png", "a", {})


def test_other_pictures_say_nothing_of_themselves(tmp_path):
    PIL.Image.fromarray(_image(8, 8)).save(tmp_path / "a.png")
    PIL.Image.fromarray(_image(8, 8)).save(tmp_path / "a.jpg")
    for name in ("a.png", "a.jpg"):
        assert _open(tmp_path / name)[1] == figures.Sheet()


@pytest.mark.faults
@pytest.mark.parametrize("value", [0, 128, 255])
def test_blank_images_are_drawn(tmp_path, value):
    hr, mask = np.full((32, 32, 3), value, np.uint8), np.zeros((32, 32), np.uint8)
    pictures = {"lr": hr[::4, ::4], "sr": hr, "hr": hr, "annotation": hr}
    figures.write_comparison(tmp_path / "a.png", "blank", pictures, crops=1, size=16)
    row = {"lr": hr[::4, ::4], "hr": hr, "predicted_sr": hr, "mask": mask}
    rows = [row | {"predicted_mask": np.full((32, 32, 1), p, np.float32)} for p in (0, 1)]
    figures.write_samples(tmp_path / "b.png", rows, scale=4)
    for name in ("a.png", "b.png"):
        drawn, sheet = _open(tmp_path / name)
        assert (drawn == value).all(-1).mean() > 0.05
        assert sheet.captions
