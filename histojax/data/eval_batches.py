"""Batches to watch a run by: fixed crops of a split, without augmentation, the same every time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from histojax.data import degradation as degradation_lib
from histojax.data.example import Recipe, cut, finish, make_recipe, read_checked
from histojax.data.pipeline import whole_number
from histojax.data.sources.base import Source
from histojax.errors import UserError


def crop_origins(
    height: int, width: int, crop: int, crops_per_image: int, step: int = 1
) -> list[tuple[int, int]]:
    """Corners (y, x) of a regular grid of crops; one crop is the centre one.

    Args:
      height: of the image in px.
      width: likewise.
      crop: side in px.
      crops_per_image: a square number n^2: n rows of n, evenly spread from border to border.
      step: corners are rounded down to multiples of this.
    """
    side = round(crops_per_image**0.5)
    shares = [0.5] if side == 1 else [i / (side - 1) for i in range(side)]
    rows = [int((height - crop) * share) // step * step for share in shares]
    columns = [int((width - crop) * share) // step * step for share in shares]
    return [(y, x) for y in rows for x in columns]


class EvalBatches:
    """The same padded batches at every iteration; see `eval_batches`."""

    def __init__(
        self,
        source: Source,
        recipe: Recipe,
        *,
        count: int,
        batch_size: int,
        crops_per_image: int,
        seed: int,
    ):
        self._source = source
        self._recipe = recipe
        self._count = count
        self._batch_size = batch_size
        self._crops_per_image = crops_per_image
        self._seed = seed

    @property
    def examples(self) -> int:
        """How many examples there are, padding left out."""
        return self._count * self._crops_per_image

    def __len__(self) -> int:
        return -(-self.examples // self._batch_size)

    def _example(self, number: int) -> dict[str, np.ndarray]:
        recipe = self._recipe
        index, place = divmod(number, self._crops_per_image)
        image = read_checked(self._source, index, recipe)
        height, width = image["hr"].shape[:2]
        y, x = crop_origins(height, width, recipe.crop, self._crops_per_image, recipe.step)[place]
        degradation = {}
        if recipe.degrades:
            name = image["name"] if place == 0 else f"{image['name']}#{place}"
            degradation = degradation_lib.sample_parameters(
                recipe.degradation,
                degradation_lib.evaluation_rng(self._seed, name),
                recipe.lr_shape,
            )
        return finish(cut(image, y, x, recipe.crop, recipe), recipe, None, degradation)

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        for first in range(0, self.examples, self._batch_size):
            last = min(first + self._batch_size, self.examples)
            rows = [self._example(number) for number in range(first, last)]
            padding = self._batch_size - len(rows)
            rows += rows[-1:] * padding
            batch = {field: np.stack([row[field] for row in rows]) for field in rows[0]}
            batch["weight"] = np.ones(self._batch_size, np.float32)
            batch["weight"][self._batch_size - padding :] = 0.0
            yield batch


def eval_batches(
    source: Source,
    data_config: Mapping[str, Any],
    *,
    fields: Sequence[str],
    batch_size: int,
    crop: int | None = None,
    limit: int | None = None,
    crops_per_image: int = 1,
    seed: int = 0,
) -> EvalBatches:
    """Finite, deterministic batches without augmentation, to watch a run by.

    Args:
      source: the images, in their order.
      data_config: `config.data`: crop, scale, degradation.
      fields: the batch's fields, out of `FIELDS`.
      batch_size: B; the last batch is padded to it by repeating its last example.
      crop: side in hr px; None takes `config.data.crop`.
      limit: at most so many images, the first ones; None takes all.
      crops_per_image: 1 for the centre, n^2 for a grid of n by n.
      seed: with the image's name, the seed of its degradation.

    Returns:
      An iterable with a length; each batch holds `fields` and "weight", float32 (B,), 0 for
      padding and 1 elsewhere.

    Raises:
      UserError: for a config value that breaks its rule or fields that the source does not hold.
    """
    recipe = make_recipe(source, data_config, fields, crop=crop, augment=False)
    whole_number(batch_size, "batch size", 1)
    whole_number(crops_per_image, "crops per image", 1)
    if round(crops_per_image**0.5) ** 2 != crops_per_image:
        raise UserError(
            f"{crops_per_image} crops per image make no square grid; give 1, 4, 9, 16, ..."
        )
    count = len(source)
    if limit is not None:
        count = min(count, whole_number(limit, "limit", 1))
    return EvalBatches(
        source,
        recipe,
        count=count,
        batch_size=batch_size,
        crops_per_image=crops_per_image,
        seed=seed,
    )
