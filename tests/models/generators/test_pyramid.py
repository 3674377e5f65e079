import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from histojax.models.generators.pyramid import PyramidGenerator, Spade

SMALL = {"features": 4, "downsamplings": 1, "blocks": 1}
SPADE = {"conditioning": "spade"}


def inputs(size=16, labels=2, batch=2, seed=0):
    """Image of the scale below, noise and one-hot mask."""
    keys = jax.random.split(jax.random.key(seed), 3)
    below = jax.random.uniform(keys[0], (batch, size, size, 3))
    noise = jax.random.normal(keys[1], (batch, size, size, 1))
    classes = jax.random.randint(keys[2], (batch, size, size), 0, labels)
    return below, noise, jax.nn.one_hot(classes, labels)


def parameters(module, *x):
    variables = jax.eval_shape(lambda *x: module.init(jax.random.key(0), *x, train=False), *x)
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def made(module, *x):
    variables = jax.jit(partial(module.init, train=False))(jax.random.key(1), *x)
    # Far from the small weights of the start, whose image is hardly more than the one below.
    params = jax.tree.map(lambda p: 5 * p, variables["params"])
    return {**variables, "params": params}, jax.jit(partial(module.apply, train=False))


def test_parameters_are_those_of_the_source():
    below, noise, mask = inputs(64, labels=4)
    widths = (64, 128, 256, 512)
    kernels = 49 * 7 * 64 + 49 * 64 * 3
    kernels += 2 * sum(9 * a * b for a, b in itertools.pairwise(widths))
    kernels += 9 * 2 * 9 * 512 * 512
    # A scale and an offset for each normalised channel, and a bias of the image.
    affine = 2 * (64 + 2 * (128 + 256) - 128 - 256 + 64 + 128 + 256 + 512 + 18 * 512) + 3
    assert parameters(PyramidGenerator(), below, noise, mask) == kernels + affine
    assert kernels + affine == pytest.approx(45.6e6, rel=1e-3)


@pytest.mark.parametrize("fields", [{}, SPADE, {"norm": "none"}, {"norm": "instance"}])
def test_an_image_adds_at_most_half_to_the_one_below(fields):
    below, noise, mask = inputs()
    variables, apply = made(PyramidGenerator(**SMALL, **fields), below, noise, mask)
    image = apply(variables, below, noise, mask)
    assert (image.shape, image.dtype) == (below.shape, jnp.float32)
    assert 1e-3 < float(jnp.abs(image - below).max()) <= 0.5


@pytest.mark.parametrize("fields", [{}, SPADE])
def test_a_generator_that_adds_nothing_at_first_can_learn(fields):
    below, noise, mask = inputs()
    module = PyramidGenerator(**SMALL, **fields, adds_nothing=True)
    variables, apply = made(module, below, noise, mask)
    np.testing.assert_array_equal(apply(variables, below, noise, mask), below)

    def off(params):
        image = module.apply({**variables, "params": params}, below, noise, mask, train=False)
        return jnp.mean(jnp.square(image - 1))

    grads = jax.jit(jax.grad(off))(variables["params"])
    assert float(jnp.abs(grads["image"]["kernel"]).max()) > 1e-4


@pytest.mark.parametrize("fields", [{}, SPADE])
def test_the_image_follows_mask_and_noise(fields):
    below, noise, mask = inputs()
    variables, apply = made(PyramidGenerator(**SMALL, **fields), below, noise, mask)
    image = apply(variables, below, noise, mask)
    for other in ((below, -noise, mask), (below, noise, 1 - mask)):
        assert float(jnp.abs(apply(variables, *other) - image).max()) > 1e-3
    np.testing.assert_array_equal(apply(variables, below, noise, mask), image)
    half = {**variables, "noise": {"amplitude": jnp.array(0.5)}}
    np.testing.assert_allclose(
        apply(half, below, 2 * noise, mask), apply(variables, below, noise, mask), atol=1e-6
    )


@pytest.mark.parametrize("fields", [{}, SPADE, {"downsamplings": 2}])
def test_halo_bounds_the_receptive_field_within_the_strides(fields):
    model = PyramidGenerator(**{**SMALL, **fields})
    height, center = 192, 96
    below = jnp.full((1, height, 8, 3), 0.5)
    noise = jnp.zeros((1, height, 8, 1))
    mask = jnp.ones((1, height, 8, 2))
    variables = jax.jit(partial(model.init, train=False))(jax.random.key(0), below, noise, mask)
    # Weights above zero keep every ReLU open; small ones at the end keep tanh from saturating.
    params = jax.tree.map(lambda p: jnp.abs(p) + 1e-3, variables["params"])
    params["image"] = jax.tree.map(lambda p: 1e-4 * p, params["image"])

    @jax.jit
    def reached(phase):
        def row(n, m):
            x = model.apply({**variables, "params": params}, below, n, m, train=False)
            return x[0, center + phase].sum()

        slopes = jax.grad(row, argnums=(0, 1))(noise, mask)
        return [jnp.abs(slope).max((0, 2, 3)) for slope in slopes]

    radius = 0
    for phase in range(model.stride):
        for slopes in reached(phase):
            rows = np.nonzero(np.asarray(slopes))[0]
            radius = max(radius, np.abs(rows - center - phase).max())
    assert model.halo % model.stride == 0
    assert radius <= model.halo < center
    if "conditioning" not in fields:
        assert model.halo - model.stride < radius


@pytest.mark.parametrize("fields", [{}, SPADE])
def test_windows_with_the_halo_agree_with_the_whole(fields):
    model = PyramidGenerator(**SMALL, **fields)
    x = inputs(96, batch=1)
    variables, apply = made(model, *x)
    whole = apply(variables, *x)
    halo, core, start = model.halo, 8, 40
    assert start >= halo
    window = slice(start - halo, start + core + halo)
    part = apply(variables, *(a[:, window, window] for a in x))[:, halo:-halo, halo:-halo]
    inside = whole[:, start : start + core, start : start + core]
    assert float(jnp.ptp(inside)) > 1e-3
    np.testing.assert_allclose(part, inside, atol=1e-5)


def test_spade_scales_and_shifts_by_the_mask_alone():
    # Scale and offset are linear in the hidden layer, which is the second label where it is set.
    module = Spade(norm="none", hidden=1)
    x = jax.random.normal(jax.random.key(0), (1, 4, 4, 2))
    mask = jnp.zeros((1, 8, 8, 2)).at[:, 4:, :, 1].set(1.0)
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), x, mask, train=False))
    params = jax.tree.map(lambda s: np.zeros(s.shape, np.float32), shapes["params"])
    params["shared"]["kernel"][1, 1, 1, 0] = 1
    params["scale"]["kernel"][1, 1, 0] = (2, 0)
    params["offset"]["kernel"][1, 1, 0] = (0, 3)
    y = module.apply({"params": params}, x, mask, train=False)
    np.testing.assert_allclose(y[:, :2], x[:, :2])
    np.testing.assert_allclose(y[:, 2:, :, 0], 3 * x[:, 2:, :, 0], rtol=1e-6)
    np.testing.assert_allclose(y[:, 2:, :, 1], x[:, 2:, :, 1] + 3, rtol=1e-6)


@pytest.mark.faults
@pytest.mark.parametrize(
    ("fields", "size", "match"),
    [
        ({}, 15, "multiples of 2"),
        ({"conditioning": "film"}, 16, "not known; choose one of concat, spade"),
        ({**SPADE, "norm": "instance"}, 16, "batch or none, not by instance"),
        ({"norm": "group"}, 16, "norm 'group' is not one of"),
    ],
)
def test_what_cannot_be_is_refused(fields, size, match):
    x = inputs(size)
    with pytest.raises(ValueError, match=match):
        PyramidGenerator(**{**SMALL, **fields}).init(jax.random.key(0), *x, train=False)
