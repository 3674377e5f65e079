from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from histojax.models.discriminators.pairs import PairDiscriminator


def inputs(size=32, labels=2):
    """Images and one-hot masks."""
    keys = jax.random.split(jax.random.key(0), 2)
    classes = jax.random.randint(keys[1], (2, size, size), 0, labels)
    return jax.random.uniform(keys[0], (2, size, size, 3)), jax.nn.one_hot(classes, labels)


def test_parameters_are_those_of_the_source():
    shapes = jax.eval_shape(
        lambda: PairDiscriminator().init(jax.random.key(0), *inputs(64, labels=4), train=False)
    )
    found = sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
    judge = 16 * (7 * 64 + 64 * 128 + 128 * 256 + 256 * 512 + 512) + 64 + 1
    assert found == 2 * judge == pytest.approx(5.54e6, rel=1e-3)


def test_each_size_has_a_discriminator_of_its_own():
    image, mask = inputs()
    model = PairDiscriminator(sizes=2, widths=(4, 8))
    variables = jax.jit(partial(model.init, train=False))(jax.random.key(1), image, mask)
    assert set(variables["params"]) == {"size_0", "size_1"}
    logits, hidden = model.apply(variables, image, mask, train=False, features=True)
    # 4x4 convolutions padded by 1: 32 -> 16 -> 15 -> 14, and 16 -> 8 -> 7 -> 6.
    assert [x.shape for x in logits] == [(2, 14, 14, 1), (2, 6, 6, 1)]
    assert [[x.shape[1:] for x in maps] for maps in hidden] == [
        [(16, 16, 4), (15, 15, 8)],
        [(8, 8, 4), (7, 7, 8)],
    ]
    again = model.apply(variables, image, mask, train=False)
    jax.tree.map(np.testing.assert_array_equal, logits, again)


def test_a_smaller_size_is_the_mean_of_what_lies_under_it():
    # A network that passes its input on: one 4x4 kernel that picks a pixel.
    model = PairDiscriminator(sizes=2, widths=(1,), norm="none")
    image = jax.random.uniform(jax.random.key(0), (1, 8, 8, 3))
    mask = jnp.zeros((1, 8, 8, 1))
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), image, mask, train=False))
    params = jax.tree.map(lambda s: np.zeros(s.shape, np.float32), shapes["params"])
    params["size_1"]["conv_0"]["kernel"][1, 1, 0, 0] = 1
    _, hidden = model.apply({"params": params}, image, mask, train=False, features=True)
    red = np.asarray(image[0, :, :, 0])
    means = [
        [red[max(2 * i - 1, 0) : 2 * i + 2, max(2 * j - 1, 0) : 2 * j + 2].mean() for j in range(3)]
        for i in range(3)
    ]
    judged = 2 * np.array(means) - 1
    got = hidden[1][0][0, :3, :3, 0]
    np.testing.assert_allclose(got, np.where(judged > 0, judged, 0.2 * judged), atol=1e-6)


def test_judgement_is_differentiable_in_a_soft_mask():
    image, mask = inputs()
    model = PairDiscriminator(sizes=2, widths=(4, 8))
    variables = jax.jit(partial(model.init, train=False))(jax.random.key(1), image, mask)

    def judged(logits):
        maps = model.apply(variables, image, jax.nn.softmax(logits), train=False)
        return sum(jnp.mean(jnp.square(x - 1)) for x in maps)

    slope = jax.jit(jax.grad(judged))(mask)
    assert float(jnp.abs(slope).max(axis=(1, 2, 3)).min()) > 0
