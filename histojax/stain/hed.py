"""Haematoxylin-eosin colour space, and stain jitter in it, on NumPy and jax.numpy arrays alike.

Beer-Lambert: a pixel's optical density OD = -ln(I / I0) is the sum of its stains' concentrations
times the stains' absorption vectors. The vectors are those of Ruifrok and Johnston (Anal. Quant.
Cytol. Histol. 23, 2001) as scikit-image gives them: haematoxylin, eosin and a residual (DAB).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

RGB_FROM_HED = np.array(
    [[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]], dtype=np.float64
)

# A quarter of a grey level: black keeps a finite density and still rounds back to 0.
DARKEST = 0.25 / 255.0
# Mean optical density at which the stain bias acts at half its strength; blank glass lies near
# 0.03, pale cytoplasm near 0.2, a nucleus near 0.8.
TISSUE_DENSITY = 0.2

_DENSITY_OF_GRAY = -np.log(np.maximum(np.arange(256) / 255.0, DARKEST)).astype(np.float32)


def optical_density(rgb: Any) -> Any:
    """-ln(max(rgb, DARKEST)) of uint8, or float in [0, 1]: float32 in [0, 6.93], same shape."""
    xp = rgb.__array_namespace__()
    if xp is np and rgb.dtype == np.uint8:
        return np.take(_DENSITY_OF_GRAY, rgb)
    if rgb.dtype == np.uint8:
        rgb = rgb.astype(xp.float32) / 255.0
    return -xp.log(xp.maximum(rgb.astype(xp.float32), DARKEST))


def _product(x: Any, matrix: Any) -> Any:
    xp = x.__array_namespace__()
    matrix = xp.asarray(matrix, dtype=xp.float32)
    return x @ matrix if xp is np else xp.matmul(x, matrix, precision="highest")


def jitter_parameters(stain_sigma: float, stain_bias: float, uniform: Any) -> dict[str, Any]:
    """One image's stain jitter (Tellez et al., IEEE Trans. Med. Imaging 37, 2018).

    The scale "alpha" ~ U(1 - s, 1 + s), 0 <= s < 1, and the bias "beta" ~ U(-b, b), in
    concentration: float32 (3,) each, made of `uniform`, float32 (2, 3) drawn from [0, 1).
    """
    u = 2.0 * uniform - 1.0
    return {"alpha": 1.0 + stain_sigma * u[0], "beta": stain_bias * u[1]}


def jitter(rgb: Any, parameters: Mapping[str, Any], stains: Any = RGB_FROM_HED) -> Any:
    """Scales and shifts the stain concentrations of an image, (H, W, 3) of the same dtype.

    The concentrations become alpha c + w beta, "alpha" and "beta" of `jitter_parameters`. The
    weight w = d^2 / (d^2 + TISSUE_DENSITY^2), d the mean optical density of the pixel, keeps the
    bias from blank glass: white stays white exactly.

    Args:
        rgb: uint8, or float in [0, 1], which becomes float32; NumPy or JAX.
        stains: float (3, 3), an absorption vector a row, linearly independent; NumPy, or traced.
    """
    xp = rgb.__array_namespace__()
    quantized = rgb.dtype == np.uint8
    alpha, beta = parameters["alpha"], parameters["beta"]
    # It acts on (R, G, B, w): alpha by way of the stain space, and beta as a fourth column.
    inverse = stains.__array_namespace__().linalg.inv(stains)
    unmixing = xp.asarray(inverse, dtype=xp.float32)
    stains = xp.asarray(stains, dtype=xp.float32)
    mixing = _product(unmixing, alpha[:, None] * stains)
    matrix = xp.concatenate([mixing, _product(beta, stains)[None, :]]).T.astype(xp.float32)
    if xp is np and quantized:
        return _jitter_planes(rgb, matrix)
    density = optical_density(rgb)
    squared = xp.square(density.mean(axis=-1, keepdims=True))
    weight = squared / (squared + TISSUE_DENSITY**2)
    density = _product(xp.concatenate([density, weight], axis=-1), matrix.T)
    out = xp.clip(xp.exp(-density), 0.0, 1.0)
    return xp.floor(out * 255.0 + 0.5).astype(xp.uint8) if quantized else out


def _jitter_planes(rgb: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """`jitter` of uint8 on the host: plane by plane, in place, twice as fast as pixel by pixel."""
    height, width, _ = rgb.shape
    planes = np.empty((4, height * width), np.float32)
    # Every uint8 is a valid index; mode="clip" only spares NumPy a buffered copy of the output.
    channels = rgb.transpose(2, 0, 1).reshape(3, -1)
    np.take(_DENSITY_OF_GRAY, channels, out=planes[:3], mode="clip")
    weight = planes[3]
    np.add(planes[0], planes[1], out=weight)
    weight += planes[2]
    np.square(weight, out=weight)
    weight /= weight + np.float32((3.0 * TISSUE_DENSITY) ** 2)
    gray = matrix @ planes
    np.negative(gray, out=gray)
    np.exp(gray, out=gray)
    gray *= 255.0
    gray += 0.5
    np.minimum(gray, 255.0, out=gray)
    # The cast truncates, which after + 0.5 is rounding.
    quantized = gray.astype(np.uint8).reshape(3, height, width)
    return np.stack([*quantized], axis=-1)
