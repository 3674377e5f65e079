"""Random crops, the eight flips and rotations, stain and light jitter, lost sharpness.

An example is a dict of registered arrays of one field of view: "hr" (H, W, 3) uint8 and, where
present, "instances" and "mask" (H, W), and "lr" (H/r, W/r, 3) uint8. Parameters are drawn first,
and applied by functions that run on NumPy arrays (host) and on jax.numpy arrays (jitted) alike.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from histojax.checks import check_fields, check_names, flag, number, pair, ruled, rules_of
from histojax.data import sampling
from histojax.data.degradation_steps import jpeg
from histojax.errors import UserError
from histojax.imaging import resampling
from histojax.stain import hed

IMAGES = ("hr", "lr")
_TWO = np.array([True, True, False])
_SHARE, _PROBABILITY = number(0, below=1), number(0, 1, of="a probability")
_NOWHERE = 9.0  # sides of a crop from its middle


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Ranges of random variation, checked; 0, (1, 1), or (100, 100) of quality, is off.

    Attributes:
        flips: mirror along each axis with probability 1/2.
        vertical_flips: upside down too; with rotations always.
        rotations: turn by a multiple of 90 degrees.
        stain_sigma: scale jitter of each stain, U(1 - s, 1 + s).
        stain_bias: bias jitter of each stain in concentration, U(-b, b).
        own_stains: jitter the two stains of the image itself, the bias in shares of their 99th
            percentile, and not the textbook's three; see `sources.per_image_stains`.
        brightness: shift in shares of the full range, U(-b, b).
        contrast: gain about mid-grey, U(1 - c, 1 + c).
        channel_density: factor of each channel's optical density, evenly in its logarithm.
        zoom: magnification (host only). It changes the pixel size, so it suits segmentation across
            scanners and not super-resolution at a known scale.
        zoom_probability: share of the crops that are zoomed.
        rotate: turn by any angle, U(-r, r) degrees, read out of the whole image (host only).
        translate: shift beyond that of a random crop, U(-t, t) sides of it along each axis (host
            only). What lies outside of the image is black, and background.
        glass: share of the crops of which a part, beyond a straight line, becomes bare glass
            without a nucleus: annotated images hardly show tissue beside glass, and slides do.
        coarse: factor by which hr is reduced and enlarged again, and not its labels (host only): at
            (1, 2) a 40x grid holds the detail of 20x to 40x.
        jpeg_quality: of JPEG with 4:2:0 chroma after it, in half of the crops (host only).
    """

    flips: bool = ruled(True, flag())
    vertical_flips: bool = ruled(True, flag())
    rotations: bool = ruled(True, flag())
    stain_sigma: float = ruled(0.0, _SHARE)
    stain_bias: float = ruled(0.0, _SHARE)
    own_stains: bool = ruled(False, flag())
    brightness: float = ruled(0.0, _SHARE)
    contrast: float = ruled(0.0, _SHARE)
    channel_density: tuple[float, float] = ruled((1.0, 1.0), pair(number(0.01, 10)))
    zoom: tuple[float, float] = ruled((1.0, 1.0), pair(number(0.25, 4)))
    zoom_probability: float = ruled(1.0, _PROBABILITY)
    rotate: float = ruled(0.0, number(0, 180, of="a number of degrees"))
    translate: float = ruled(0.0, _SHARE)
    glass: float = ruled(0.0, _PROBABILITY)
    coarse: tuple[float, float] = ruled((1.0, 1.0), pair(number(1, 8)))
    jpeg_quality: tuple[float, float] = ruled((100, 100), pair(number(1, 100)))

    def __post_init__(self):
        check_fields(self, "augmentation.")
        if self.own_stains and not self.restains:
            raise UserError(
                "augmentation.own_stains=True has nothing to vary: set augmentation.stain_sigma or "
                "stain_bias above 0, or own_stains=False"
            )

    @classmethod
    def from_config(cls, config: Mapping[str, Any] | None) -> "Augmentation":
        """Reads `config.data.augmentation`; UserError for a field unknown or out of range."""
        check_names(config or {}, rules_of(cls), "augmentation.")
        return cls(**(config or {}))

    @property
    def restains(self) -> bool:
        return self.stain_sigma > 0 or self.stain_bias > 0

    @property
    def tints(self) -> bool:
        return self.channel_density != (1.0, 1.0)

    @property
    def zooms(self) -> bool:
        return self.zoom != (1.0, 1.0)

    @property
    def warps(self) -> bool:
        return self.rotate > 0 or self.translate > 0

    @property
    def dulls(self) -> bool:
        return self.coarse != (1.0, 1.0) or self.jpeg_quality != (100, 100)


NONE = Augmentation(flips=False, rotations=False)


def symmetries(augmentation: Augmentation) -> tuple[int, ...]:
    """The indices of `dihedral` that an augmentation draws from, evenly."""
    if augmentation.flips and augmentation.rotations:
        return tuple(range(8))
    if augmentation.flips:
        return (0, 1, 2, 3) if augmentation.vertical_flips else (0, 2)
    if augmentation.rotations:
        return (0, 3, 5, 6)
    return (0,)


def dihedral(image: Any, index: Any) -> Any:
    """One of the eight symmetries of an image (H, W) or (H, W, C); a view for NumPy.

    Bit 2 of the index exchanges rows and columns (of a square JAX array), then bit 0 reverses the
    rows and bit 1 the columns. 3 is the half turn, 5 and 6 are the quarter turns.
    """
    xp = image.__array_namespace__()

    def where(bit: int, moved: Any, still: Any) -> Any:
        if xp is np:
            return moved if index & bit else still
        return xp.where(index & bit, moved, still)

    image = where(4, image.swapaxes(0, 1), image)
    image = where(1, image[::-1], image)
    return where(2, image[:, ::-1], image)


def sample_origin(rng: Any, height: Any, width: Any, crop: int, step: int = 1) -> Any:
    """Draws the upper left corner (y, x) of a crop, int32 (2,), every position alike.

    The image, `height` x `width` px, may be traced and is no smaller than `crop`. The corner is a
    multiple of `step`, so that a registered image at 1/step keeps pace.
    """
    u = sampling.uniform(rng, (2,))
    xp = u.__array_namespace__()
    places = (xp.asarray([height, width]) - crop) // step + 1
    return xp.minimum(xp.floor(u * places).astype(xp.int32), places - 1).astype(xp.int32) * step


def sample_parameters(augmentation: Augmentation, rng: Any) -> dict[str, Any]:
    """Draws one example's augmentation, except for its crop, from a NumPy generator or a JAX key.

    "dihedral" int32 0..7; "alpha" and "beta" float32 (3,) of the stains; "gain" and "shift" float32
    of the light (shift in [-1, 1] of the full range); "zoom" float32. Where these are on: "density"
    float32 (3,); "glass" float32 (5,), see `covered`; "angle" in radians and "offset" (2,) in sides
    of the crop; "coarse", "kernel" "bilinear" or "bicubic", and "jpeg_quality", 0 for none.
    """
    rng, stain_rng = sampling.split(rng, 2)
    if augmentation.tints:
        stain_rng, tint_rng = sampling.split(stain_rng, 2)
    if augmentation.glass > 0:
        rng, glass_rng = sampling.split(rng, 2)
    u = sampling.uniform(rng, (4,))
    xp = u.__array_namespace__()
    allowed = xp.asarray(symmetries(augmentation), dtype=xp.int32)
    low, high = augmentation.zoom
    where_on = {}
    if augmentation.warps:
        v = 2.0 * sampling.uniform(rng, (3,)) - 1.0
        where_on["angle"] = np.deg2rad(augmentation.rotate) * v[0]
        where_on["offset"] = augmentation.translate * v[1:]
    drawn = sampling.uniform(stain_rng, (2, 3))
    stains = hed.jitter_parameters(augmentation.stain_sigma, augmentation.stain_bias, drawn)
    if augmentation.own_stains:
        # What an image's two stains do not explain is left alone.
        stains["alpha"] = xp.where(_TWO, stains["alpha"], 1.0).astype(xp.float32)
        stains["beta"] = xp.where(_TWO, stains["beta"], 0.0).astype(xp.float32)
    if augmentation.dulls:
        w = sampling.uniform(rng, (4,))
        (finest, coarsest), (worst, best) = augmentation.coarse, augmentation.jpeg_quality
        passes = w[2] < 0.5 and worst < 100
        where_on["coarse"] = finest * (coarsest / finest) ** w[0]
        where_on["kernel"] = "bilinear" if w[1] < 0.5 else "bicubic"
        where_on["jpeg_quality"] = int(worst + (best - worst + 1) * w[3]) if passes else 0
    zoom = low * (high / low) ** u[3]
    if augmentation.zoom_probability < 1:
        zoomed = sampling.uniform(rng, (1,))[0] < augmentation.zoom_probability
        zoom = xp.where(zoomed, zoom, 1.0)
    if augmentation.tints:
        least, most = augmentation.channel_density
        where_on["density"] = least * (most / least) ** sampling.uniform(tint_rng, (3,))
    if augmentation.glass > 0:
        g = sampling.uniform(glass_rng, (6,))
        edge = xp.where(g[0] < augmentation.glass, 1.2 * g[1] - 0.6, _NOWHERE)
        place = xp.stack([edge, 2.0 * np.pi * g[2]])
        where_on["glass"] = xp.concatenate([place, 225.0 + 25.0 * g[3:]]).astype(xp.float32)
    return {
        **where_on,
        **stains,
        "dihedral": allowed[xp.floor(u[0] * len(allowed)).astype(xp.int32)],
        "gain": 1.0 + augmentation.contrast * (2.0 * u[1] - 1.0),
        "shift": augmentation.brightness * (2.0 * u[2] - 1.0),
        "zoom": zoom,
    }


def light(image: Any, parameters: Mapping[str, Any]) -> Any:
    """Contrast about mid-grey, then brightness: uint8 (H, W, 3) -> the same.

    round(clip((v - 127.5) gain + 127.5 + 255 shift)), with "gain" and "shift" of `parameters`.
    """
    xp = image.__array_namespace__()
    gray = np.arange(256, dtype=np.float32) if xp is np else image.astype(xp.float32)
    gray = (gray - 127.5) * parameters["gain"] + 127.5 + 255.0 * parameters["shift"]
    gray = xp.floor(xp.clip(gray, 0.0, 255.0) + 0.5).astype(xp.uint8)
    return np.take(gray, image) if xp is np else gray


def tint(image: Any, parameters: Mapping[str, Any]) -> Any:
    """Each channel's optical density times its factor: uint8 (H, W, 3) -> the same.

    round(255 (v / 255)^d), with d of `parameters["density"]`.
    """
    xp = image.__array_namespace__()
    density = xp.asarray(parameters["density"], dtype=xp.float32)
    if xp is np:
        table = np.linspace(0, 1, 256, dtype=np.float32)[:, None] ** density
        table = np.floor(255.0 * table + 0.5).astype(np.uint8)
        return np.stack([table[image[..., channel], channel] for channel in range(3)], -1)
    return xp.floor(255.0 * (image.astype(xp.float32) / 255.0) ** density + 0.5).astype(xp.uint8)


def covered(example: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """An example whose images are bare glass beyond a line, without labels; "labelled" stays.

    "glass" (5,) of `parameters`: how far the line lies from the middle, in sides of the crop, its
    normal in radians from the x axis, and the glass's color in [0, 255].
    """
    height, width = example["hr"].shape[:2]
    xp = example["hr"].__array_namespace__()
    edge, angle, *color = parameters["glass"]
    y = (xp.arange(height)[:, None] + 0.5) / height - 0.5
    x = (xp.arange(width)[None, :] + 0.5) / width - 0.5
    glass = x * xp.cos(angle) + y * xp.sin(angle) > edge
    color = xp.floor(xp.stack(color) + 0.5)

    def fill(array: Any) -> Any:
        image = array.ndim == 3
        filled = xp.where(glass[..., None], color, array) if image else xp.where(glass, 0, array)
        return filled.astype(array.dtype)

    return {k: array if k == "labelled" else fill(array) for k, array in example.items()}


def apply(
    example: Mapping[str, Any], parameters: Mapping[str, Any], augmentation: Augmentation
) -> dict[str, Any]:
    """Moves, recolours and dulls the arrays of an example; NumPy arrays may become views.

    `parameters` are those of `sample_parameters`, with "stains" (3, 3) where they are the image's.
    """
    moved = {name: dihedral(array, parameters["dihedral"]) for name, array in example.items()}
    if augmentation.glass > 0:
        moved = covered(moved, parameters)
    for name in [name for name in IMAGES if name in moved]:
        if augmentation.restains:
            stains = parameters["stains"] if augmentation.own_stains else hed.RGB_FROM_HED
            moved[name] = hed.jitter(moved[name], parameters, stains)
        if augmentation.brightness > 0 or augmentation.contrast > 0:
            moved[name] = light(moved[name], parameters)
        if augmentation.tints:
            moved[name] = tint(moved[name], parameters)
    if augmentation.dulls:
        moved["hr"] = dulled(moved["hr"], parameters)
    return moved


def dulled(image: np.ndarray, parameters: Mapping[str, Any]) -> np.ndarray:
    """uint8 (H, W, 3) with 1 / "coarse" of its resolution and through JPEG -> the same (host)."""
    height, width = image.shape[:2]
    coarse, kernel = float(parameters["coarse"]), parameters["kernel"]
    rows, columns = (max(1, round(side / coarse)) for side in (height, width))
    small = resampling.resize(image, rows, columns, kernel)
    image = resampling.resize(small, height, width, kernel)
    return jpeg(image, parameters["jpeg_quality"]) if parameters["jpeg_quality"] else image


def warped(
    array: np.ndarray, center: tuple[float, float], angle: float, side: float, size: int
) -> np.ndarray:
    """A turned square of an image as (size, size, ...), black, or background, outside of it (host).

    The image is uint8 (H, W, 3), read bilinearly, or labels (H, W) below 2^31, by nearest
    neighbour. The square of `side` px lies about `center` (y, x), px from the upper and left
    border, and is turned by `angle` radians, clockwise as seen.
    """
    scale = side / size
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    y, x = center
    # Pillow maps px centres of the result, (i + 0.5, j + 0.5), to places of the image.
    middle = size / 2
    affine = (cos, -sin, x - middle * (cos - sin), sin, cos, y - middle * (sin + cos))
    method = Image.Resampling.BILINEAR if array.ndim == 3 else Image.Resampling.NEAREST
    # Pillow knows labels as int32 alone.
    source = array if array.ndim == 3 else array.astype(np.int32, copy=False)
    image = Image.fromarray(np.ascontiguousarray(source))
    moved = image.transform((size, size), Image.Transform.AFFINE, affine, resample=method)
    return np.asarray(moved).astype(array.dtype, copy=False)


def resample(array: np.ndarray, size: int) -> np.ndarray:
    """(n, n) labels by nearest neighbour or (n, n, 3) uint8 by bilinear -> side `size` (host)."""
    if array.ndim == 3:
        return resampling.resize(array, size, size, "bilinear")
    return nearest(array, size, size)


def nearest(labels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Labels (h, w) at another size, (height, width), by nearest neighbour (host)."""
    rows = (np.arange(height) * 2 + 1) * labels.shape[0] // (2 * height)
    columns = (np.arange(width) * 2 + 1) * labels.shape[1] // (2 * width)
    return labels[np.ix_(rows, columns)]
