from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from histojax.models.generators.juhong2021 import Juhong2021, SingleConvBlock
from tests.models.generators.measured import count, reach, shapes


def test_parameters_and_statistics_of_the_generator_of_2021():
    # Weights, biases, and four numbers a channel at the norm.
    block = 9 * 64 * 64 + 64 + 4 * 64
    assert count(shapes(SingleConvBlock(), 64)) == block == 37_184
    head, trunk, tail = 81 * 3 * 64 + 64, block, 81 * 256 * 3 + 3
    doublings = 9 * 64 * 256 + 256 + 9 * 256 * 256 + 256
    expected = head + 16 * block + trunk + doublings + tail
    assert count(shapes(Juhong2021())) == expected == 1_447_747


def test_the_block_of_2021_normalizes_after_its_activation():
    x = jax.random.normal(jax.random.key(0), (4, 8, 8, 16))
    block = SingleConvBlock()
    variables = jax.jit(partial(block.init, train=True))(jax.random.key(1), x)
    train = jax.jit(partial(block.apply, train=True, mutable=["batch_stats"]))
    branch = np.asarray(train(variables, x)[0] - x).reshape(-1, 16)
    np.testing.assert_allclose(branch.mean(0), 0, atol=1e-5)
    # What ReLU cut off, about half, is one value after the norm: the lowest of its channel.
    lowest = np.isclose(branch, branch.min(0), atol=1e-5).mean(0)
    assert np.all((lowest > 0.2) & (lowest < 0.8))


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
def test_every_scale(scale):
    model = Juhong2021(blocks=1, features=8, scale=scale)
    x = jax.ShapeDtypeStruct((2, 5, 7, 3), jnp.float32)
    y, _ = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x, train=False), x)
    assert y.shape == (2, 5 * scale, 7 * scale, 3)
    assert y.dtype == jnp.float32


@pytest.mark.parametrize("blocks", [1, 2])
def test_halo_is_the_receptive_field(blocks):
    model = Juhong2021(blocks=blocks, features=8)
    assert reach(model) == model.halo
    assert model.stride == 1


def test_a_scale_that_is_not_offered_is_refused():
    with pytest.raises(ValueError, match="scale=5 is not known; choose one of 2, 3, 4, 8"):
        shapes(Juhong2021(scale=5))
