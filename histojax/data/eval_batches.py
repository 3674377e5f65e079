"""Batches to watch a run by: fixed crops of a split, without augmentation, the same every time."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from histojax.data.degradation import evaluation_rng
from histojax.data.example import ExampleSpec, cut, example_spec, finish, read_checked
from histojax.data.sources.base import Source


def crop_origins(
    height: int, width: int, crop: int, crops_per_image: int, step: int = 1
) -> list[tuple[int, int]]:
    """Corners (y, x), px, of a regular grid of crops, evenly spread from border to border.

    `crops_per_image` is a square number n^2, for n rows of n; a single crop is the center one.
    Corners are rounded down to multiples of `step`.
    """
    side = round(crops_per_image**0.5)
    shares = [0.5] if side == 1 else [i / (side - 1) for i in range(side)]
    rows, columns = (
        [int((length - crop) * share) // step * step for share in shares]
        for length in (height, width)
    )
    return [(y, x) for y in rows for x in columns]


def eval_batches(
    source: Source,
    data_config: Mapping[str, Any],
    *,
    fields: Sequence[str],
    batch_size: int,
    crop: int,
    limit: int,
    crops_per_image: int,
    seed: int,
) -> list[dict[str, np.ndarray]]:
    """Deterministic batches without augmentation, to watch a run by.

    Each batch holds `fields` and "weight", float32 (B,), 1, or 0 for the padding of the last batch.

    Args:
        crop: side in hr px.
        limit: at most so many images, the first ones.
        crops_per_image: 1 for the center, n^2 for a grid of n by n.
        seed: with the image's name, the seed of its degradation.

    Raises:
        UserError: for a config value that breaks its rule, or fields that the source does not hold.
    """
    spec = example_spec(source, data_config, fields, crop=crop, augment=False)
    count = min(len(source), limit)
    examples = _examples(source, spec, count, crops_per_image, seed)
    batches = []
    while rows := list(itertools.islice(examples, batch_size)):
        padding = batch_size - len(rows)
        rows += rows[-1:] * padding
        batch = {field: np.stack([row[field] for row in rows]) for field in fields}
        batch["weight"] = np.ones(batch_size, np.float32)
        batch["weight"][batch_size - padding :] = 0.0
        batches.append(batch)
    return batches


def _examples(
    source: Source, spec: ExampleSpec, count: int, crops_per_image: int, seed: int
) -> Iterator[dict[str, np.ndarray]]:
    for index in range(count):
        image = read_checked(source, index, spec)
        height, width = image["hr"].shape[:2]
        corners = crop_origins(height, width, spec.crop, crops_per_image, spec.step)
        for place, (y, x) in enumerate(corners):
            name = image["name"] if place == 0 else f"{image['name']}#{place}"
            degradation = spec.sample_degradation(evaluation_rng(seed, name))
            yield finish(cut(image, y, x, spec.crop, spec), spec, None, degradation)
