"""Batches to watch a run by: fixed crops of a split, without augmentation, the same every time."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from histojax.checks import check, whole
from histojax.data.degradation import evaluation_rng
from histojax.data.example import ExampleSpec, cut, example_spec, finish, read_checked
from histojax.data.sources.base import Source
from histojax.errors import UserError

_RULES = {"batch_size": whole(1), "crops_per_image": whole(1), "limit": whole(1).or_none()}


def crop_origins(
    height: int, width: int, crop: int, crops_per_image: int, step: int = 1
) -> list[tuple[int, int]]:
    """Corners (y, x), px, of a regular grid of crops; one crop is the centre one.

    Args:
        height, width: of the image.
        crop: side.
        crops_per_image: a square number n^2: n rows of n, evenly spread from border to border.
        step: corners are rounded down to multiples of this.
    """
    side = round(crops_per_image**0.5)
    shares = [0.5] if side == 1 else [i / (side - 1) for i in range(side)]
    rows, columns = (
        [int((length - crop) * share) // step * step for share in shares]
        for length in (height, width)
    )
    return [(y, x) for y in rows for x in columns]


@dataclasses.dataclass(frozen=True)
class EvalBatches:
    """The same batches of the first `count` images at every iteration; see `eval_batches`."""

    source: Source
    spec: ExampleSpec
    count: int
    batch_size: int
    crops_per_image: int
    seed: int

    @property
    def examples(self) -> int:
        """How many examples there are, padding left out."""
        return self.count * self.crops_per_image

    def __len__(self) -> int:
        return -(-self.examples // self.batch_size)

    def _example(self, number: int) -> dict[str, np.ndarray]:
        spec = self.spec
        index, place = divmod(number, self.crops_per_image)
        image = read_checked(self.source, index, spec)
        height, width = image["hr"].shape[:2]
        y, x = crop_origins(height, width, spec.crop, self.crops_per_image, spec.step)[place]
        name = image["name"] if place == 0 else f"{image['name']}#{place}"
        degradation = spec.sample_degradation(evaluation_rng(self.seed, name))
        return finish(cut(image, y, x, spec.crop, spec), spec, None, degradation)

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        for first in range(0, self.examples, self.batch_size):
            last = min(first + self.batch_size, self.examples)
            rows = [self._example(number) for number in range(first, last)]
            padding = self.batch_size - len(rows)
            rows += rows[-1:] * padding
            batch = {field: np.stack([row[field] for row in rows]) for field in rows[0]}
            batch["weight"] = np.ones(self.batch_size, np.float32)
            batch["weight"][self.batch_size - padding :] = 0.0
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
    spec = example_spec(source, data_config, fields, crop=crop, augment=False)
    sizes = {"batch_size": batch_size, "crops_per_image": crops_per_image, "limit": limit}
    check(sizes, _RULES)
    if round(crops_per_image**0.5) ** 2 != crops_per_image:
        raise UserError(
            f"{crops_per_image} crops per image make no square grid; give 1, 4, 9, 16, ..."
        )
    count = len(source) if limit is None else min(len(source), limit)
    return EvalBatches(source, spec, count, batch_size, crops_per_image, seed)
