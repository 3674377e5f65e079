"""Colours that labels have in training images, from which synthesis draws those of an image."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from histojax.components.images import unit
from histojax.components.scales import Labels, label_colors
from histojax.data.sources.base import Source

# The colour of each of C labels, red, green, blue in [0, 1]; None: the window lacks the label.
Look = list[list[float] | None]


def collect(
    source: Source, labels: Labels, side: int, *, images: int = 64, windows: int = 4
) -> list[Look]:
    """The looks of windows of a source, which has the fields that labels are made of.

    At most so many images, evenly spread, have so many windows each, of `side` px.
    """
    rng = np.random.default_rng(0)
    found = []
    for index in np.unique(np.linspace(0, len(source) - 1, images).astype(int)):
        record = source[int(index)]
        height, width = record["hr"].shape[:2]
        for _ in range(windows):
            y, x = (int(rng.integers(n - side + 1)) for n in (height, width))
            cut = np.s_[y : y + side, x : x + side]
            batch = {field: record[field][cut][None] for field in ("hr", *labels.fields)}
            one_hot = labels.one_hot(batch, jnp.float32)
            colors = np.asarray(label_colors(unit(batch["hr"], jnp.float32), one_hot))[0]
            held = np.asarray(one_hot.any((1, 2)))[0]
            rounded = [color.round(4).tolist() for color in colors]
            found.append([c if there else None for c, there in zip(rounded, held, strict=True)])
    return found


def recolored(image: np.ndarray, labels: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """An image whose labels have these mean colours instead of its own, as far as uint8 holds them.

    The image is uint8 (H, W, 3), its labels uint8 (H, W), the colours (C, 3) in [0, 1].
    """
    out = np.empty_like(image)
    for label in np.unique(labels):
        part = labels == label
        pixels = image[part].astype(np.float32)
        moved = pixels + (255 * colors[label] - pixels.mean(0, dtype=np.float64))
        out[part] = np.clip(np.round(moved), 0, 255)
    return out


def nuclei_as_one(labels: np.ndarray, colors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ground and nuclei of labels that tell nuclei and perhaps their rims from the ground.

    Labels uint8 (H, W) and colours (C, 3) in [0, 1] give labels in {0, 1} and colours (2, 3), that
    of nuclei the mean over their pixels.
    """
    counts = np.bincount(labels.ravel(), minlength=len(colors))[1:, None]
    nucleus = (counts * colors[1:]).sum(0) / max(int(counts.sum()), 1)
    return (labels > 0).astype(np.uint8), np.stack([colors[0], nucleus])


def draw(
    looks: Sequence[Look], count: int, numbers: Sequence[int], seed: Sequence[int]
) -> np.ndarray:
    """The colours (C, 3) of an image, float32 in [0, 1]: one of the looks of `collect`, or grey.

    The look is drawn among those with the most of the labels `numbers` of the image; a label that
    it lacks has the mean colour of the others. `count` is C, and `seed` numbers of 0 or more.
    """
    known = np.array(
        [[[np.nan] * 3 if color is None else color for color in look] for look in looks]
        or [[[0.5] * 3] * count],
        np.float32,
    )
    held = np.isfinite(known[:, np.asarray(numbers, int), 0]).sum(1)
    fitting = known[held == held.max()]
    drawn = fitting[np.random.default_rng((*seed, 0)).integers(len(fitting))].copy()
    for label in np.flatnonzero(np.isnan(drawn[:, 0])):
        others = known[:, label][np.isfinite(known[:, label, 0])]
        drawn[label] = others.mean(0) if len(others) else 0.5
    return drawn
