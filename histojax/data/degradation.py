"""How a low-resolution image is made from its high-resolution original.

Axes: H, W pixels of the hr image, h, w of the lr image, r the scale factor, C channels. The first
three degradations run on NumPy arrays (the host) and on jax.numpy arrays (inside a jitted step);
the array given decides. The last two run on the host only, because sizes are drawn in them.

Degradations, by name:

    bicubic        Pillow's antialiased bicubic (a = -0.5) to H/r x W/r, rounded to uint8. This is
                   the degradation of the super-resolution benchmarks.
    bilinear       The same with Pillow's antialiased triangle kernel.
    microscope     In this order, each step with its own probability:
                   1. Gaussian blur, sigma uniform in `blur_sigma` hr pixels, half-sample symmetric
                      borders (a defocused or weak objective);
                   2. reduction by r with the antialiased `kernel`;
                   3. read noise, white and Gaussian, sigma uniform in `noise_sigma` grey levels of
                      255; and shot noise of N photons at white, N uniform in `photons`;
                   4. rounding to uint8;
                   5. JPEG with 4:2:0 chroma, quality uniform in `jpeg_quality` (host only).
    blind          The same steps, in the manner of Zhang et al. 2021 (BSRGAN) and Wang et al. 2021
                   (Real-ESRGAN, equation 1): the blur is anisotropic and turned at random in a
                   share of the images, and the kernel of the reduction is drawn from `kernels`.
    second_order   `blind` twice (Wang et al. 2021, section 3.2): to an image of `resize` times the
                   lr image's side, and from there, with the fields `second_*`, to the lr image.
                   Its last two steps are a ringing sinc filter (section 3.3) and JPEG, in an order
                   drawn by a coin.

A share `clean_probability` of the last three's images is made by `bicubic` instead, whatever their
kernels, so that an enhancer meets sharp images too.

The ranges are those of microscopes and of the software behind them, and not of photographs in the
web. Blur is Gaussian alone, being an objective's point spread or its defocus: nothing moves on the
stage. Noise is independent from channel to channel, as a camera's is; photons are counted once, so
there is no shot noise in the second order. Nothing is enlarged above the hr image, which is the
scanner's own resolution, and no kernel picks single pixels, which would shift the image. JPEG is
that of slide scanners, 60 to 95, and ringing, which sharpening leaves, is rare.

`blind` and `second_order` take 5 to 8 times the CPU time of `microscope`, most of it for the blur,
which is an FFT.
"""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from histojax.checks import Rule, check_fields, check_names, number, one_of, pair, ruled, rules_of
from histojax.data import sampling
from histojax.data.degradation_steps import (
    blur_weights,
    filtered,
    gaussian_filter,
    jpeg,
    noisy,
    sinc_filter,
)
from histojax.imaging import resampling

FIXED = ("bicubic", "bilinear")  # nothing is drawn, and no other field is used
NAMES = (*FIXED, "microscope", "blind", "second_order")
# Steps with a probability of their own, in both orders.
_STEPS = ("blur", "noise", "photons", "jpeg")
_KERNEL, _SHARE = one_of(resampling.KERNELS), number(0, 1)
_KERNELS = Rule(
    f"has to be a list of kernels, one or more of {', '.join(resampling.KERNELS)}",
    lambda v: isinstance(v, (tuple, list)) and len(v) > 0 and all(map(_KERNEL.holds, v)),
)
_SIGMA, _LEVELS = pair(number(0, 64)), pair(number(0, 255))
_PHOTONS, _QUALITY = pair(number(1, 1e12)), pair(number(1, 100))


@dataclasses.dataclass(frozen=True)
class Degradation:
    """A named degradation with its ranges, checked; see the head of this module for each step.

    A `*_probability` is the share of the images that pass through a step, a `second_*` field of the
    second order, whose input pixels are those in between.

    Attributes:
        blur_sigma: of both widths where the blur is anisotropic.
        anisotropic_probability: share of the blurs with two widths, in both orders; not in
            `microscope`.
        resize: side between the two orders, in sides of the lr image; cut at the hr image's.
        sinc_cutoff: frequency that rings, in shares of the lr image's Nyquist frequency.
    """

    name: str = ruled("bicubic", one_of(NAMES))
    scale: int = 4
    clean_probability: float = ruled(0.0, _SHARE)
    kernel: str = ruled("bicubic", _KERNEL)
    kernels: tuple[str, ...] = ruled(("bicubic", "bilinear", "box"), _KERNELS)
    blur_sigma: tuple[float, float] = ruled((0.5, 2.0), _SIGMA)
    blur_probability: float = ruled(1.0, _SHARE)
    anisotropic_probability: float = ruled(0.5, _SHARE)
    noise_sigma: tuple[float, float] = ruled((0.0, 5.0), _LEVELS)
    noise_probability: float = ruled(1.0, _SHARE)
    photons: tuple[float, float] = ruled((1000.0, 20000.0), _PHOTONS)
    photons_probability: float = ruled(0.5, _SHARE)
    jpeg_quality: tuple[int, int] = ruled((60, 95), _QUALITY)
    jpeg_probability: float = ruled(0.5, _SHARE)
    resize: tuple[float, float] = ruled((1.0, 2.0), pair(number(0.25, 8)))
    second_blur_sigma: tuple[float, float] = ruled((0.2, 1.0), _SIGMA)
    second_blur_probability: float = ruled(0.5, _SHARE)
    second_noise_sigma: tuple[float, float] = ruled((0.0, 3.0), _LEVELS)
    second_noise_probability: float = ruled(0.5, _SHARE)
    second_photons: tuple[float, float] = ruled((1000.0, 20000.0), _PHOTONS)
    second_photons_probability: float = ruled(0.0, _SHARE)
    second_jpeg_quality: tuple[int, int] = ruled((60, 95), _QUALITY)
    second_jpeg_probability: float = ruled(0.5, _SHARE)
    sinc_probability: float = ruled(0.3, _SHARE)
    sinc_cutoff: tuple[float, float] = ruled((0.5, 1.0), pair(number(0.1, 1)))

    def __post_init__(self):
        check_fields(self, "degradation.")
        resampling.check_scale(self.scale)

    @classmethod
    def from_config(cls, config: Mapping[str, Any] | None, scale: int) -> "Degradation":
        """Reads `config.data.degradation`; UserError for a field unknown or out of range."""
        check_names(config or {}, rules_of(cls), "degradation.")
        return cls(**(config or {}), scale=scale)


def needs_host(degradation: Degradation) -> str | None:
    """What keeps `degrade` out of a jitted step, in words, or None."""
    if degradation.name in ("blind", "second_order"):
        return f"the degradation {degradation.name!r} runs on the host only"
    if degradation.name == "microscope" and degradation.jpeg_probability > 0:
        return "JPEG degradation runs on the host only (degradation.jpeg_probability=0 drops it)"
    return None


def evaluation_rng(seed: int, name: str) -> np.random.Generator:
    """The generator that degrades the image called `name` for evaluation, always alike."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, np.uint32))


def sample_parameters(
    degradation: Degradation, rng: Any, shape: tuple[int, int, int]
) -> dict[str, Any]:
    """Draws what is random about one image's degradation; `shape` is (h, w, C) of the lr image.

    `rng` is a NumPy generator (host), or a JAX key inside a jitted function (`needs_host`: never).
    {} for the fixed degradations. For `microscope` scalars "blur_sigma" (hr px), "noise_sigma"
    (grey levels), "inverse_photons" and "jpeg_quality", each 0 for none, and "noise", float32
    `shape` of unit variance. For `blind` and `second_order` "orders", each with these but, for the
    sigma, "blur" (a filter (K, K) or None), and with "kernel" and "noise" of the size that the
    order makes; "sinc" (a filter or None) and "jpeg_last". Where clean_probability > 0 also
    "clean", for these two alone where it is true.
    """
    if degradation.name in FIXED:
        return {}
    clean = {}
    if degradation.clean_probability > 0:
        rng, clean_rng = sampling.split(rng, 2)
        clean["clean"] = sampling.uniform(clean_rng, ()) < degradation.clean_probability
    if degradation.name == "microscope":
        return clean | _sample_microscope(degradation, rng, shape)
    if clean.get("clean"):
        return clean
    if degradation.name == "blind":
        orders = [_sample_order(degradation, "", rng, shape)]
        return {"orders": orders, "sinc": None, "jpeg_last": True}
    factor = min(rng.uniform(*degradation.resize), degradation.scale)
    between = (max(1, round(shape[0] * factor)), max(1, round(shape[1] * factor)), shape[2])
    orders = [
        _sample_order(degradation, "", rng, between),
        _sample_order(degradation, "second_", rng, shape),
    ]
    rings = rng.random() < degradation.sinc_probability
    return {
        "orders": orders,
        "sinc": sinc_filter(rng.uniform(*degradation.sinc_cutoff)) if rings else None,
        "jpeg_last": rng.random() < 0.5,
    }


def _sample_microscope(d: Degradation, rng: Any, shape: tuple[int, int, int]) -> dict[str, Any]:
    uniform_rng, noise_rng = sampling.split(rng, 2)
    u = sampling.uniform(uniform_rng, (2 * len(_STEPS),))
    xp = u.__array_namespace__()

    def within(bounds, i):
        return bounds[0] + (bounds[1] - bounds[0]) * u[i]

    quality = xp.floor(d.jpeg_quality[0] + (d.jpeg_quality[1] - d.jpeg_quality[0] + 1) * u[6])
    return {
        "blur_sigma": xp.where(u[1] < d.blur_probability, within(d.blur_sigma, 0), 0.0),
        "noise_sigma": xp.where(u[3] < d.noise_probability, within(d.noise_sigma, 2), 0.0),
        "inverse_photons": xp.where(u[5] < d.photons_probability, 1 / within(d.photons, 4), 0.0),
        "jpeg_quality": xp.where(u[7] < d.jpeg_probability, quality, 0.0).astype(xp.int32),
        "noise": sampling.normal(noise_rng, shape),
    }


def _sample_order(
    degradation: Degradation, order: str, rng: np.random.Generator, shape: tuple[int, int, int]
) -> dict[str, Any]:
    """Draws one order of `blind`; `order` is the prefix of its fields, `shape` what it makes."""

    def field(name: str) -> Any:
        return getattr(degradation, order + name)

    def happens(step: str) -> bool:
        return rng.random() < field(f"{step}_probability")

    blur = None
    if happens("blur"):
        narrowest, widest = field("blur_sigma")
        along, across = rng.uniform(narrowest, widest, 2)
        if rng.random() >= degradation.anisotropic_probability:
            across = along
        blur = gaussian_filter(max(along, 1e-3), max(across, 1e-3), rng.uniform(0.0, np.pi))
    low, high = (int(quality) for quality in field("jpeg_quality"))
    return {
        "blur": blur,
        "kernel": degradation.kernels[rng.integers(len(degradation.kernels))],
        "noise_sigma": rng.uniform(*field("noise_sigma")) if happens("noise") else 0.0,
        "inverse_photons": 1.0 / rng.uniform(*field("photons")) if happens("photons") else 0.0,
        "jpeg_quality": int(rng.integers(low, high + 1)) if happens("jpeg") else 0,
        "noise": rng.standard_normal(shape, dtype=np.float32),
    }


def degrade(hr: Any, degradation: Degradation, parameters: Mapping[str, Any]) -> Any:
    """uint8 (H, W, 3), NumPy or JAX -> its low-resolution image (H/r, W/r, 3) of the same kind.

    `parameters` is what `sample_parameters` drew for this image.
    """
    if degradation.name in FIXED:
        return resampling.downsample(hr, degradation.scale, degradation.name)
    if isinstance(hr, np.ndarray) and parameters.get("clean"):
        return resampling.downsample(hr, degradation.scale)
    if degradation.name == "microscope":
        return _microscope(hr, degradation, parameters)
    return _in_orders(hr, parameters)


def _microscope(hr: Any, degradation: Degradation, parameters: Mapping[str, Any]) -> Any:
    xp = hr.__array_namespace__()
    sigma = parameters["blur_sigma"]

    def blurred_reduction(size: int) -> Any:
        """Gaussian blur and then reduction along one axis, as one matrix (size / r, size)."""
        reduction = resampling.resize_weights(size, size // degradation.scale, degradation.kernel)
        blur = blur_weights(size, sigma)
        return reduction @ blur if xp is np else xp.matmul(reduction, blur, precision="highest")

    height, width = hr.shape[-3:-1]
    rows = blurred_reduction(height)
    columns = rows if width == height else blurred_reduction(width)
    lr = resampling.along_width(columns, resampling.along_height(rows, hr.astype(xp.float32)))
    camera = (parameters[name] for name in ("noise_sigma", "inverse_photons", "noise"))
    lr = resampling.round_to_uint8(noisy(lr, *camera))
    if xp is np and parameters["jpeg_quality"] > 0:
        lr = jpeg(lr, int(parameters["jpeg_quality"]))
    if xp is not np and "clean" in parameters:  # a traced step makes both
        lr = xp.where(parameters["clean"], resampling.downsample(hr, degradation.scale), lr)
    return lr


def _in_orders(hr: np.ndarray, parameters: Mapping[str, Any]) -> np.ndarray:
    """`blind` and `second_order`: uint8 (H, W, 3) -> uint8 (h, w, 3)."""
    image = hr
    for order in parameters["orders"]:
        image = image.astype(np.float32)
        if order["blur"] is not None:
            image = filtered(image, order["blur"])
        height, width = order["noise"].shape[:2]
        image = resampling.resize(image, height, width, order["kernel"])
        image = noisy(image, order["noise_sigma"], order["inverse_photons"], order["noise"])
        rings = order is parameters["orders"][-1] and parameters["sinc"] is not None
        if rings and parameters["jpeg_last"]:
            image = filtered(image, parameters["sinc"])
        image = resampling.round_to_uint8(image)
        if order["jpeg_quality"]:
            image = jpeg(image, order["jpeg_quality"])
        if rings and not parameters["jpeg_last"]:
            image = resampling.round_to_uint8(
                filtered(image.astype(np.float32), parameters["sinc"])
            )
    return image
