import numpy as np
import pytest

from histojax.mosaic import light, stitching
from tests.mosaic.fields import cut, grid, tissue


def shaded(fields, depth):
    v, u = np.meshgrid(*[np.linspace(-1, 1, fields[0].shape[0])] * 2, indexing="ij")
    shade = 1 - depth * (v * v + u * u) / 2
    return [(field * shade[..., None]).round().astype(np.uint8) for field in fields], shade


def lit(fields):
    """The light that stitching finds, by its mosaic."""
    found = stitching.stitch(fields)
    return found, found.mosaics[0]


def test_gains_of_fields_are_solved_from_their_overlaps():
    fields, _ = grid(tissue(), 2, 2, 180, 110)
    by = np.array([0.9, 1.0, 1.05, 0.95])
    dimmed = [
        (field * gain * 0.95).round().astype(np.uint8)
        for field, gain in zip(fields, by, strict=True)
    ]
    found, _ = lit(dimmed)
    gains = np.array([one.gain for one in found.placements])
    ratio = gains * by
    assert ratio == pytest.approx(np.full(4, ratio.mean()), rel=0.01)


def test_shading_is_taken_out_and_the_mean_stays():
    fields, _ = grid(tissue(), 3, 3, 180, 110)
    dark, _ = shaded(fields, 0.3)
    found, mosaic = lit(dark)
    assert "Shading is taken out" in found.notes[-1]
    whole = mosaic.read(0, 0, mosaic.height, mosaic.width).astype(float)
    truth = tissue()[: mosaic.height, : mosaic.width].astype(float)
    ratio = whole.mean(-1) / np.maximum(truth.mean(-1), 1)
    blocks = ratio[:400, :400].reshape(8, 50, 8, 50).mean((1, 3))
    assert blocks.std() / blocks.mean() < 0.03
    mean = np.mean([field.mean() for field in dark])
    assert whole.mean() == pytest.approx(mean, rel=0.05)


@pytest.mark.faults
def test_too_few_fields_keep_their_shading_and_say_so():
    fields, _ = shaded([cut(tissue(), 0, x, 180, 180) for x in (0, 90, 180)], 0.3)
    found, _ = lit(fields)
    assert "too few" in found.notes[-1]


@pytest.mark.faults
def test_no_shading_is_invented_where_there_is_none():
    fields, _ = grid(tissue(), 3, 3, 180, 110)
    found, _ = lit(fields)
    assert "left as it is" in found.notes[-1]


@pytest.mark.faults
def test_gains_are_capped_and_do_not_wrap():
    shading = np.zeros((4, 3))
    shading[3] = -9.0  # corners a thousand times darker than the middle
    one = light.Light(np.ones((1, 3)), shading, "")
    factors = one.factors(0, *np.meshgrid(np.linspace(-1, 1, 9), np.linspace(-1, 1, 9)))
    assert factors.max() == light.MOST_GAIN
    assert factors.min() == 1 / light.MOST_GAIN
