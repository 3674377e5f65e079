import numpy as np
import pytest

from histojax.data import degradation
from histojax.data.pairs import image_pair
from histojax.metrics import overlap, registry
from tests import tiny


def test_a_seed_makes_the_same_low_resolution_image_every_time():
    config = tiny.config()
    config.data.degradation.name = "microscope"
    recipe = degradation.Degradation.from_config(config.data.degradation, 4)
    image, instances = tiny.tissue(0, 64)
    sample = {"name": "n0", "hr": image, "instances": instances}
    first, again = (image_pair(sample, recipe, 1)[1] for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert (first != image_pair(sample, recipe, 2)[1]).any()


@pytest.mark.faults
def test_nuclei_numbered_beyond_16_bits_are_foreground():
    instances = np.zeros((400, 800), np.int32)
    instances[::2, ::2] = np.arange(1, 80_001).reshape(200, 400)
    # 65,536 is 0 to a uint16, and so is its double.
    instances[0, 0] = 2**17
    sample = {"name": "many", "hr": np.zeros((400, 800, 3), np.uint8), "instances": instances}
    _, _, truth = image_pair(sample, degradation.Degradation(), 0)
    assert (truth > 0).sum() == 80_000
    scores = registry.scores("mask", overlap.confusion(instances > 0, truth > 0))
    assert scores == {"iou": 1, "dice": 1, "miou": 1}
