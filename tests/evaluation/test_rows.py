import numpy as np
import pytest

from histojax.components import content
from histojax.evaluation.rows import feature_metric


@pytest.mark.parametrize("side", [250, 70])
def test_features_are_compared_in_windows_that_fit(side):
    seen = []

    def features(variables, images, layers):
        seen.append(images.shape[1:3])
        return {"level0": images}

    network = content.FeatureNetwork("x", features, {}, ("level0",), stride=32)
    image = np.random.default_rng(0).integers(0, 256, (side, 260, 3)).astype(np.uint8)
    feature_metric(network)(image, image[::-1])
    window = side // 32 * 32
    assert set(seen) == {(window, window)}
