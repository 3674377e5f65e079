import dataclasses
import json
import logging

import numpy as np
import pytest
import skimage.color

from histojax.errors import UserError
from histojax.imaging.reader import read_image
from histojax.stain import normalization
from histojax.stain.normalization import (
    ColorFit,
    Method,
    StainFit,
    Unfit,
    fit,
    normalize,
)
from histojax.stain.separation import angle, haematoxylin_first
from tests import stained

METHODS = [Method(name) for name in normalization.METHODS]
BY_STAINS = [method for method in METHODS if method.name != "reinhard"]


def named(method):
    return method.name


@pytest.fixture(scope="module")
def image():
    return stained.image()


@pytest.fixture(scope="module")
def other():
    """An image of other stains, paler."""
    stains = haematoxylin_first(np.array([[0.50, 0.75, 0.43], [0.10, 0.90, 0.42]]))
    return stained.image(seed=1, stains=stains, maxima=(1.4, 0.9))


@pytest.mark.parametrize("method", BY_STAINS, ids=named)
def test_a_fit_is_the_images_stains(image, method):
    found = fit([image], method, name="image")
    for stain, expected in zip(found.stains, stained.STAINS, strict=True):
        assert angle(np.array(stain), expected) < 1.0
    # The 99th percentile of U(.3, 1) of which 3 in 5 are there is 1 - .7 / 60 of the maximum. The
    # bounds are wide, because stains a degree closer than they are hold more of each.
    np.testing.assert_allclose(found.maxima, [0.988 * 2.0, 0.988 * 1.2], rtol=0.05)


@pytest.mark.parametrize("method", METHODS, ids=named)
def test_mapped_to_itself_an_image_stays(image, method):
    own = fit([image], method, name="image")
    change = normalize(image, own, own).astype(int) - image
    if method.name == "spcn":
        # Each sparse concentration is low by up to lambda = .02, 2 % of up to 255.
        assert -2 <= change.min() <= change.max() <= 2 + 255 * 0.02
    else:
        assert np.abs(change).max() <= 2


@pytest.mark.parametrize("method", BY_STAINS, ids=named)
def test_normalized_the_image_has_the_targets_fit(image, other, method):
    target = fit([other], method, name="other")
    source = fit([image], method, name="image")
    # They differ: this is not the identity.
    assert max(angle(*pair) for pair in zip(*_arrays(source, target), strict=True)) > 4.0
    got = fit([normalize(image, source, target)], method, name="normalised")
    assert max(angle(*pair) for pair in zip(*_arrays(got, target), strict=True)) < 1.0
    np.testing.assert_allclose(got.maxima, target.maxima, rtol=0.03)


def _arrays(*fits):
    return [np.array(fit.stains) for fit in fits]


def test_reinhard_gives_the_targets_colors(image, other):
    method = Method("reinhard")
    source, target = (fit([picture], method, name="") for picture in (image, other))
    got = fit([normalize(image, source, target)], method, name="")
    assert np.abs(np.subtract(source.mean, target.mean)).max() > 5.0
    # What leaves the range of RGB is cut, a few percent of the pixels.
    np.testing.assert_allclose(got.mean, target.mean, atol=0.3)
    np.testing.assert_allclose(got.spread, target.spread, rtol=0.03)


@pytest.mark.parametrize("method", BY_STAINS, ids=named)
def test_one_pixel_by_hand(method):
    sparsity = 0.02 if method.name == "spcn" else None
    source = StainFit(tuple(map(tuple, stained.STAINS)), (2.0, 1.0), sparsity)
    target = StainFit(tuple(map(tuple, stained.STAINS[::-1])), (1.0, 2.0), sparsity)
    # 1.0 of haematoxylin, which the sparse form finds .02 less of, is half of its maximum, and so
    # becomes half of the target's first stain, eosin.
    pixel = np.rint(255 * np.exp(-stained.HAEMATOXYLIN)).astype(np.uint8)
    found = 0.98 if method.name == "spcn" else 1.0
    expected = 255 * np.exp(-0.5 * found * stained.EOSIN)
    image = np.stack([pixel, [255, 255, 255]]).astype(np.uint8)[None]
    got = normalize(image, source, target)
    # Grey levels are rounded, and least squares takes .005 of that for eosin, to be quadrupled.
    atol = 1.0 if method.name == "spcn" else 2.0
    np.testing.assert_allclose(got[0, 0], expected, atol=atol)
    np.testing.assert_array_equal(got[0, 1], 255)


@pytest.mark.parametrize("method", METHODS, ids=named)
def test_tile_by_tile_is_the_whole(image, other, method):
    source, target = (fit([picture], method, name="") for picture in (image, other))
    whole = normalize(image, source, target)
    for rows in (slice(0, 17), slice(17, 64)):
        for columns in (slice(0, 30), slice(30, 64)):
            tile = normalize(image[rows, columns], source, target)
            np.testing.assert_array_equal(tile, whole[rows, columns])


@pytest.mark.parametrize("method", METHODS, ids=named)
def test_strips_are_fitted_as_the_whole(image, method, monkeypatch):
    image = image.copy()
    image[::7] = 255
    unbounded = fit([image], method, name="")
    monkeypatch.setattr(normalization, "_MOST_PIXELS", 1000)
    whole = fit([image], method, name="")
    assert whole != unbounded
    np.random.seed(1)
    assert fit((image[a:b] for a, b in ((0, 1), (1, 40), (40, 64))), method, name="") == whole


def test_pixels_are_drawn_evenly_from_all_strips(monkeypatch):
    monkeypatch.setattr(normalization, "_MOST_PIXELS", 3000)
    values = np.arange(1, 11, dtype=np.uint8)
    strips = [np.full((10, 200, 3), value, np.uint8) for value in values]
    strips[3][:, :100] = 255
    strips[5][:, :50, 1] = 0
    pixels = normalization.sample_tissue(strips)
    tissue = np.full(10, 2000.0)
    tissue[3] -= 1000
    tissue[5] -= 500
    drawn = (pixels[:, :1] == values).sum(axis=0)
    assert drawn.sum() == 3000
    # Three standard deviations of a count of some 320 are 54.
    assert np.abs(drawn - 3000 * tissue / tissue.sum()).max() < 54
    assert not np.array_equal(pixels, normalization.sample_tissue(strips, seed=1))
    monkeypatch.setattr(normalization, "_LEAST_PIXELS", 3001)
    with pytest.raises(Unfit, match="of its 20000 px, 1000 are white and 500 black"):
        normalization.sample_tissue(strips)


def gray(level, side=64):
    return np.full((side, side, 3), level, np.uint8)


def one_stain(noise):
    rng = np.random.default_rng(0)
    density = rng.uniform(0.3, 2.0, (64 * 64, 1)) * stained.HAEMATOXYLIN
    pixels = 255 * np.exp(-density) + rng.normal(0, noise, density.shape)
    return np.clip(np.rint(pixels), 0, 254).astype(np.uint8).reshape(64, 64, 3)


def saturated():
    return np.random.default_rng(0).integers(0, 2, (64, 64, 3)).astype(np.uint8) * 255


def shades():
    return np.repeat(np.random.default_rng(0).integers(60, 200, (64, 64, 1)), 3, 2).astype(np.uint8)


BLANK = {
    "white": (gray(255), "4096 are white"),
    "glass": (gray(236), "4096 are white"),
    "black": (gray(0), "4096 black or saturated"),
    "saturated": (saturated(), "black or saturated"),
    "1x1": (stained.image(side=1), "leaves 1 px"),
    "tiny": (stained.image(side=15), "225 px of tissue where 256"),
    "no pixels": (np.empty((0, 5, 3), np.uint8), "of its 0 px"),
    "mostly glass": (np.vstack([stained.image(side=64)[:3], gray(255)[3:]]), "leaves 192 px"),
}
ONE_STAIN = {
    "one colour": (gray(128), "one stain"),
    "gray": (shades(), "one stain"),
    "stain": (one_stain(0.0), "one stain"),
    "noisy stain": (one_stain(1.5), "one stain"),
    "pale": (gray(220), "pale"),
}


@pytest.mark.faults
@pytest.mark.parametrize(
    ("method", "image", "reason"),
    [(method, *case) for method in METHODS for case in BLANK.values()]
    + [(method, *case) for method in BY_STAINS for case in ONE_STAIN.values()]
    + [(Method("reinhard"), ONE_STAIN[case][0], "vary") for case in ("one colour", "gray")],
)
def test_an_image_that_cannot_be_fitted_keeps_its_colors(image, method, reason, other, caplog):
    target = fit([other], method, name="target")
    with caplog.at_level(logging.WARNING):
        source = fit([image], method, name="slide 7")
    assert source is None
    (message,) = caplog.messages
    assert message.startswith("slide 7 keeps its colours, because ")
    assert reason in message
    assert normalize(image, source, target) is image


@pytest.mark.faults
@pytest.mark.parametrize("method", BY_STAINS, ids=named)
def test_glass_that_is_not_quite_white_is_left_out_of_a_fit(image, method):
    # Luma .88 and a greenish hue: tissue by its luma, ten times as much as there is tissue.
    glass = np.full((640, 64, 3), (220, 227, 222), np.uint8)
    expected = fit([image], method, name="image")
    got = fit([np.concatenate([glass, image])], method, name="with glass")
    for stain, other in zip(*_arrays(got, expected), strict=True):
        assert angle(stain, other) < 0.3
    np.testing.assert_allclose(got.maxima, expected.maxima, rtol=0.02)


# Grey levels of pens, of dust and of the border of a scan; each is drawn with noise of 3 levels.
FOREIGN = {
    "blue pen": (30, 40, 160),
    "green pen": (25, 120, 60),
    "red pen": (190, 30, 40),
    "black pen": (35, 35, 40),
    "dust": (50, 42, 38),
    "border": (8, 8, 8),
}


def with_foreign(image, color, share):
    """The image with the upper rows, a share of it, in a colour."""
    rng = np.random.default_rng(3)
    out, rows = image.copy(), round(share * len(image))
    out[:rows] = np.clip(color + rng.normal(0, 3, out[:rows].shape), 1, 255)
    return out


@pytest.mark.faults
@pytest.mark.parametrize("share", [0.02, 0.06])
@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("method", METHODS, ids=named)
def test_pens_dust_and_borders_are_left_out_of_a_fit(image, method, name, share, caplog):
    clean = fit([image], method, name="")
    with caplog.at_level(logging.WARNING):
        found = fit([with_foreign(image, FOREIGN[name], share)], method, name="slide 7")
    if method.name == "reinhard":
        # Of all pixels, blue ones of 6 % alone would move b* by 3.
        assert np.abs(np.subtract(found.mean, clean.mean)).max() < 0.6
    else:
        assert max(angle(*pair) for pair in zip(*_arrays(found, clean), strict=True)) < 5.0
        np.testing.assert_allclose(found.maxima, clean.maxima, rtol=0.15)
    # What is left out is said, and what moves the fit by little stays in it.
    for message in caplog.messages:
        assert message.startswith("slide 7 is stain-normalised by the others, because ")
        assert message.endswith("have colours that no two stains have (ink, dust or a border)")
    if share == 0.06:
        assert f"because {100 / 64 * 4:.1f} %" in caplog.text


@pytest.mark.parametrize("method", BY_STAINS, ids=named)
def test_the_few_nuclei_of_a_stroma_are_no_ink(method):
    # One pixel in thirty is of haematoxylin, and dense.
    rng = np.random.default_rng(0)
    few = (np.arange(64 * 64) % 30 == 0)[:, None]
    amounts = np.where(few, 2.0, 0.8) * rng.uniform(0.5, 1.0, few.shape)
    density = amounts * np.where(few, stained.HAEMATOXYLIN, stained.EOSIN)
    strip = np.rint(255 * np.exp(-density)).astype(np.uint8)[None]
    found = fit([strip], method, name="stroma")
    for stain, expected in zip(found.stains, stained.STAINS, strict=True):
        assert angle(np.array(stain), expected) < 2.0


def brown():
    """Haematoxylin, and DAB in the place of eosin: an immunostain."""
    dab = np.array([0.27, 0.57, 0.78])
    return stained.image(stains=np.stack([stained.HAEMATOXYLIN, dab / np.linalg.norm(dab)]))


def pen(color):
    return with_foreign(np.full((64, 64, 3), 255, np.uint8), color, 0.5)


NO_HE = {
    "negative": (lambda: 255 - stained.image(), "are not those of haematoxylin and eosin"),
    "brown": (brown, "are not those of haematoxylin and eosin"),
    "blue": (lambda: pen(FOREIGN["blue pen"]), ""),
    "green": (lambda: pen(FOREIGN["green pen"]), ""),
    "red": (lambda: pen(FOREIGN["red pen"]), ""),
    "black": (lambda: pen(FOREIGN["black pen"]), ""),
    "half green": (
        lambda: with_foreign(stained.image(), FOREIGN["green pen"], 0.5),
        "are not those of haematoxylin and eosin (",
    ),
}


@pytest.mark.faults
@pytest.mark.parametrize("case", NO_HE)
@pytest.mark.parametrize("method", METHODS, ids=named)
def test_what_is_no_he_keeps_its_colors(method, case, caplog):
    make, reason = NO_HE[case]
    assert fit([make()], method, name="slide 7") is None
    (message,) = caplog.messages
    assert message.startswith("slide 7 keeps its colours, because ")
    assert reason in message


@pytest.mark.faults
@pytest.mark.parametrize("method", METHODS, ids=named)
def test_colors_of_which_many_are_of_no_two_stains_are_not_fitted(image, method):
    # Three hues, each as far from the plane of the others as hues can be.
    thirds = image.copy().reshape(-1, 3)
    thirds[::4] = FOREIGN["green pen"]
    thirds[1::8] = (120, 200, 30)
    with pytest.raises(Unfit):
        normalization.fitted([thirds[None]], method)


@pytest.mark.parametrize("method", [Method("macenko"), Method("reinhard")], ids=named)
def test_ink_on_real_tissue_leaves_its_fit(real_data, method, caplog):
    (path,) = (real_data / "monuseg" / "images").glob("TCGA-18-5592-*")
    tissue = read_image(path)[:400, :400]
    clean = fit([tissue], method, name="")
    assert not caplog.messages
    for name, color in FOREIGN.items():
        found = fit([with_foreign(tissue, color, 0.03)], method, name=name)
        if method.name == "reinhard":
            assert np.abs(np.subtract(found.mean, clean.mean)).max() < 1.0
        else:
            assert max(angle(*pair) for pair in zip(*_arrays(found, clean), strict=True)) < 5.0


@pytest.mark.faults
def test_stains_that_the_weight_suppresses_are_no_fit():
    # At a weight above all densities, every sparse concentration is 0.
    pixels = np.rint(255 * np.exp(-0.4 * stained.STAINS[np.arange(1000) % 2])).astype(np.uint8)
    with pytest.raises(Unfit, match="nowhere"):
        normalization.fitted([pixels[None]], Method("spcn", sparsity=0.5))


@pytest.mark.faults
@pytest.mark.parametrize("method", METHODS, ids=named)
def test_any_colors_come_out_as_colors(image, other, method):
    source, target = (fit([picture], method, name="") for picture in (image, other))
    levels = np.array([0, 1, 2, 64, 128, 250, 254, 255], np.uint8)
    cube = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(8, 64, 3)
    for pair in ((source, target), (target, source)):
        out = normalize(cube, *pair)  # A warning, of NaN or of Z < 0, would be an error here.
        assert out.dtype == np.uint8
        assert out.shape == cube.shape


@pytest.mark.parametrize("method", METHODS, ids=named)
def test_a_fit_goes_through_json(image, method):
    found = fit([image], method, name="image")
    content = json.dumps(dataclasses.asdict(found))
    assert normalization.from_json(json.loads(content)) == found


def test_fits_of_two_kinds_do_not_mix(image):
    by_stains, by_colors = (fit([image], Method(name), name="") for name in ("spcn", "reinhard"))
    with pytest.raises(TypeError, match="ColorFit cannot be mapped to StainFit"):
        normalize(image, by_colors, by_stains)


@pytest.mark.faults
def test_a_wrong_method_is_refused():
    with pytest.raises(UserError, match=r"method='vahadane' is not known; choose one of spcn"):
        Method("vahadane")
    for sparsity in (0, -0.1, 0.51, "0.1", float("nan")):
        with pytest.raises(UserError, match=r"has to be a number of 0\.5 or less and above 0"):
            Method(sparsity=sparsity)


def test_statistics_are_those_of_cielab():
    # sRGB of L* = 50 (mid-grey by lightness), and white: a* = b* = 0 of both.
    pixels = np.array([[119, 119, 119], [255, 255, 255]], np.uint8)
    found = ColorFit.of(pixels)
    np.testing.assert_allclose(found.mean, [75, 0, 0], atol=0.1)
    np.testing.assert_allclose(found.spread, [25, 0, 0], atol=0.1)


def test_a_shift_and_a_scale_of_lightness():
    pixels = np.array([[119, 119, 119], [255, 255, 255]], np.uint8)
    # L* 50 -> 60 + 0.5 (50 - 70) = 50, and 100 -> 75, by scikit-image's own conversion.
    got = ColorFit((70, 0, 0), (2, 1, 1)).recolored(pixels, ColorFit((60, 0, 0), (1, 1, 1)))
    expected = 255 * skimage.color.lab2rgb(np.array([[50.0, 0, 0], [75.0, 0, 0]]))
    np.testing.assert_allclose(got, expected, atol=1)


def test_colors_out_of_reach_are_cut():
    pixels = stained.image(side=8).reshape(-1, 3)
    found = ColorFit.of(pixels)
    # Yellower than any light by far: no blue is left, and red and green stay in range.
    yellow = ColorFit(tuple(np.add(found.mean, [0, 0, 300])), found.spread)
    got = found.recolored(pixels, yellow)
    assert got[:, 2].max() == 0
    # Far beyond white.
    bright = ColorFit((900, 0, 0), (1e-9, 1e-9, 1e-9))
    np.testing.assert_array_equal(found.recolored(pixels, bright), 255)
