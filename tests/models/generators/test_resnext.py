from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from histojax.models.generators.resnext import ResNeXt, ResNeXtBlock
from histojax.models.resizing import gaussian_blur, upsample
from tests.models.generators.measured import count, reach, shapes
from tests.models.synchronised import check_two_devices_are_one

SMALL = {"blocks": 1, "features": 8, "width": 16, "cardinality": 4}


@pytest.mark.parametrize(("width", "parameters"), [(128, 21632), (256, 52352), (64, 9728)])
def test_parameters_of_a_block(width, parameters):
    block = ResNeXtBlock(width=width, cardinality=32, activation="relu")
    assert count(shapes(block, 64)["params"]) == parameters


def test_parameters_of_the_default_generator():
    variables = shapes(ResNeXt(activation="relu"))
    blocks = [v for k, v in variables["params"].items() if k.startswith("block_")]
    assert len(blocks) == 16
    assert sum(map(count, blocks)) == 346112
    head, trunk = 9 * 9 * 3 * 64 + 64, 3 * 3 * 64 * 64 + 2 * 64
    doublings, tail = 2 * (3 * 3 * 64 * 256 + 256), 9 * 9 * 64 * 3 + 3
    assert count(variables["params"]) == head + 346112 + trunk + doublings + tail
    # PReLU adds a slope a channel: head, two in each block, one after each doubling.
    prelu = count(shapes(ResNeXt())["params"])
    assert prelu - count(variables["params"]) == 64 + 16 * 2 * 128 + 2 * 64


@pytest.mark.parametrize("upsampling", ["pixel_shuffle", "direct"])
@pytest.mark.parametrize("scale", [2, 3, 4, 8])
def test_every_scale_and_upsampling(upsampling, scale):
    model = ResNeXt(**SMALL, upsampling=upsampling, scale=scale)
    x = jax.ShapeDtypeStruct((2, 5, 7, 3), jnp.float32)
    y, _ = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x, train=False), x)
    assert y.shape == (2, 5 * scale, 7 * scale, 3)
    assert y.dtype == jnp.float32


@pytest.mark.parametrize("upsampling", ["pixel_shuffle", "direct"])
@pytest.mark.parametrize("output", ["tanh", "linear"])
def test_an_untrained_network_with_a_skip_is_bicubic(upsampling, output):
    model = ResNeXt(**SMALL, upsampling=upsampling, skip="bicubic", output=output)
    x = jax.random.uniform(jax.random.key(0), (1, 6, 7, 3))
    y, variables = jax.jit(partial(model.init_with_output, train=False))(jax.random.key(1), x)
    np.testing.assert_allclose(y, upsample(x, 4, "bicubic"), atol=1e-6)

    def loss(params):
        return (model.apply(variables | {"params": params}, x, train=False) ** 2).mean()

    gradient = jax.jit(jax.grad(loss))(variables["params"])
    assert float(jnp.abs(gradient["tail"]["kernel"]).max()) > 0


def test_tanh_is_mapped_to_zero_one_and_linear_is_not_clipped():
    x = jax.random.uniform(jax.random.key(0), (1, 6, 6, 3))
    tanh = ResNeXt(**SMALL)
    variables = jax.jit(partial(tanh.init, train=False))(jax.random.key(1), x)
    scaled = jax.tree.map(lambda a: a, variables)
    scaled["params"]["tail"]["kernel"] *= 50
    y = jax.jit(partial(tanh.apply, train=False))(scaled, x)
    linear = ResNeXt(**SMALL, output="linear")
    z = jax.jit(partial(linear.apply, train=False))(scaled, x)
    assert float(y.min()) >= 0
    assert float(y.max()) <= 1
    assert float(jnp.abs(z).max()) > 1
    np.testing.assert_allclose(y, (jnp.tanh(z) + 1) / 2, atol=1e-5)


@pytest.mark.parametrize(
    "fields",
    [
        {"blocks": 2},
        {"scale": 2, "tail_kernel": 3, "head_kernel": 5},
        {"scale": 3},
        {"scale": 8, "tail_kernel": 5},
        {"upsampling": "direct", "skip": "bicubic"},
        {"upsampling": "direct", "skip": "bicubic", "phases": "alike", "anchor": 1.0},
        {"scale": 3, "anchor": 0.5, "blocks": 0},
    ],
)
def test_halo_is_the_receptive_field(fields):
    model = ResNeXt(**{**SMALL, "norm": "none", **fields})
    assert reach(model) == model.halo
    assert model.stride == 1


def test_halo_of_the_default_generator():
    # 9x9 head 4, sixteen blocks 16, trunk 1, doublings 1 and 1/2, 9x9 tail 4/4, in phases: 24.
    assert ResNeXt().halo == 24


def _with_random_tail(model, x, scale):
    """Variables whose last kernel and biases are random too, as training leaves them."""
    variables = jax.jit(partial(model.init, train=False))(jax.random.key(1), x)
    leaves, tree = jax.tree.flatten(variables)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    noisy = [a + scale * jax.random.normal(k, a.shape) for a, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, noisy)


@pytest.mark.parametrize("upsampling", ["pixel_shuffle", "direct"])
def test_alike_phases_leave_no_grid_where_an_image_is_flat(upsampling):
    fields = {**SMALL, "norm": "none", "upsampling": upsampling, "skip": "bicubic"}
    x = jnp.broadcast_to(jnp.array([0.8, 0.6, 0.7]), (1, 30, 30, 3))
    spread = {}
    for phases in ("free", "alike"):
        model = ResNeXt(**fields, phases=phases)
        variables = _with_random_tail(model, x, 0.1)
        y = jax.jit(partial(model.apply, train=False))(variables, x)
        spread[phases] = float(y[:, 56:64, 56:64].std((1, 2)).max())
        assert float(jnp.abs(y - upsample(x, 4, "bicubic"))[:, 56:64, 56:64].max()) > 0.01
    assert spread["free"] > 0.01
    assert spread["alike"] < 1e-5


def test_an_anchor_keeps_low_frequencies():
    x = gaussian_blur(jax.random.uniform(jax.random.key(0), (1, 40, 40, 3)), 1.0)
    model = ResNeXt(
        **{**SMALL, "norm": "none", "upsampling": "direct", "skip": "bicubic"}, output="linear"
    )
    variables = _with_random_tail(model, x, 0.05)
    bicubic = upsample(x, 4, "bicubic")
    drift = {}
    for anchor in (0.0, 3.0):
        y = jax.jit(partial(model.clone(anchor=anchor).apply, train=False))(variables, x)
        drift[anchor] = 255 * jnp.abs(gaussian_blur(y - bicubic, 12.0))[:, 48:-48, 48:-48].mean()
    # In levels of 255. Of the network's own contrast (1 - g)^2 g is left, g the Gaussian.
    assert drift[0.0] > 8
    assert drift[3.0] < 0.3


def test_bfloat16_computes_near_float32_and_returns_it():
    x = jax.random.uniform(jax.random.key(0), (1, 8, 8, 3))
    model = ResNeXt(**SMALL)
    variables = jax.jit(partial(model.init, train=False))(jax.random.key(1), x)
    half = ResNeXt(**SMALL, dtype=jnp.bfloat16)
    y = jax.jit(partial(half.apply, train=False))(variables, x)
    assert y.dtype == jnp.float32
    full = jax.jit(partial(model.apply, train=False))(variables, x)
    np.testing.assert_allclose(y, full, atol=0.03)
    leaves = jax.tree.leaves(jax.eval_shape(partial(half.init, train=False), jax.random.key(1), x))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}


def test_synchronised_statistics_make_two_devices_one():
    x = jax.random.uniform(jax.random.key(0), (4, 6, 6, 3))
    check_two_devices_are_one(ResNeXt(**SMALL), x, atol=1e-5)


def test_a_field_value_that_is_not_offered_is_refused():
    with pytest.raises(ValueError, match=r"scale=5 is not known; choose one of 2, 3, 4, 8"):
        shapes(ResNeXt(scale=5))
    with pytest.raises(ValueError, match="tail_kernel=4 is even"):
        shapes(ResNeXt(tail_kernel=4))
    with pytest.raises(ValueError, match="anchor=-1 has to be a sigma in px"):
        shapes(ResNeXt(anchor=-1))
