from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from histojax.models import depthwise


def arrays(side, stride):
    rng = np.random.RandomState(0)
    shapes = (2, 8, 12, 5), (side, side, 1, 5), (2, 8 // stride, 12 // stride, 5)
    return [jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in shapes]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("side", [3, 5])
def test_both_forms_agree_in_value_and_gradients(side, stride):
    x, kernel, g = arrays(side, stride)

    @partial(jax.jit, static_argnums=0)
    def computed(form):
        y, pull = jax.vjp(partial(depthwise.convolve, stride=stride, form=form), x, kernel)
        return y, *pull(g)

    for found, expected in zip(computed("shifted"), computed("grouped"), strict=True):
        np.testing.assert_allclose(found, expected, atol=2e-5)


def test_the_odd_pixel_of_padding_lies_after_the_image():
    # Pixels 1, 10, 100, 1000 in a row, weights 1, 2, 3: each output sees three from an even one on.
    row = jnp.array([1.0, 10.0, 100.0, 1000.0])
    x = jnp.zeros((1, 2, 4, 1)).at[0, 0, :, 0].set(row)
    kernel = jnp.zeros((3, 3, 1, 1)).at[0, :, 0, 0].set(jnp.array([1.0, 2.0, 3.0]))
    y = depthwise.convolve(x, kernel, 2, form="shifted")
    np.testing.assert_array_equal(y[0, 0, :, 0], [321.0, 2100.0])


def test_channels_do_not_mix():
    x, kernel, _ = arrays(3, 1)
    y = depthwise.convolve(x, kernel)
    changed = depthwise.convolve(x.at[..., 2].add(1.0), kernel)
    assert np.flatnonzero(np.asarray(y != changed).any((0, 1, 2))).tolist() == [2]


def test_the_cpu_never_runs_feature_group_count():
    x, kernel, _ = arrays(5, 2)
    assert depthwise.form_of("cpu") == "shifted"
    program = str(jax.make_jaxpr(jax.grad(lambda k: depthwise.convolve(x, k, 2).sum()))(kernel))
    assert "conv_general_dilated" not in program


@pytest.mark.parametrize("check_vma", [True, False])
def test_gradient_of_a_replicated_kernel_under_shard_map(check_vma):
    x, kernel, _ = arrays(3, 2)

    def loss(k, x):
        return (depthwise.convolve(x, k, 2, form="shifted") ** 2).sum()

    mesh = jax.make_mesh((2,), ("data",), (AxisType.Auto,), devices=jax.devices()[:2])

    def local(k, x):
        gradient = jax.grad(loss)(k, x)
        # With varying axes tracked, autodiff has summed over the devices already.
        return gradient if check_vma else jax.lax.psum(gradient, "data")

    specs = dict(in_specs=(PartitionSpec(), PartitionSpec("data")), out_specs=PartitionSpec())
    parted = jax.jit(jax.shard_map(local, mesh=mesh, check_vma=check_vma, **specs))(kernel, x)
    np.testing.assert_allclose(parted, jax.grad(loss)(kernel, x), rtol=1e-4)


@pytest.mark.faults
def test_an_unknown_form_is_refused_with_the_choices():
    x, kernel, _ = arrays(3, 1)
    with pytest.raises(ValueError, match="'dense' is not one of auto, grouped, shifted"):
        depthwise.convolve(x, kernel, form="dense")


@pytest.mark.faults
@pytest.mark.parametrize("form", depthwise.FORMS)
def test_a_side_that_the_stride_does_not_divide_is_refused(form):
    x, kernel, _ = arrays(3, 2)
    with pytest.raises(ValueError, match=r"stride 2 does not divide the image's sides \(8, 11\)"):
        depthwise.convolve(x[:, :, :11], kernel, 2, form=form)
