"""The scales of a pyramid: labels of its masks, and images and masks of every size."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from ml_collections import ConfigDict

from histojax.checks import check, one_of, whole
from histojax.components.images import class_heads
from histojax.errors import UserError
from histojax.imaging import resampling
from histojax.models.layers import full_precision
from histojax.models.resizing import upsample

Batch = Mapping[str, jax.Array]
LABELS = ("mask", "contour", "classes")
BASES = ("colors", "tissue", "gray")
# (network name, its inputs) -> (output, statistics).
Run = Callable[[str, tuple[jax.Array, ...]], tuple[Any, Any]]


@dataclasses.dataclass(frozen=True)
class Labels:
    """The C = `count` labels of a mask's pixels.

    `kind` is "mask", background and nucleus; "contour", background, inside and rim, which keeps
    touching nuclei apart; or "classes", the classes of the annotation.
    """

    kind: str
    count: int

    @property
    def fields(self) -> tuple[str, ...]:
        """Batch arrays that the labels are made of."""
        return ("mask", "contour") if self.kind == "contour" else ("mask",)

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of the maps that follow from probabilities of the labels.

        The inside without its rim marks a nucleus; each of several classes has its own map.
        """
        if self.kind == "classes" and self.count > 2:
            return ("mask", *class_heads(self.count))
        return ("mask", "marker") if self.kind == "contour" else ("mask",)

    def one_hot(self, batch: Batch, dtype: jnp.dtype) -> jax.Array:
        """Arrays (B, H, W) of a batch as (B, H, W, C) in {0, 1}."""
        index = batch["mask"].astype(jnp.int32)
        if self.kind != "classes":
            index = (index > 0).astype(jnp.int32)
        if self.kind == "contour":
            index = jnp.where(batch["contour"] > 0, 2 * index, index)
        return jax.nn.one_hot(index, self.count, dtype=dtype)

    def reduced(self, one_hot: jax.Array, factor: int) -> jax.Array:
        """(B, H, W, C) at 1 / factor of the size: the label of each cell's middle, one-hot.

        A nucleus's cell with any px of rim is rim, because the rim would fall to pieces otherwise.
        """
        if factor == 1:
            return one_hot
        middle = one_hot[:, factor // 2 :: factor, factor // 2 :: factor]
        if self.kind != "contour":
            return middle
        window = (factor, factor)
        rim = nn.max_pool(one_hot[..., 2:], window, window) * (1 - middle[..., :1])
        return jnp.concatenate([middle[..., :1], 1 - middle[..., :1] - rim, rim], -1)

    def nuclei_as_one(self, one_hot: jax.Array) -> jax.Array:
        """Labels (B, H, W, C) with rim and inside of "contour" as one; others unchanged."""
        if self.kind != "contour":
            return one_hot
        return jnp.concatenate([one_hot[..., :1], 1 - one_hot[..., :1]], -1)

    def maps(self, probability: jax.Array) -> jax.Array:
        """Probabilities (B, H, W, C) as maps (B, H, W, len(heads))."""
        # After the mask come the labels from 1 on, in their order.
        labels = probability[..., 1 : len(self.heads)]
        return jnp.concatenate([1 - probability[..., :1], labels], -1)


def reduced(image: jax.Array, factor: int) -> jax.Array:
    """Float (B, H, W, 3) at 1 / factor of the size, antialiased bicubic, not rounded, not cut."""
    if factor == 1:
        return image
    height, width = image.shape[1:3]
    return resampling.resize(image, height // factor, width // factor, "bicubic")


def label_colors(image: jax.Array, one_hot: jax.Array) -> jax.Array:
    """Mean colour of each label's pixels: (B, H, W, 3) and (B, H, W, C) -> (B, C, 3) float32.

    A label that is absent from an image has the colour of the whole image.
    """
    image, one_hot = full_precision(image), full_precision(one_hot)
    count = jnp.sum(one_hot, (1, 2))[..., None]
    sums = jnp.einsum("bhwc,bhwd->bcd", one_hot, image, precision="highest")
    whole = jnp.mean(image, (1, 2))[:, None]
    return jnp.where(count > 0, sums / jnp.maximum(count, 1.0), whole)


def moments(image: jax.Array, one_hot: jax.Array) -> jax.Array:
    """Mean and deviation of each label's colours: (B, H, W, 3), (B, H, W, C) -> (B, 2, C, 3).

    A label that is absent from an image has the same moments in all images.
    """
    image, one_hot = full_precision(image), full_precision(one_hot)
    count = jnp.maximum(jnp.sum(one_hot, (1, 2)), 1.0)[..., None]
    mean = jnp.einsum("bhwc,bhwd->bcd", one_hot, image, precision="highest") / count
    # About each pixel's own mean, which loses no digits where the deviation is small.
    off = jnp.square(image - painted(one_hot, mean))
    variance = jnp.einsum("bhwc,bhwd->bcd", one_hot, off, precision="highest") / count
    # The root has no gradient at 0.
    return jnp.stack([mean, jnp.sqrt(variance + 1e-6)], 1)


def painted(one_hot: jax.Array, colors: jax.Array) -> jax.Array:
    """Labels (B, H, W, C) in the colours (B, C, 3) of each: (B, H, W, 3) float32."""
    labels = full_precision(one_hot)
    return jnp.einsum("bhwc,bcd->bhwd", labels, full_precision(colors), precision="highest")


def recolored(image: jax.Array, one_hot: jax.Array, colors: jax.Array) -> jax.Array:
    """An image (B, H, W, 3) whose labels (B, H, W, C) have the mean colours (B, C, 3) instead."""
    return image + painted(one_hot, colors - label_colors(image, one_hot))


def enlarged_to(fine: jax.Array, coarse: jax.Array) -> jax.Array:
    """A coarse image or map at the size of a fine one."""
    return enlarged(coarse, fine.shape[1] // coarse.shape[1])


def enlarged(maps: jax.Array, factor: int) -> jax.Array:
    """(B, H, W, C) factor times as large, bilinear."""
    return maps if factor == 1 else upsample(maps, factor, "bilinear")


def grounds_of(
    base: str, masks: Sequence[jax.Array], colors: jax.Array, tissue: jax.Array | None = None
) -> list[jax.Array | None]:
    """The image that each scale adds to, besides that of the scale below; None: no other image.

    With base="tissue" it is a Laplacian pyramid of the `tissue` (B, H, W, 3) in [0, 1], of the
    crops' size: the lowest scale has the reduced image, each higher scale the residual, so that
    generators that add nothing return the tissue. Mid-grey ("gray") and the masks (B, h, w, C) in
    the colours (B, C, 3) of their labels ("colors") are for the lowest scale, the first, alone.
    """
    dtype = masks[0].dtype
    if base == "tissue":
        assert tissue is not None
        levels = [reduced(tissue, tissue.shape[1] // mask.shape[1]) for mask in masks]
        finer = [high - enlarged_to(high, low) for low, high in itertools.pairwise(levels)]
        return [level.astype(dtype) for level in (levels[0], *finer)]
    lowest = painted(masks[0], colors).astype(dtype)
    if base == "gray":
        lowest = jnp.full((*masks[0].shape[:3], 3), 0.5, dtype)
    return [lowest, *[None] * (len(masks) - 1)]


def generated(
    run: Run,
    grounds: Sequence[jax.Array | None],
    masks: Sequence[jax.Array],
    noises: Sequence[jax.Array],
    real: Sequence[jax.Array] | None = None,
) -> tuple[list[jax.Array], list[jax.Array], dict[str, Any], list[jax.Array]]:
    """Generates images of all scales, lowest first.

    Args:
      run: see `Run`.
      grounds: of `grounds_of`.
      masks, noises: (B, h, w, C) and (B, h, w, 1) of each scale.
      real: images (B, h, w, 3) of each scale, for the mean squares.

    Returns:
      Each scale's image, its difference from the generator's input, statistics by network, and
      the mean square () of the real image's difference from that input.
    """
    images: list[jax.Array] = []
    added, stats, squares = [], {}, []
    below: Any
    for k, (ground, mask, noise) in enumerate(zip(grounds, masks, noises, strict=True)):
        below = ground
        if images:
            below = enlarged_to(mask, images[-1])
            below = below if ground is None else below + ground
        off = below if real is None else real[k] - below
        squares.append(jnp.mean(jnp.square(jax.lax.stop_gradient(off))))
        image, stats[f"generator_{k}"] = run(f"generator_{k}", (below, noise, mask))
        images.append(image)
        added.append(image - below)
    return images, added, stats, squares


def segmented(
    run: Run, images: Sequence[jax.Array], count: int
) -> tuple[list[jax.Array], dict[str, Any]]:
    """Logits (B, h, w, count) of images (B, h, w, 3) of all scales, and statistics by network."""
    logits: list[jax.Array] = []
    stats = {}
    below = jnp.zeros((*images[0].shape[:3], count), images[0].dtype)
    for k, image in enumerate(images):
        if logits:
            below = enlarged_to(image, jax.nn.softmax(logits[-1]))
        found, stats[f"segmenter_{k}"] = run(f"segmenter_{k}", (image, below))
        logits.append(found)
    return logits, stats


@dataclasses.dataclass(frozen=True, eq=False)
class AllScales:
    """Stride, halo and heads of the networks of all scales together, lowest first, for tiles.

    `factors` are the image px in one px of each scale.
    """

    modules: tuple[Any, ...]
    factors: tuple[int, ...]
    heads: tuple[str, ...] = ()

    @property
    def stride(self) -> int:
        """Image px to which sizes and window origins must be aligned."""
        return math.lcm(*(f * m.stride for f, m in zip(self.factors, self.modules, strict=True)))

    @property
    def halo(self) -> int:
        """A bound on the receptive-field radius, image px, a multiple of `stride`.

        The bound adds each scale's own field, two px of it on each side for bicubic reduction and
        one px of the scale below for bilinear enlargement.
        """
        radius = sum(f * (m.halo + 4) for f, m in zip(self.factors, self.modules, strict=True))
        return -(-radius // self.stride) * self.stride


def build_labels(config: ConfigDict) -> Labels:
    """The labels that group `pyramid` names; UserError for an unknown kind, or too few classes."""
    group = config.pyramid
    check(group, {"labels": one_of(LABELS)}, "pyramid.")
    if group.labels != "classes":
        return Labels(group.labels, {"mask": 2, "contour": 3}[group.labels])
    count = whole(2, of="the number of classes, background included,")
    check(group, {"classes": count}, "pyramid.")
    return Labels("classes", group.classes)


def check_base(config: ConfigDict) -> str:
    """The image that the lowest scale adds to; UserError if unknown or unsuited to the labels."""
    check(config.pyramid, {"base": one_of(BASES)}, "pyramid.")
    if config.pyramid.base == "tissue" and config.pyramid.labels == "classes":
        raise UserError(
            "pyramid.base='tissue' is drawn around nuclei, and pyramid.labels='classes' may be of "
            "anything: set the first to 'colors', or the second to 'contour' or 'mask'"
        )
    return config.pyramid.base


def check_classes(config: ConfigDict, classes: Sequence[str]) -> None:
    """Refuses a pyramid of classes (UserError) that has more or fewer than its data."""
    group = config.pyramid
    if group.labels == "classes" and group.classes != len(classes):
        raise UserError(
            f"pyramid.classes={group.classes}, and data.source has {len(classes)}: "
            f"{', '.join(classes)}; set it to {len(classes)}"
        )


def check_sizes(config: ConfigDict) -> tuple[int, ...]:
    """The sizes of the scales; UserError where one, or the crop, is no multiple of that before."""
    sizes, crop = tuple(config.pyramid.sizes), config.data.crop
    whole = all(isinstance(size, int) and size > 0 for size in sizes)
    if not sizes or not whole or any(b % a or b == a for a, b in itertools.pairwise(sizes)):
        raise UserError(
            f"pyramid.sizes={sizes} has to name sides in px, lowest first, each a multiple of the "
            "one before"
        )
    if crop % sizes[-1]:
        raise UserError(
            f"data.crop={crop} has to be a multiple of the highest of pyramid.sizes={sizes}, or "
            "equal to it; choose " + str(max(crop // sizes[-1], 1) * sizes[-1])
        )
    return sizes
