"""ST-LPIPS: how far images are from their original to the eye, by a network calibrated on people.

Its weights are those of the package stlpips-pytorch 0.0.2 (third_party/st_lpips).
"""

import functools
import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from histojax.components import pretrained
from histojax.errors import UserError
from histojax.metrics import image_quality
from histojax.models import st_lpips as network

# Largest side that is compared whole, px: 0.8 GiB, and 5 s of one core for a pair.
_LARGEST = 1024


def st_lpips(enhanced: Mapping[str, np.ndarray], hr: np.ndarray) -> dict[str, float]:
    """ST-LPIPS (AlexNet) of enhanced images to their original, 0 where they are the same.

    All are uint8 RGB (H, W, 3). Images of more than 1,024 px a side are compared in equal parts of
    at most that, averaged by area; NaN where a side is below 21 px. Source: Ghildyal and Liu 2022,
    the form that Zhang et al. 2018, equation 1, gave LPIPS.
    """
    if min(hr.shape[:2]) < network.SMALLEST:
        return dict.fromkeys(enhanced, math.nan)
    sums = dict.fromkeys(enhanced, 0.0)
    for window in _parts(*hr.shape[:2]) if enhanced else ():
        real = _features(_weights(), hr[window])
        for name, image in enhanced.items():
            distance = _distance(_weights(), real, image[window])
            sums[name] += float(distance) * hr[window][..., 0].size / hr[..., 0].size
    return sums


def _parts(height: int, width: int) -> Iterator[tuple[slice, slice]]:
    edges = [np.linspace(0, n, -(-n // _LARGEST) + 1).astype(int) for n in (height, width)]
    rows, columns = ([slice(*pair) for pair in itertools.pairwise(edge)] for edge in edges)
    return itertools.product(rows, columns)


@functools.cache
def _weights() -> dict[str, Any]:
    """{"params": of the network, "heads": weights (C,) of a layer's channels by its name}."""
    path = pretrained.bundled("st_lpips")
    if path is None:
        raise UserError(
            "The weights of ST-LPIPS are missing in third_party: install histojax again"
        )
    arrays = pretrained.read_arrays(path, pretrained.BUNDLED["st_lpips"])
    expected = pretrained.expected("st_lpips")
    return jax.device_put(pretrained.fit_tree(arrays, expected, source=str(path)))


@jax.jit
def _features(weights: dict[str, Any], image: jax.Array) -> Any:
    images = image[None].astype(jnp.float32) / 255
    return network.ShiftTolerantAlexNet().apply({"params": weights["params"]}, images)


@jax.jit
def _distance(weights: dict[str, Any], real: dict[str, jax.Array], image: jax.Array) -> jax.Array:
    return image_quality.feature_distance(_features(weights, image), real, weights["heads"])[0]
