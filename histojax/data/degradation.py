"""How a low-resolution image is made from its high-resolution original.

Axes: H, W pixels of the hr image, r the scale factor, C channels. Every function runs on NumPy
arrays (the host, where Pillow does the resizing) and on jax.numpy arrays (inside a jitted step,
where each axis is one product with a static weight matrix); the array given decides.

Degradations, by name:

    bicubic      Pillow's antialiased bicubic (a = -0.5) to H/r x W/r, rounded to uint8. This is
                 the degradation of the super-resolution benchmarks.
    bilinear     The same with Pillow's antialiased triangle kernel.
    microscope   In this order, each step with its own probability:
                 1. Gaussian blur, sigma uniform in `blur_sigma` hr pixels, half-sample symmetric
                    borders (a defocused or weak objective);
                 2. reduction by r with the antialiased `kernel`;
                 3. read noise, white and Gaussian, sigma uniform in `noise_sigma` grey levels of
                    255; and shot noise, the Gaussian limit of a Poisson law with N photons at
                    white, N uniform in `photons`: variance x / N at intensity x in [0, 1];
                 4. rounding to uint8;
                 5. JPEG with 4:2:0 chroma, quality uniform in `jpeg_quality` (host only).
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from histojax.errors import UserError

NAMES = ("bicubic", "bilinear", "microscope")
SCALES = (2, 3, 4, 8)
_UNIFORMS = 8


def _box(x: np.ndarray) -> np.ndarray:
    return ((x > -0.5) & (x <= 0.5)).astype(np.float64)


def _bilinear(x: np.ndarray) -> np.ndarray:
    return np.maximum(1.0 - np.abs(x), 0.0)


def _bicubic(x: np.ndarray) -> np.ndarray:
    x = np.abs(x)
    inner = (1.5 * x - 2.5) * x * x + 1.0
    outer = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return np.where(x < 1.0, inner, np.where(x < 2.0, outer, 0.0))


def _lanczos3(x: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) < 3.0, np.sinc(x) * np.sinc(x / 3.0), 0.0)


# name: (kernel, its radius, Pillow's filter)
_KERNELS = {
    "bicubic": (_bicubic, 2.0, Image.Resampling.BICUBIC),
    "bilinear": (_bilinear, 1.0, Image.Resampling.BILINEAR),
    "box": (_box, 0.5, Image.Resampling.BOX),
    "lanczos3": (_lanczos3, 3.0, Image.Resampling.LANCZOS),
}
KERNELS = tuple(_KERNELS)


def _check_kernel(kernel: str) -> None:
    if kernel not in _KERNELS:
        raise UserError(f"resampling kernel {kernel!r} is unknown; choose one of {list(KERNELS)}")


def _check_scale(scale: int) -> None:
    if scale not in SCALES:
        raise UserError(f"scale factor {scale!r} is not supported; choose one of {list(SCALES)}")


def check_size(height: int, width: int, scale: int) -> None:
    """Raises UserError unless an hr image of `height` x `width` px can be reduced by `scale`."""
    if height % scale or width % scale or not height or not width:
        raise UserError(
            f"an hr image of {height}x{width} pixels cannot be reduced by {scale}; crop it to a "
            f"multiple of {scale} on both sides"
        )


@functools.lru_cache(maxsize=64)
def resize_weights(size_in: int, size_out: int, kernel: str) -> np.ndarray:
    """The matrix of Pillow's antialiased resampling along one axis.

    Args:
      size_in: length of the axis before, in pixels.
      size_out: length of the axis after.
      kernel: one of `KERNELS`.

    Returns:
      float32 (size_out, size_in), read-only; every row sums to 1. The kernel is stretched by
      size_in / size_out when reducing, cut at the borders and renormalised there (Pillow,
      src/libImaging/Resample.c, precompute_coeffs).
    """
    _check_kernel(kernel)
    function, radius, _ = _KERNELS[kernel]
    ratio = size_in / size_out
    stretch = max(ratio, 1.0)
    center = (np.arange(size_out)[:, None] + 0.5) * ratio
    first = np.maximum((center - radius * stretch + 0.5).astype(np.int64), 0)
    last = np.minimum((center + radius * stretch + 0.5).astype(np.int64), size_in)
    pixel = np.arange(size_in)[None, :]
    weights = function((pixel - center + 0.5) / stretch)
    weights = np.where((pixel >= first) & (pixel < last), weights, 0.0)
    weights = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    weights.flags.writeable = False
    return weights


def _round_to_uint8(x: Any) -> Any:
    """Float (...) in grey levels -> uint8, halves upwards as Pillow rounds."""
    xp = x.__array_namespace__()
    return xp.floor(xp.clip(x, 0.0, 255.0) + 0.5).astype(xp.uint8)


def _along_height(weights: Any, x: Any) -> Any:
    """weights (O, H) over axis -3 of x (..., H, W, C) -> (..., O, W, C)."""
    xp = x.__array_namespace__()
    if xp is np:
        flat = x.reshape(*x.shape[:-2], x.shape[-2] * x.shape[-1])
        return np.matmul(weights, flat).reshape(*x.shape[:-3], len(weights), *x.shape[-2:])
    return xp.einsum("oh,...hwc->...owc", weights, x, precision="highest")


def _along_width(weights: Any, x: Any) -> Any:
    """weights (O, W) over axis -2 of x (..., H, W, C) -> (..., H, O, C)."""
    xp = x.__array_namespace__()
    if xp is np:
        return np.matmul(weights, x)
    return xp.einsum("ow,...hwc->...hoc", weights, x, precision="highest")


def _pillow_resize(image: np.ndarray, height: int, width: int, kernel: str) -> np.ndarray:
    """(H, W, C) uint8 or float32 -> (height, width, C) of the same dtype, by Pillow."""
    resample = _KERNELS[kernel][2]
    size = (width, height)
    if image.dtype == np.uint8 and image.shape[-1] == 3:
        contiguous = np.ascontiguousarray(image)
        return np.asarray(Image.fromarray(contiguous).resize(size, resample))
    planes = (np.ascontiguousarray(image[..., c]) for c in range(image.shape[-1]))
    resized = [np.asarray(Image.fromarray(plane).resize(size, resample)) for plane in planes]
    return np.stack(resized, axis=-1)


def _resize(x: Any, height: int, width: int, kernel: str) -> Any:
    xp = x.__array_namespace__()
    quantised = x.dtype == np.uint8
    if xp is np:
        x = x if quantised else x.astype(np.float32)
        images = x.reshape(-1, *x.shape[-3:])
        resized = [_pillow_resize(image, height, width, kernel) for image in images]
        return np.stack(resized).reshape(*x.shape[:-3], height, width, x.shape[-1])
    rows = resize_weights(x.shape[-3], height, kernel)
    columns = resize_weights(x.shape[-2], width, kernel)
    x = _along_width(columns, x.astype(xp.float32))
    if not quantised:
        return _along_height(rows, x)
    # Pillow works along the width first and rounds in between.
    x = _round_to_uint8(x).astype(xp.float32)
    return _round_to_uint8(_along_height(rows, x))


def downsample(hr: Any, scale: int, kernel: str = "bicubic") -> Any:
    """Reduces images by `scale` as Pillow's antialiased `Image.resize` does.

    Args:
      hr: (..., H, W, C) NumPy or JAX array; uint8, or float of any range.
      scale: r, one of `SCALES`; H and W must be multiples of it.
      kernel: one of `KERNELS`.

    Returns:
      (..., H/r, W/r, C): uint8 for uint8, rounded between the axes as Pillow does; float32 for
      float, unrounded, and unclipped (bicubic and lanczos3 overshoot).

    Raises:
      UserError: for an unknown kernel or scale, or a size that is no multiple of the scale.
    """
    _check_kernel(kernel)
    _check_scale(scale)
    height, width = hr.shape[-3:-1]
    check_size(height, width, scale)
    return _resize(hr, height // scale, width // scale, kernel)


def upsample(lr: Any, scale: int, kernel: str = "bicubic") -> Any:
    """Enlarges images by `scale` as Pillow's `Image.resize` does: the bicubic baseline.

    Args:
      lr: (..., h, w, C) NumPy or JAX array; uint8, or float of any range.
      scale: r, one of `SCALES`.
      kernel: one of `KERNELS`.

    Returns:
      (..., h r, w r, C), uint8 for uint8, otherwise float32 (unclipped). A JAX array is multiplied
      by a dense (h r, h) matrix per axis, which suits crops and tiles.

    Raises:
      UserError: for an unknown kernel or scale.
    """
    _check_kernel(kernel)
    _check_scale(scale)
    return _resize(lr, lr.shape[-3] * scale, lr.shape[-2] * scale, kernel)


@dataclasses.dataclass(frozen=True)
class Degradation:
    """A named degradation with its ranges; see the head of this module for each step.

    Attributes:
      name: one of `NAMES`.
      scale: r, one of `SCALES`.
      kernel: the reduction kernel of `microscope` (the other names are their own kernel).
      blur_sigma: range in hr pixels.
      blur_probability: share of the images that are blurred, 0 to 1.
      noise_sigma: range in grey levels of 255, on the lr image.
      noise_probability: share of the images with read noise.
      photons: range of the photon count at white.
      photons_probability: share of the images with shot noise.
      jpeg_quality: range, 1 to 100, whole numbers.
      jpeg_probability: share of the images that pass through JPEG.

    Raises:
      UserError: when a value breaks its rule.
    """

    name: str = "bicubic"
    scale: int = 4
    kernel: str = "bicubic"
    blur_sigma: tuple[float, float] = (0.5, 2.0)
    blur_probability: float = 1.0
    noise_sigma: tuple[float, float] = (0.0, 5.0)
    noise_probability: float = 1.0
    photons: tuple[float, float] = (500.0, 5000.0)
    photons_probability: float = 0.0
    jpeg_quality: tuple[int, int] = (60, 95)
    jpeg_probability: float = 0.5

    def __post_init__(self):
        if self.name not in NAMES:
            raise UserError(f"degradation {self.name!r} is unknown; choose one of {list(NAMES)}")
        _check_scale(self.scale)
        _check_kernel(self.kernel)
        limits = {
            "blur_sigma": (0.0, 64.0),
            "noise_sigma": (0.0, 255.0),
            "photons": (1.0, 1e12),
            "jpeg_quality": (1, 100),
        }
        for field, (least, most) in limits.items():
            value = getattr(self, field)
            if not (
                isinstance(value, (tuple, list))
                and len(value) == 2
                and all(isinstance(v, (int, float)) for v in value)
                and least <= value[0] <= value[1] <= most
            ):
                raise UserError(
                    f"degradation.{field}={value!r} is not a range; give (low, high) with "
                    f"{least:g} <= low <= high <= {most:g}"
                )
            object.__setattr__(self, field, tuple(value))
        for field in ("blur", "noise", "photons", "jpeg"):
            value = getattr(self, f"{field}_probability")
            if not (isinstance(value, (int, float)) and 0.0 <= value <= 1.0):
                raise UserError(
                    f"degradation.{field}_probability={value!r} is not a probability; "
                    "give a number from 0 to 1"
                )

    @classmethod
    def from_config(cls, config: Mapping[str, Any] | None, scale: int) -> Degradation:
        """Reads `config.data.degradation`; fields left out keep their defaults.

        Raises:
          UserError: for an unknown field or a value that breaks its rule.
        """
        values = dict(config.items()) if config is not None else {}
        known = [field.name for field in dataclasses.fields(cls) if field.name != "scale"]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise UserError(f"degradation has no field {unknown[0]!r}; its fields are {known}")
        return cls(**values, scale=scale)


def runs_on_device(degradation: Degradation) -> bool:
    """Whether `degrade` can be traced by JAX: everything except JPEG can."""
    return degradation.name != "microscope" or degradation.jpeg_probability == 0


def evaluation_rng(seed: int, name: str) -> np.random.Generator:
    """The generator that degrades the image called `name` for evaluation, always alike."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, np.uint32))


def sample_parameters(
    degradation: Degradation, rng: Any, shape: tuple[int, int, int]
) -> dict[str, Any]:
    """Draws what is random about one image's degradation.

    Args:
      degradation: what to draw for.
      rng: np.random.Generator (host), or a JAX key (inside a jitted function).
      shape: (h, w, C) of the lr image.

    Returns:
      {} for the fixed degradations; for `microscope` scalars "blur_sigma" (hr px, 0 for none),
      "noise_sigma" (grey levels), "inverse_photons" (0 for no shot noise), "jpeg_quality" (0 for
      none), and "noise", float32 `shape` of unit variance.
    """
    if degradation.name != "microscope":
        return {}
    if isinstance(rng, np.random.Generator):
        u = rng.random(_UNIFORMS, dtype=np.float32)
        noise = rng.standard_normal(shape, dtype=np.float32)
    else:
        import jax

        uniform_key, noise_key = jax.random.split(rng)
        u = jax.random.uniform(uniform_key, (_UNIFORMS,), dtype=np.float32)
        noise = jax.random.normal(noise_key, shape, dtype=np.float32)
    xp = u.__array_namespace__()

    def within(bounds, i):
        return bounds[0] + (bounds[1] - bounds[0]) * u[i]

    d = degradation
    quality = xp.floor(d.jpeg_quality[0] + (d.jpeg_quality[1] - d.jpeg_quality[0] + 1) * u[6])
    return {
        "blur_sigma": xp.where(u[1] < d.blur_probability, within(d.blur_sigma, 0), 0.0),
        "noise_sigma": xp.where(u[3] < d.noise_probability, within(d.noise_sigma, 2), 0.0),
        "inverse_photons": xp.where(u[5] < d.photons_probability, 1 / within(d.photons, 4), 0.0),
        "jpeg_quality": xp.where(u[7] < d.jpeg_probability, quality, 0.0).astype(xp.int32),
        "noise": noise,
    }


@functools.lru_cache(maxsize=16)
def _reflected_distances(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distances from pixel i to pixel j and to its mirror images beyond both ends, (size, size)."""
    i, j = np.indices((size, size), dtype=np.int32)
    return np.abs(i - j), i + j + 1, 2 * size - 1 - i - j


def blur_weights(size: int, sigma: Any) -> Any:
    """The matrix of a Gaussian blur along one axis with half-sample symmetric borders.

    Args:
      size: length of the axis in pixels; mirror images of the first order are summed, so sigma
        is to stay below about size / 4.
      sigma: scalar, NumPy or JAX, in pixels; 0 gives the identity.

    Returns:
      float32 (size, size); rows sum to 1.
    """
    xp = sigma.__array_namespace__()
    sigma = xp.maximum(sigma, 1e-3).astype(xp.float32)
    distance = xp.arange(2 * size, dtype=xp.float32)
    # Beyond 13 sigma the value is below the smallest float32 and only costs denormal arithmetic.
    profile = xp.exp(-0.5 * xp.minimum(distance / sigma, 13.0) ** 2)
    profile = xp.where(distance < 13.0 * sigma, profile, 0.0)
    direct, below, above = _reflected_distances(size)
    weights = xp.take(profile, direct) + xp.take(profile, below) + xp.take(profile, above)
    return weights / weights.sum(axis=1, keepdims=True)


def _blurred_reduction(size: int, scale: int, kernel: str, sigma: Any) -> Any:
    """Gaussian blur and then reduction along one axis, as one matrix (size / scale, size)."""
    reduction = resize_weights(size, size // scale, kernel)
    xp = sigma.__array_namespace__()
    if xp is np:
        return reduction @ blur_weights(size, sigma)
    return xp.matmul(reduction, blur_weights(size, sigma), precision="highest")


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """uint8 (H, W, 3) -> the same through JPEG at `quality` 1..100 with 4:2:0 chroma (host)."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "jpeg", quality=int(quality), subsampling="4:2:0")
    return np.asarray(Image.open(buffer))


def degrade(hr: Any, degradation: Degradation, parameters: Mapping[str, Any]) -> Any:
    """Makes the low-resolution image of one high-resolution image.

    Args:
      hr: uint8 (H, W, 3), NumPy or JAX; H and W multiples of the scale.
      degradation: which degradation.
      parameters: what `sample_parameters` drew for this image.

    Returns:
      uint8 (H/r, W/r, 3), of the same kind of array.

    Raises:
      UserError: for a size that is no multiple of the scale, or JPEG on a traced array.
    """
    scale = degradation.scale
    if degradation.name != "microscope":
        return downsample(hr, scale, degradation.name)
    xp = hr.__array_namespace__()
    if xp is not np and not runs_on_device(degradation):
        raise UserError(
            f"degradation.jpeg_probability={degradation.jpeg_probability} needs the host; "
            "set it to 0 or data.placement to 'host'"
        )
    height, width = hr.shape[-3:-1]
    check_size(height, width, scale)
    sigma = parameters["blur_sigma"]
    rows = _blurred_reduction(height, scale, degradation.kernel, sigma)
    columns = (
        rows if width == height else _blurred_reduction(width, scale, degradation.kernel, sigma)
    )
    lr = _along_width(columns, _along_height(rows, hr.astype(xp.float32)))
    read_variance = parameters["noise_sigma"] ** 2
    shot_variance = xp.maximum(lr, 0.0) * (255.0 * parameters["inverse_photons"])
    lr = _round_to_uint8(lr + xp.sqrt(read_variance + shot_variance) * parameters["noise"])
    if xp is np and parameters["jpeg_quality"] > 0:
        lr = jpeg(lr, int(parameters["jpeg_quality"]))
    return lr
