"""How good synthetic tissue is: likeness to real tissue, fidelity to its masks, repetition.

Each method that is compared makes images for the masks of the same windows of real images.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from histojax.components import content
from histojax.data.sources.base import Source
from histojax.errors import UserError
from histojax.imaging import tiling
from histojax.inference import labeling
from histojax.metrics import instances, overlap, registry
from histojax.synthesis.mask_bank import instances_of
from histojax.synthesis.tissue import Synthesizer
from histojax.tissue import rendering

# Images whose features are computed at a time.
_BATCH = 8
FIDELITY = ("dice", "aji")


@dataclasses.dataclass(frozen=True)
class Windows:
    """Squares of side S from real images."""

    images: np.ndarray  # uint8 (N, S, S, 3)
    labels: np.ndarray  # integer (N, S, S), 0 background
    names: tuple[str, ...]  # of the image of each

    def __len__(self) -> int:
        return len(self.names)

    def evenly(self, count: int) -> np.ndarray:
        """Numbers of at most so many of them, evenly spread over all."""
        return np.unique(np.linspace(0, len(self) - 1, min(count, len(self))).round().astype(int))

    def spread(self, count: int) -> "Windows":
        """Those of `evenly`."""
        kept = self.evenly(count)
        return Windows(self.images[kept], self.labels[kept], tuple(self.names[i] for i in kept))


def windows_of(source: Source, size: int) -> Windows:
    """All squares of a grid, S = `size` px, that lie in a source's images and hold nuclear pixels.

    Raises:
        UserError: fewer than two such squares, or an image without instances.
    """
    found = []
    for index in range(len(source)):
        record = source[index]
        labels = instances_of(record)
        height, width = labels.shape
        parts = [part for part in tiling.squares(height, width, size) if labels[part].any()]
        found += [(record["hr"][part], labels[part], record["name"]) for part in parts]
    if len(found) < 2:
        raise UserError(
            f"the {len(source)} images hold {len(found)} squares of {size} px with nuclei, and two "
            "are needed: give more or larger images, or a smaller --size"
        )
    images, squares, names = zip(*found, strict=True)
    return Windows(np.stack(images), np.stack(squares), names)


def pyramid_images(
    synthesizer: Synthesizer, labels: np.ndarray, *, seed: int, noise: int = 0
) -> np.ndarray:
    """An image of each label image (N, S, S) by a pyramid, uint8 (N, S, S, 3).

    `seed` decides the colours of each image, and together with `noise` its noise.

    Raises:
        UserError: the pyramid makes tissue of classes.
    """
    if synthesizer.classes is not None:
        known = ", ".join(synthesizer.classes)
        raise UserError(
            f"the pyramid makes tissue of the classes {known}, and nuclei are measured: name one "
            "of pyramid.labels='contour' or 'mask'"
        )
    made = [
        synthesizer.image(mask, seed=(seed, index, noise), look=(seed, index))
        for index, mask in enumerate(labels)
    ]
    return np.stack(made)


def builtin_images(labels: np.ndarray, *, seed: int) -> np.ndarray:
    """The built-in synthetic tissue, each of its own patient, uint8 (N, S, S, 3)."""
    numbered = enumerate(labels)
    drawn = [rendering.tissue_of(mask, seed, n) for n, mask in numbered]
    return np.stack(drawn)


def pooling(network: content.FeatureNetwork) -> Callable[[np.ndarray], np.ndarray]:
    """Images, uint8 (N, S, S, 3), to the mean of every channel of a network's layers (N, D)."""

    @jax.jit
    def pooled(batch: jax.Array) -> jax.Array:
        maps = network.features(network.variables, batch.astype(jnp.float32) / 255, network.layers)
        each = [maps[name].astype(jnp.float32).mean((1, 2)) for name in network.layers]
        return jnp.concatenate(each, -1)

    def features(images: np.ndarray) -> np.ndarray:
        side = images.shape[1] // network.stride * network.stride
        # The last batch is filled up, so that one program serves all.
        filled = np.resize(images, (-(-len(images) // _BATCH) * _BATCH, *images.shape[1:]))
        batches = np.split(filled[:, :side, :side], len(filled) // _BATCH)
        return np.concatenate([np.asarray(pooled(batch)) for batch in batches])[: len(images)]

    return features


def standardized(features: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Features (N, D) by mean and deviation of others (M, D), so that all layers count alike."""
    return (features - like.mean(0)) / np.maximum(like.std(0), 1e-6)


def fidelity(
    find: Callable[[np.ndarray], labeling.Found], images: np.ndarray, labels: np.ndarray
) -> dict[str, float]:
    """Dice and AJI of the nuclei found in images, against the masks (N, S, S) that they have.

    Mean over the images, uint8 (N, S, S, 3); `find` is a segmentation run's, image -> its nuclei.
    """
    rows = []
    for image, truth in zip(images, labels, strict=True):
        found = find(image)
        table = instances.overlap_table(found.instances, truth.astype(np.int32))
        scores = registry.scores("mask", overlap.confusion(found.mask, truth > 0))
        scores |= registry.scores("instances", table)
        rows.append([scores[name] for name in FIDELITY])
    return dict(zip(FIDELITY, np.nanmean(rows, 0).tolist(), strict=True))
