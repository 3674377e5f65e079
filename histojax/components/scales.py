"""The scales of a pyramid: what its masks tell apart, and images and masks of every size."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from ml_collections import ConfigDict

from histojax.components.images import class_heads
from histojax.errors import UserError
from histojax.imaging import resampling
from histojax.models.layers import full_precision
from histojax.models.resizing import upsample

Batch = Mapping[str, jax.Array]
LABELS = ("mask", "contour", "classes")
BASES = ("colors", "tissue", "gray")


@dataclasses.dataclass(frozen=True)
class Labels:
    """What the pixels of a mask are told apart by.

    Attributes:
      form: "mask", background and nucleus; "contour", background, inside and rim, which keeps
        touching nuclei apart; "classes", the classes of the annotation.
      count: C.
    """

    kind: str
    count: int

    @property
    def fields(self) -> tuple[str, ...]:
        """Batch arrays that they are made of."""
        return ("mask", "contour") if self.kind == "contour" else ("mask",)

    @property
    def heads(self) -> tuple[str, ...]:
        """Maps that follow from probabilities of the labels.

        What is no rim marks a nucleus; where several classes are told apart, each has its own.
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

        Of a nucleus's cells those that hold any px of rim are rim, which would fall to pieces.
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
        """Labels (B, H, W, C) without rims: of "contour" ground and nucleus, others as they are."""
        if self.kind != "contour":
            return one_hot
        return jnp.concatenate([one_hot[..., :1], 1 - one_hot[..., :1]], -1)

    def maps(self, probability: jax.Array) -> jax.Array:
        """Probabilities (B, H, W, C) as maps (B, H, W, len(heads))."""
        # What comes after the mask is labels from 1 on, in their order.
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

    A label that an image does not hold has the colour of the whole image.
    """
    image, one_hot = full_precision(image), full_precision(one_hot)
    count = jnp.sum(one_hot, (1, 2))[..., None]
    sums = jnp.einsum("bhwc,bhwd->bcd", one_hot, image, precision="highest")
    whole = jnp.mean(image, (1, 2))[:, None]
    return jnp.where(count > 0, sums / jnp.maximum(count, 1.0), whole)


def moments(image: jax.Array, one_hot: jax.Array) -> jax.Array:
    """Mean and deviation of each label's colours: (B, H, W, 3), (B, H, W, C) -> (B, 2, C, 3).

    A label that an image does not hold has the same in all images: nothing to tell them apart by.
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


def enlarged(maps: jax.Array, factor: int) -> jax.Array:
    """(B, H, W, C) factor times as large, bilinear."""
    return maps if factor == 1 else upsample(maps, factor, "bilinear")


def grounds_of(
    base: str,
    masks: Sequence[jax.Array],
    colors: jax.Array,
    tissue: jax.Array | None = None,
) -> list[jax.Array | None]:
    """What each scale adds to, beside the image of the scale below; None where there is no more.

    Mid-grey, or the mask in the colours of its labels, are the lowest scale's alone. Of tissue it
    has what its pixels can hold, and each scale above what it can hold beyond that: generators that
    add nothing give the tissue back, as far as enlarging and reducing do.

    Args:
      base: of BASES.
      masks: (B, h, w, C) of each scale, lowest first.
      colors: (B, C, 3) of each label, in [0, 1], for base="colors".
      tissue: (B, H, W, 3) in [0, 1], of the crops' size, for base="tissue".
    """
    dtype = masks[0].dtype
    if base == "tissue":
        levels = [reduced(tissue, tissue.shape[1] // mask.shape[1]) for mask in masks]
        finer = [
            high - enlarged(low, high.shape[1] // low.shape[1])
            for low, high in itertools.pairwise(levels)
        ]
        return [level.astype(dtype) for level in (levels[0], *finer)]
    lowest = painted(masks[0], colors).astype(dtype)
    if base == "gray":
        lowest = jnp.full((*masks[0].shape[:3], 3), 0.5, dtype)
    return [lowest, *[None] * (len(masks) - 1)]


@dataclasses.dataclass(frozen=True, eq=False)
class AllScales:
    """Networks of all scales as one: what windows and tiles have to know of them.

    Attributes:
      modules: a network for each scale, lowest first.
      factors: how many image px are one px of each scale.
      heads: maps that come of them, where they find nuclei.
    """

    modules: tuple[nn.Module, ...]
    factors: tuple[int, ...]
    heads: tuple[str, ...] = ()

    @property
    def exact_tiles(self) -> bool:
        """Whether tiles with the halo agree with the whole image."""
        return all(getattr(module, "exact_tiles", True) for module in self.modules)

    @property
    def stride(self) -> int:
        """Image px to which sizes and window origins must be aligned."""
        return math.lcm(*(f * m.stride for f, m in zip(self.factors, self.modules, strict=True)))

    @property
    def halo(self) -> int:
        """A bound on the receptive-field radius, image px, a multiple of `stride`.

        Each scale sees its own field; bicubic reduction reads two of its px on each side, and
        bilinear enlargement one of the scale below.
        """
        radius = sum(f * (m.halo + 4) for f, m in zip(self.factors, self.modules, strict=True))
        return -(-radius // self.stride) * self.stride


def build_labels(config: ConfigDict) -> Labels:
    """What group `pyramid` tells the pixels of a mask apart by.

    Raises:
        UserError: for a form that is not known, or too few classes.
    """
    group = config.pyramid
    if group.labels not in LABELS:
        raise UserError(
            f"pyramid.labels={group.labels!r} is not known; choose one of {', '.join(LABELS)}"
        )
    if group.labels != "classes":
        return Labels(group.labels, {"mask": 2, "contour": 3}[group.labels])
    if not isinstance(group.classes, int) or group.classes < 2:
        raise UserError(
            f"pyramid.classes={group.classes!r} has to be the number of classes, background "
            "included, 2 or more, for pyramid.labels='classes'"
        )
    return Labels("classes", group.classes)


def check_base(config: ConfigDict) -> str:
    """What the lowest scale starts from.

    Raises:
        UserError: if it is not known, or does not go with the labels.
    """
    # Runs from before there were colours started from mid-grey.
    base = config.pyramid.get("base", "gray")
    if base not in BASES:
        raise UserError(f"pyramid.base={base!r} is not known; choose one of {', '.join(BASES)}")
    if base == "tissue" and config.pyramid.labels == "classes":
        raise UserError(
            "pyramid.base='tissue' is drawn around nuclei, and pyramid.labels='classes' may be of "
            "anything: set the first to 'colours', or the second to 'contour' or 'mask'"
        )
    return base


def check_classes(config: ConfigDict, classes: Sequence[str]) -> None:
    """Checks that a pyramid of classes knows those of its data.

    Raises:
        UserError: if there are more or fewer.
    """
    group = config.pyramid
    if group.labels == "classes" and group.classes != len(classes):
        raise UserError(
            f"pyramid.classes={group.classes}, and data.source has {len(classes)}: "
            f"{', '.join(classes)}; set it to {len(classes)}"
        )


def check_sizes(config: ConfigDict) -> tuple[int, ...]:
    """The sizes of the scales.

    Raises:
        UserError: unless each is a multiple of the one before, and the crop of the last.
    """
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
