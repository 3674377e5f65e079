import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.color

from histojax.stain import hed


@pytest.fixture(scope="module")
def colors():
    """uint8 (256, 256, 3) with every grey level in every channel, black and white among them."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (256, 256, 3), dtype=np.uint8)
    image[0], image[1] = 0, 255
    image[2] = np.arange(256)[:, None]
    return image


def jittered(rgb, alpha=(1, 1, 1), beta=(0, 0, 0)):
    return hed.jitter(
        rgb, {"alpha": np.array(alpha, np.float32), "beta": np.array(beta, np.float32)}
    )


def test_the_vectors_are_scikit_images():
    np.testing.assert_allclose(hed.RGB_FROM_HED, skimage.color.rgb_from_hed)


def test_no_jitter_is_the_identity(colors):
    np.testing.assert_array_equal(jittered(colors), colors)
    np.testing.assert_array_equal(jittered(jnp.asarray(colors)), colors)
    floats = colors.astype(np.float32) / 255
    np.testing.assert_allclose(jittered(floats), np.maximum(floats, hed.DARKEST), atol=1e-5)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_alpha_scales_one_stain_alone(which):
    concentration, alpha = 0.4, np.ones(3)
    alpha[which] = 1.5
    for other in range(3):
        rgb = np.exp(-concentration * hed.RGB_FROM_HED[other]).astype(np.float32)
        factor = 1.5 if other == which else 1.0
        expected = np.exp(-factor * concentration * hed.RGB_FROM_HED[other])
        got = jittered(np.broadcast_to(rgb, (2, 2, 3)), alpha=alpha)
        np.testing.assert_allclose(got, np.broadcast_to(expected, (2, 2, 3)), atol=1e-5)


def test_beta_shifts_tissue_by_its_share():
    # Mean density 0.6 is three times TISSUE_DENSITY, so 9/10 of the bias acts.
    rgb = np.full((1, 1, 3), np.exp(-0.6), np.float32)
    expected = np.exp(-(0.6 + 0.9 * 0.1 * hed.RGB_FROM_HED[1]))
    np.testing.assert_allclose(jittered(rgb, beta=(0, 0.1, 0))[0, 0], expected, atol=1e-5)


@pytest.mark.faults
def test_glass_is_not_tinted():
    for beta in ((0.1, 0.1, 0.1), (-0.1, 0.1, -0.1)):
        white = np.full((4, 4, 3), 255, np.uint8)
        np.testing.assert_array_equal(jittered(white, (1.3, 0.7, 1.3), beta), white)
        glass = np.full((4, 4, 3), 245, np.uint8)
        change = jittered(glass, (1, 1, 1), beta).astype(int) - 245
        # Density 0.04: weight 0.038, times at most 0.1 x 2.26, is 0.9 % of 245.
        assert np.abs(change).max() <= 2


@pytest.mark.faults
@pytest.mark.parametrize("level", [0, 1, 127, 255])
def test_constant_images_stay_finite(level):
    image = np.full((8, 8, 3), level, np.uint8)
    for beta in (0.3, -0.3):
        for namespace in (np, jnp):
            floats = namespace.asarray(image / 255, dtype=np.float32)
            out = np.asarray(jittered(floats, (1.5, 0.5, 1.2), (beta, -beta, beta)))
            assert np.isfinite(out).all()
            assert out.min() >= 0
            assert out.max() <= 1
            again = jittered(namespace.asarray(image), (1.5, 0.5, 1.2), (beta, -beta, beta))
            assert np.ptp(np.asarray(again).reshape(-1, 3), axis=0).max() == 0


def test_host_and_device_agree(colors):
    rng = np.random.default_rng(1)
    for _ in range(5):
        parameters = hed.jitter_parameters(0.3, 0.1, rng.random((2, 3), np.float32))
        on_host = hed.jitter(colors, parameters)
        on_device = np.asarray(jax.jit(hed.jitter)(colors, parameters))
        assert on_host.dtype == on_device.dtype == np.uint8
        difference = np.abs(on_host.astype(int) - on_device)
        assert difference.max() <= 1
        assert difference.mean() < 1e-3
        floats = hed.jitter(colors.astype(np.float32) / 255, parameters)
        assert np.abs(floats * 255 - on_host).max() < 0.51


def test_views_give_what_copies_give(colors):
    parameters = hed.jitter_parameters(
        0.3, 0.1, np.random.default_rng(1).random((2, 3), np.float32)
    )
    view = colors[::-1, 5:200].swapaxes(0, 1)
    np.testing.assert_array_equal(hed.jitter(view, parameters), hed.jitter(view.copy(), parameters))


def test_drawn_parameters_fill_their_ranges():
    rng = np.random.default_rng(0)
    host = [hed.jitter_parameters(0.2, 0.05, rng.random((2, 3), np.float32)) for _ in range(2000)]
    host = {name: np.stack([p[name] for p in host]) for name in ("alpha", "beta")}
    keys = jax.random.split(jax.random.key(0), 2000)
    device = jax.jit(
        jax.vmap(lambda key: hed.jitter_parameters(0.2, 0.05, jax.random.uniform(key, (2, 3))))
    )(keys)
    for drawn in (host, device):
        alpha, beta = np.asarray(drawn["alpha"]), np.asarray(drawn["beta"])
        assert alpha.shape == beta.shape == (2000, 3)
        assert 0.8 <= alpha.min() < 0.805 < 1.195 < alpha.max() <= 1.2
        assert -0.05 <= beta.min() < -0.049 < 0.049 < beta.max() <= 0.05
        np.testing.assert_allclose(alpha.mean(0), 1, atol=0.01)
        assert np.abs(np.corrcoef(np.concatenate([alpha, beta], 1).T) - np.eye(6)).max() < 0.1
