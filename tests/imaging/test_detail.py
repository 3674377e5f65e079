import io

import numpy as np
import PIL.Image
import pytest
import scipy.ndimage

from histojax.imaging import detail, reader
from histojax.tissue import rendering

KERNELS = {
    "bicubic": PIL.Image.Resampling.BICUBIC,
    "lanczos": PIL.Image.Resampling.LANCZOS,
    "nearest": PIL.Image.Resampling.NEAREST,
}


@pytest.fixture(scope="module")
def scan():
    """As soft as the median scan; `histojax.tissue` draws it sharper."""
    image = rendering.tissue(5, 0, 512)["image"]
    return PIL.Image.fromarray(scipy.ndimage.gaussian_filter(image, (0.8, 0.8, 0)))


def blown_up(scan, factor, kernel):
    return scan.resize([round(side * factor) for side in scan.size], KERNELS[kernel])


def grey(values):
    """uint8 (H, W, 3) of float (H, W)."""
    return np.repeat(np.clip(np.rint(values), 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def test_a_sharp_scan_uses_its_pixels(scan):
    assert detail.shrinkable(np.asarray(scan)) == pytest.approx(1, abs=0.3)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("factor", [2, 2.6, 4])
def test_a_blown_up_scan_could_be_shrunk_by_as_much(scan, factor, kernel):
    own = detail.shrinkable(np.asarray(scan))
    found = detail.shrinkable(np.asarray(blown_up(scan, factor, kernel)))
    assert found / own == pytest.approx(factor, rel=0.15)


def test_jpeg_does_not_hide_it(scan):
    own, stream = detail.shrinkable(np.asarray(scan)), io.BytesIO()
    blown_up(scan, 3, "bicubic").save(stream, "JPEG", quality=70)
    found = detail.shrinkable(np.asarray(PIL.Image.open(stream)))
    assert found / own == pytest.approx(3, rel=0.15)


def test_contrast_does_not_matter(scan):
    image = np.asarray(blown_up(scan, 3, "bicubic")).astype(np.float32)
    pale = np.rint(200 + 0.25 * (image - 200)).astype(np.uint8)
    # Less the rounding, the spectrum is that of the image times a constant.
    assert detail.shrinkable(pale) == pytest.approx(
        detail.shrinkable(image.astype(np.uint8)), rel=0.05
    )


def test_not_determined_without_an_image(scan):
    noise = np.random.default_rng(0).normal(0, 1, (300, 300))
    assert detail.shrinkable(grey(np.full((300, 300), 240))) is None  # blank
    assert detail.shrinkable(grey(240 + noise)) is None  # glass
    assert detail.shrinkable(grey(180 + 15 * noise)) is None
    blurred = scipy.ndimage.gaussian_filter(noise, 1.0)
    assert detail.shrinkable(grey(180 + 50 * blurred)) is None
    assert detail.shrinkable(np.asarray(scan)[:63]) is None  # too small
    assert detail.shrinkable(np.asarray(scan)[:64]) is not None


def test_the_variance_of_an_octave_is_that_of_its_wave():
    # A wave of amplitude a has variance a^2 / 2, all of it in the octave around its frequency.
    x = np.arange(512)
    waves = 128 + 40 * np.sin(2 * np.pi * 0.125 * x)[None] * np.ones((512, 1))
    frequency, variance = detail.octaves(grey(waves), 256)
    assert frequency[np.argmax(variance)] == pytest.approx(0.125, abs=1 / 256)
    # The integral of variance / f over f is the total; rings reach to the radius of 0.5.
    total = np.sum(variance / frequency) / 256
    assert total == pytest.approx(40**2 / 2, rel=0.05)


def test_real_fields_use_their_pixels(real_data):
    paths = sorted((real_data / "tnbc" / "images").iterdir())[::8]
    factors = [detail.shrinkable(reader.read_image(path)) for path in paths]
    assert max(factors) < 1.3
