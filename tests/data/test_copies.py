import io

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from histojax.data.copies import copies_among, signature_of
from histojax.tissue import rendering


def tissue(index, size=320):
    """Patch 0 of patient `index`."""
    return rendering.tissue(0, 2 * index, size)["image"]


def shared_area(first, second):
    """The share of the smaller image that both show; 0 where they are no copies."""
    return dict(((i, j), share) for i, j, share in copies_among([first], [second])).get((0, 0), 0)


@pytest.fixture(scope="module")
def image():
    return tissue(0)


@pytest.fixture(scope="module")
def signature(image):
    return signature_of(image)


def jpeg(image, quality):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def resized(image, factor):
    height, width = (round(side * factor) for side in image.shape[:2])
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


# What is done to an image of 320 x 320 px, and the share of the smaller image that both show.
ALTERED = {
    "itself": (lambda x: x, 1.0),
    "crop": (lambda x: x[40:240, 90:290], 1.0),
    "half": (lambda x: resized(x, 0.5), 1.0),
    "larger": (lambda x: resized(x, 1.6), 1.0),
    "jpeg": (lambda x: jpeg(x, 30), 1.0),
    "blurred": (lambda x: ndimage.gaussian_filter(x, (1, 1, 0)), 1.0),
    "darker": (lambda x: (x * 0.7).astype(np.uint8), 1.0),
    "gray": (lambda x: np.repeat(x.mean(axis=2, keepdims=True).astype(np.uint8), 3, axis=2), 1.0),
    "other channels": (lambda x: (255 * (x / 255.0) ** [1.6, 1.2, 0.8]).astype(np.uint8), 1.0),
    "turned": (lambda x: np.rot90(x), 1.0),
    "upside down": (lambda x: x[::-1, ::-1], 1.0),
    "mirrored": (lambda x: x[:, ::-1], 1.0),
    "crop, turned, half the contrast": (lambda x: np.rot90(x[60:, 60:] // 2 + 99, 3), 1.0),
}


@pytest.mark.parametrize("name", ALTERED)
def test_a_copy_is_found_whatever_was_done_to_it(image, signature, name):
    change, share = ALTERED[name]
    other = signature_of(change(image))
    assert shared_area(signature, other) == pytest.approx(share, abs=0.02)
    assert shared_area(other, signature) == pytest.approx(share, abs=0.02)


@pytest.mark.parametrize(("down", "right"), [(30, 45), (0, 120), (110, 0), (-60, 70)])
def test_windows_that_overlap_share_the_area_of_their_overlap(down, right):
    field = tissue(1, 400)
    top, left = max(0, -down), max(0, -right)
    first = field[top : top + 240, left : left + 240]
    second = field[top + down : top + down + 240, left + right : left + right + 240]
    share = (240 - abs(down)) * (240 - abs(right)) / 240**2
    found = shared_area(signature_of(first), signature_of(second))
    assert found == pytest.approx(share, abs=0.05)
    # The same at two scales: the areas have other sizes, the share is the same.
    other = signature_of(resized(np.rot90(second), 0.75))
    assert shared_area(signature_of(first), other) == pytest.approx(share, abs=0.05)


def test_different_tissue_is_no_copy_even_of_one_patient():
    patches = [rendering.tissue(0, index, 256)["image"] for index in range(8)]
    signatures = [signature_of(patch) for patch in patches]
    found = copies_among(signatures, signatures)
    assert [(i, j) for i, j, _ in found] == [(i, i) for i in range(8)]
    assert copies_among(signatures) == []
    # Each pair comes once, the earlier image first.
    assert [(i, j) for i, j, _ in copies_among([*signatures[:2], None, signatures[1]])] == [(1, 3)]


def test_a_label_burnt_into_both_makes_no_copy():
    rng = np.random.default_rng(0)
    label = np.repeat(np.where(rng.random((6, 30)) < 0.5, 0, 255), 4, axis=0)
    label = np.repeat(label, 4, axis=1).astype(np.uint8)[..., None]
    one, other = tissue(2).copy(), tissue(3).copy()
    one[-24:, -120:] = other[-24:, -120:] = label
    assert shared_area(signature_of(one), signature_of(other)) == 0


@pytest.mark.faults
def test_glass_is_set_aside_and_the_one_copy_is_found(image):
    rng = np.random.default_rng(0)
    tiles = []
    for _ in range(500):
        tile = 240 + rng.normal(0, 3, (64, 64, 3))
        y, x = rng.integers(4, 56, 2)
        tile[y : y + 3, x : x + 3] -= 90  # a speck of dust
        tiles.append(np.clip(tile, 0, 255).astype(np.uint8))
    signatures = [signature_of(tile) for tile in tiles]
    assert signatures == [None] * 500
    signatures[377] = signature_of(jpeg(image[50:250, 20:220], 70))
    others = [signature_of(image), None]
    assert copies_among(signatures, others) == [(377, 0, pytest.approx(1.0, abs=0.02))]
    assert copies_among(others, signatures) == [(0, 377, pytest.approx(1.0, abs=0.02))]
    assert copies_among([], others) == copies_among(others, []) == []


@pytest.mark.faults
@pytest.mark.parametrize(
    "shape", [(1, 1, 3), (5, 400, 3), (15, 15, 3), (64, 64, 3), (17, 3000, 3)], ids=str
)
def test_blank_images_of_any_size_have_no_signature(shape):
    assert signature_of(np.full(shape, 255, np.uint8)) is None
    assert signature_of(np.zeros(shape, np.uint8)) is None


def test_a_large_image_is_compared_with_a_crop_of_it():
    field = tissue(4, 640)
    large = np.tile(np.full((640, 640, 3), 240, np.uint8), (2, 4, 1))
    large[200:840, 900:1540] = field
    # It is reduced to 1280 px, so a landmark of sigma 1.9 px in it is one of 3.8 px in the crop.
    found = shared_area(signature_of(large), signature_of(field[100:500, 100:500]))
    assert found == pytest.approx(1.0, abs=0.02)


def test_signatures_are_small_and_go_through_a_file(signature, tmp_path):
    assert signature.nbytes <= 4096
    np.savez(tmp_path / "signatures.npz", a=signature)
    with np.load(tmp_path / "signatures.npz") as kept:  # without pickle
        assert shared_area(kept["a"], signature) == 1


def test_fields_of_one_strip_share_half_with_their_neighbours(real_data):
    # Windows of 256 px, 128 px apart: each shares half with the next, and nothing with others.
    paths = sorted((real_data / "microscope" / "hr").iterdir())
    signatures = [signature_of(np.asarray(Image.open(p).convert("RGB"))) for p in paths]
    found = copies_among(signatures)
    assert len(found) == len(paths) - 1
    np.testing.assert_allclose([share for *_, share in found], 0.5, atol=0.03)
