import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import correlate2d

from histojax.models import st_lpips


def test_a_blur_halves_what_is_reflected():
    x = np.random.default_rng(0).random((1, 7, 8, 2), np.float32)
    found = st_lpips._halved(jnp.asarray(x))
    kernel = np.outer([1, 2, 1], [1, 2, 1]) / 16
    for channel in range(2):
        padded = np.pad(x[0, ..., channel], 2, mode="reflect")
        expected = correlate2d(padded, kernel, "valid")[::2, ::2]
        np.testing.assert_allclose(found[0, ..., channel], expected, rtol=1e-6)


@pytest.mark.parametrize("side", [st_lpips.SMALLEST, 64])
def test_maps_have_the_sizes_of_their_steps(side):
    images = jax.ShapeDtypeStruct((1, side, side + 3, 3), jnp.float32)
    network = st_lpips.ShiftTolerantAlexNet()
    found, variables = jax.eval_shape(
        lambda x: network.init_with_output(jax.random.key(0), x), images
    )
    counts = [leaf.size for leaf in jax.tree.leaves(variables)]
    assert sum(counts) == 2_469_696
    sizes = []
    for n in (side, side + 3):
        # The convolution takes 6 px, a maximum 2; a blur over n + 4 px leaves every second.
        first = (n - 6 + 1) // 2 + 1
        second = (first - 2 + 1) // 2 + 1
        sizes.append((first, second, *[(second - 2 + 1) // 2 + 1] * 3))
    assert [found[layer].shape[1:3] for layer in st_lpips.LAYERS] == list(zip(*sizes, strict=True))
    assert [found[layer].shape[3] for layer in st_lpips.LAYERS] == [64, 192, 384, 256, 256]
