from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from histojax.components.pretrained import fit_tree
from histojax.models import efficientnet
from histojax.models.efficientnet import BLOCKS, EfficientNet
from tests.launch.commands import load
from tests.models.published_efficientnet import published_arrays, torch_maps

SMALL = BLOCKS[:2]


def shapes(model, size=64):
    x = jax.ShapeDtypeStruct((1, size, size + 32, 3), jnp.float32)
    return jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x, train=True), x)


def loaded():
    arrays = published_arrays(len(SMALL))
    converted = load("launch.convert_weights").convert_efficientnet(arrays)
    model = EfficientNet(SMALL)
    return arrays, model, fit_tree(converted, shapes(model)[1], source="test")


def images():
    return np.random.RandomState(1).random_sample((2, 32, 48, 3)).astype(np.float32)


def test_maps_and_parameters_are_those_published():
    maps, variables = shapes(EfficientNet())
    assert [m.shape[1:] for m in maps] == [
        (32, 48, 16),
        (16, 24, 24),
        (8, 12, 40),
        (4, 6, 112),
        (2, 3, 320),
    ]
    # 4,652,008 less a convolution of 320 to 1280, its normalisation, and a classifier of 1000.
    count = sum(a.size for a in jax.tree.leaves(variables["params"]))
    assert count == 4_652_008 - 1280 * (320 + 2 + 1000) - 1000


# PyTorch 2.13's values of image 1 at row 1, column 2 of each map, channels 0 to 3.
RECORDED = (
    (-0.66261, 0.19221, 0.14372, -0.01603),
    (-0.47667, -0.02313, -1.04396, 0.78227),
    (-0.80171, -0.57839, 2.21289, -2.10004),
)


def test_every_value_is_pytorchs():
    arrays, model, variables = loaded()
    found = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, images())
    for level, expected in zip(found, RECORDED, strict=True):
        np.testing.assert_allclose(level[1, 1, 2, :4], expected, atol=2e-5)
    torch = pytest.importorskip("torch", reason="PyTorch is wanted only to compare with")
    maps = torch_maps(torch, arrays, torch.from_numpy(images()).permute(0, 3, 1, 2), len(SMALL))
    for level, expected in zip(found, maps, strict=True):
        np.testing.assert_allclose(level, expected.permute(0, 2, 3, 1), atol=2e-5)


def test_the_field_of_one_stage():
    # From pixel 5 of level1 through a 3x3 at stride 1, then three pixels from 2 p on at stride 2;
    # block 0 is a 3x3, and the stem reads three pixels from 2 p on.
    low, high = 2 * 4 - 1, 2 * 6 + 2 + 1
    assert efficientnet.field((2,), [(10, 10), (5, 5)]) == (2 * low, 2 * high + 2)
    # A 5x5 at stride 2 reads from 2 p - 1 to 2 p + 3.
    low, high = 2 * (2 * 5 - 1) - 1, 2 * (2 * 5 + 3) + 2 + 1
    needed = [(20, 20), (10, 10), (5, 5)]
    assert efficientnet.field((1, 1), needed) == (2 * low, 2 * high + 2)
    assert efficientnet.field((1,), [(0, 40), (5, 5)]) == (2 * -1, 2 * 41 + 2)


def test_activations_end_at_six():
    _, model, variables = loaded()
    apply = jax.jit(lambda x: model.apply(variables, x, train=False)[0])
    # The stem saturates in all channels but those that are 0, so that more light changes nothing.
    np.testing.assert_array_equal(apply(images() + 1e6), apply(2 * images() + 2e6))


@pytest.mark.faults
@pytest.mark.parametrize("blocks", [(3,), (2, 2, 6, 5, 1)])
def test_more_blocks_than_there_are_are_refused(blocks):
    with pytest.raises(ValueError, match="of efficientnet_lite0 are more than its"):
        shapes(EfficientNet(blocks))
