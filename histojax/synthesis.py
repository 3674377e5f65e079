"""Tissue for masks of any size, by a trained pyramid, tile by tile without seams.

Every scale's noise is a function of the seed and of where a pixel lies, and networks read beyond
each tile what they depend on: tiles agree with the whole, whatever their size.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from histojax import runs
from histojax.errors import UserError
from histojax.imaging import tiling
from histojax.stages.images import quantise
from histojax.stages.pyramid import Pyramid

# Noise is drawn in squares of so many px of its scale.
_SQUARE = 128


@functools.lru_cache(maxsize=256)
def _square(seed: int, scale: int, row: int, column: int) -> np.ndarray:
    drawn = np.random.default_rng((seed, scale, row, column))
    return drawn.standard_normal((_SQUARE, _SQUARE), dtype=np.float32)


def noise(seed: int, scale: int, y: int, x: int, height: int, width: int) -> np.ndarray:
    """Noise of variance 1 at px y ... y + height - 1 and x ... of a scale, float32 (height, width).

    Args:
      seed: of the image, 0 or more.
      scale: number of the scale.
      y, x: 0 or more.
      height, width: above 0.
    """
    rows = range(y // _SQUARE, (y + height - 1) // _SQUARE + 1)
    columns = range(x // _SQUARE, (x + width - 1) // _SQUARE + 1)
    field = np.block([[_square(seed, scale, row, column) for column in columns] for row in rows])
    top, left = y - rows[0] * _SQUARE, x - columns[0] * _SQUARE
    return field[top : top + height, left : left + width]


class Conditions:
    """What an image is made of, read by region: labels and, for each scale, noise.

    A px of a scale that is f times coarser lies at every f-th px, the f // 2-nd first, as in
    `stages.pyramid.thinned`; between them its noise is 0.
    """

    def __init__(self, labels: np.ndarray, factors: tuple[int, ...], seed: int):
        """
        Args:
          labels: integer (H, W), the number of each pixel's label.
          factors: how many px are one of each scale.
          seed: of the noise, 0 or more.
        """
        self._labels, self._factors, self._seed = labels, factors, seed
        self.height, self.width = labels.shape

    def read(self, y: int, x: int, height: int, width: int) -> np.ndarray:
        """float32 (height, width, 1 + scales)."""
        out = np.zeros((height, width, 1 + len(self._factors)), np.float32)
        out[..., 0] = self._labels[y : y + height, x : x + width]
        for k, f in enumerate(self._factors):
            top, left = (-(y - f // 2)) % f, (-(x - f // 2)) % f
            place = out[top::f, left::f, 1 + k]
            if place.size:
                place[...] = noise(self._seed, k, (y + top) // f, (x + left) // f, *place.shape)
        return out


def synthesiser(run: runs.Run) -> Any:
    """A run's pyramid, jitted: conditions (B, h, w, 1 + scales) -> {"image": uint8 (B, h, w, 3)}.

    Raises:
      UserError: the run is no pyramid.
    """
    stage = run.stage
    if not isinstance(stage, Pyramid):
        raise UserError(
            f"{run.workdir} is a run of stage {run.config.stage}, and tissue is synthesised by one "
            "of stage pyramid: name that of configs/pyramid.py"
        )
    factors = stage.synthesiser.factors

    @jax.jit
    def windows(conditions: jax.Array) -> dict[str, jax.Array]:
        labels = jax.nn.one_hot(conditions[..., 0].astype(jnp.int32), stage.labels.count)
        noises = [
            conditions[:, f // 2 :: f, f // 2 :: f, 1 + k : 2 + k] for k, f in enumerate(factors)
        ]
        return {"image": quantise(stage.generate(run.state, labels, noises))}

    return windows


def label_numbers(stage: Pyramid, mask: np.ndarray, *, name: str, contour_width: int) -> np.ndarray:
    """The number of each pixel's label, uint8 (H, W), of instances or, for classes, of classes.

    Raises:
      UserError: a mask with labels outside of the declared classes, without any label, or smaller
        than a px of the lowest scale.
    """
    from histojax.data import targets

    factor = stage.synthesiser.factors[0]
    if min(mask.shape) < factor:
        raise UserError(
            f"the mask {name} has {mask.shape[0]} x {mask.shape[1]} px, and the lowest scale needs "
            f"{factor} on each side: give a larger one"
        )
    if not mask.any():
        raise UserError(f"the mask {name} is empty: give one with nuclei or classes in it")
    if stage.labels.form == "classes":
        highest = int(mask.max())
        if highest >= stage.labels.count or mask.min() < 0:
            raise UserError(
                f"the mask {name} has the label {highest}, and the pyramid knows "
                f"{stage.labels.count} classes, 0 to {stage.labels.count - 1}: renumber it"
            )
        return mask.astype(np.uint8)
    numbers = (mask > 0).astype(np.uint8)
    if stage.labels.form == "contour":
        numbers[targets.contours(mask, width=contour_width) > 0] *= 2
    return numbers


def synthesise(
    run: runs.Run, labels: np.ndarray, *, seed: int, windows: Any = None, tile: int = 512
) -> np.ndarray:
    """An image, uint8 (H, W, 3), of `label_numbers` (H, W).

    Args:
      run: of a pyramid.
      labels: numbers of labels.
      seed: of the noise.
      windows: of `synthesiser`, for several images of one run.
      tile: largest tile, px, which memory follows.
    """
    network = run.stage.synthesiser
    tiles = tiling.tiled(
        windows or synthesiser(run),
        Conditions(labels, network.factors, seed),
        core=tiling.core_size(
            [labels.shape], halo=network.halo, stride=network.stride, largest=tile
        ),
        halo=network.halo,
        stride=network.stride,
    )
    return tiling.assemble(tiles, *labels.shape)["image"]
