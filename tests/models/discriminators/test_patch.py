from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from histojax.models.discriminators.patch import PatchDiscriminator

NARROW = (4, 4, 4, 4)


def test_a_logit_judges_seventy_by_seventy_pixels():
    model = PatchDiscriminator(widths=NARROW, norm="none")
    x = jax.random.uniform(jax.random.key(0), (1, 128, 128, 3))
    variables = jax.jit(partial(model.init, train=False))(jax.random.key(1), x[:, :32, :32])
    logit = jax.jit(lambda x: model.apply(variables, x, train=False)[0, 7, 7, 0])
    gradient = jax.grad(logit)(x)
    rows, columns = np.nonzero(np.abs(np.asarray(gradient)).sum((0, 3)))
    assert np.ptp(rows) + 1 == np.ptp(columns) + 1 == 70


def test_a_256_pixel_image_has_thirty_by_thirty_logits():
    # Padding 1 on both sides: 256, 128, 64, 32, then 31 and 30.
    model = PatchDiscriminator()
    x = jax.ShapeDtypeStruct((2, 256, 256, 3), jnp.float32)
    (y, hidden), variables = jax.eval_shape(
        lambda x: model.init_with_output(jax.random.key(0), x, train=True, features=True), x
    )
    assert y.shape == (2, 30, 30, 1)
    assert [h.shape[1:] for h in hidden] == [
        (128, 128, 64),
        (64, 64, 128),
        (32, 32, 256),
        (31, 31, 512),
    ]
    kernels = 16 * (3 * 64 + 64 * 128 + 128 * 256 + 256 * 512 + 512)
    assert sum(a.size for a in jax.tree.leaves(variables)) == kernels + 64 + 1


def test_spectral_norm_brings_every_kernel_to_unit_norm():
    model = PatchDiscriminator(widths=NARROW, norm="none", spectral_norm=True)
    x = jax.random.uniform(jax.random.key(0), (1, 32, 32, 3))
    variables = jax.jit(partial(model.init, train=False))(jax.random.key(1), x)
    step = jax.jit(lambda v: model.apply(v, x, train=True, mutable=["spectral"])[1])
    for _ in range(100):
        variables = {**variables, **step(variables)}
    for i in range(5):
        kernel = variables["params"][f"conv_{i}"]["kernel"]
        largest = np.linalg.norm(np.asarray(kernel).reshape(-1, kernel.shape[-1]), 2)
        (sigma,) = (
            leaf
            for path, leaf in jax.tree_util.tree_leaves_with_path(
                variables["spectral"][f"spectral_{i}"]
            )
            if "sigma" in jax.tree_util.keystr(path)
        )
        np.testing.assert_allclose(sigma, largest, rtol=1e-3)
    # Ten times the kernels is the same network.
    tenfold = jax.tree.map(lambda a: 10 * a if a.ndim == 4 else a, variables["params"])
    np.testing.assert_allclose(
        model.apply({**variables, "params": tenfold}, x, train=False),
        model.apply(variables, x, train=False),
        atol=1e-5,
    )


def test_evaluation_leaves_the_power_iteration_alone():
    model = PatchDiscriminator(widths=NARROW, norm="none", spectral_norm=True)
    x = jax.random.uniform(jax.random.key(0), (1, 32, 32, 3))
    variables = jax.jit(partial(model.init, train=False))(jax.random.key(1), x)
    _, same = model.apply(variables, x, train=False, mutable=["spectral"])
    jax.tree.map(np.testing.assert_array_equal, same["spectral"], variables["spectral"])
    _, moved = model.apply(variables, x, train=True, mutable=["spectral"])
    for i in range(4):  # the last kernel has one column, and so no direction to learn
        name = f"spectral_{i}"
        vector = f"conv_{i}/kernel/u"
        assert (moved["spectral"][name][vector] != same["spectral"][name][vector]).any()


@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
def test_norms_and_extra_channels(norm):
    model = PatchDiscriminator(widths=NARROW, norm=norm)
    x = jax.random.uniform(jax.random.key(0), (2, 32, 32, 5))
    y, variables = jax.jit(partial(model.init_with_output, train=True))(jax.random.key(1), x)
    assert y.shape == (2, 2, 2, 1)
    assert ("batch_stats" in variables) == (norm == "batch")


def test_an_image_that_leaves_no_patch_is_refused():
    network = PatchDiscriminator(widths=(4, 8, 8))
    init = partial(network.init, jax.random.key(0), train=False)
    jax.eval_shape(init, jnp.zeros((1, 12, 12, 3)))
    with pytest.raises(ValueError, match=r"12 x 11 px leave .* no patch: it needs 12 x 12 px or"):
        jax.eval_shape(init, jnp.zeros((1, 12, 11, 3)))
