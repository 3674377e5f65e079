"""Evaluation of a training run on fixed crops of its val split, which picks the best step."""

import itertools
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from histojax import processes
from histojax.components import scoring
from histojax.components.scoring import Sums
from histojax.data import eval_batches
from histojax.data.sources.base import Source
from histojax.imaging import figures
from histojax.stages.base import Stage, segments
from histojax.training import sharding

Tree = Any


class Validation:
    """Evaluates on fixed crops of the val split, and draws a few of them."""

    def __init__(
        self, stage: Stage, source: Source, config: ConfigDict, mesh: Mesh, workdir: pathlib.Path
    ):
        size = -(-config.eval.batch_size // mesh.size) * mesh.size
        side = min(min(source[i]["hr"].shape[:2]) for i in range(len(source)))
        step = crop_step(stage, config.data.scale)
        crop = fitting_crop(config.eval.crop, side, step=step)
        # As many an image as asked for, and no more than it takes to cover it.
        across = min(math.isqrt(max(config.eval.crops // len(source), 1)), -(-side // crop))
        batches = eval_batches.eval_batches(
            source,
            config.data,
            fields=tuple(dict.fromkeys((*stage.fields, "hr", *stage.annotations))),
            batch_size=size,
            crop=crop,
            crops_per_image=across**2,
            limit=config.eval.crops,
            seed=config.seed,
        )
        self._batches = [sharding.own_rows(batch) for batch in batches]
        self._stage, self._mesh, self._workdir = stage, mesh, workdir
        self._step = sharding.eval_step(stage.eval_step, mesh)
        self._pictures = config.eval.pictures
        self._scale = config.data.scale

    def __call__(self, state: Tree, step: int) -> dict[str, float]:
        """Metric -> value over all crops; also writes samples/step_<step>.png."""
        scores: list[Sums] = []
        shown: list[dict[str, np.ndarray]] = []
        for batch in self._batches:
            arrays = {k: v for k, v in batch.items() if k in self._stage.fields}
            outputs = self._step(state, sharding.place_batch(arrays, self._mesh))
            outputs = {name: sharding.local_rows(value) for name, value in outputs.items()}
            scores.append(self._stage.evaluate(outputs, batch))
            for i in np.flatnonzero(batch["weight"])[: self._pictures - len(shown)]:
                predicted = {f"predicted_{k}": v[i] for k, v in outputs.items()}
                shown.append({k: batch[k][i] for k in self._stage.fields} | predicted)
        if shown and processes.first():
            path = self._workdir / "samples" / f"step_{step:07d}.png"
            figures.write_samples(path, shown, scale=self._scale)
        return {name: scoring.divided(*pair) for name, pair in _summed(scores).items()}


def _summed(scores: Sequence[Sums]) -> dict[str, np.ndarray]:
    """The sums over all batches and processes, (2, ...); in one order, so that all have the same.

    `scores` are this process's, of each batch; all processes have as many.
    """
    plain = [{k: np.asarray(pair, np.float64).tolist() for k, pair in s.items()} for s in scores]
    sums: dict[str, np.ndarray] = {}
    for parts in zip(*processes.gather(plain), strict=True):
        for name, pair in itertools.chain.from_iterable(part.items() for part in parts):
            sums[name] = sums.get(name, 0) + np.asarray(pair, np.float64)
    return sums


def fitting_crop(crop: int, side: int, *, step: int) -> int:
    """The crop to evaluate on where the smallest image has this side: a multiple of `step`, px.

    Larger crops tell more of whole images, because a network sees less well near a border.
    """
    return max(min(crop, side) // step * step, step)


def crop_step(stage: Stage, scale: int) -> int:
    """What a crop's side has to be a multiple of, px."""
    return math.lcm(scale, stage.segmenter.stride) if segments(stage) else scale


def better(sense: str, value: float, best: float | None) -> bool:
    """Whether a value is finite and better than the best so far; the sense is "max" or "min"."""
    if not math.isfinite(value):
        return False
    return best is None or (value > best if sense == "max" else value <= best)
