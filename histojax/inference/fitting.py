"""Post-processing fitted to a trained run: the last step of its training."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from histojax.cli import say
from histojax.data import degradation
from histojax.data.pairs import image_pair
from histojax.imaging import writers
from histojax.inference import labeling, tiled
from histojax.metrics.instances import aji, overlap_table
from histojax.nuclei import postprocessing
from histojax.runs import run_data, workdirs
from histojax.stages.base import enhances, segments

P = TypeVar("P", bound=Any)

# The parameters that are fitted, in this order, and the values that are tried.
GRID = {
    "mask_threshold": (0.1, 0.2, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7),
    "marker_threshold": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
    "marker_peak": (0.0, 0.5, 0.6, 0.7, 0.8, 0.9),
    "min_marker": (4, 8, 16, 32),
    "min_area": (20, 30, 50, 80),
    "min_unmarked": (30, 60, 120, 240),
    "min_mask": (20, 50, 80),
    "distance_weight": (0.0, 1.0, 10.0),
    "contour_weight": (0.0, 1.0, 10.0),
}
# Images of the val split that are labelled, each some tens of times.
_MOST_IMAGES = 24


def fitted_grid(
    parameters: postprocessing.Parameters, heads: Sequence[str]
) -> dict[str, tuple[float, ...]]:
    """The part of `GRID` that fits a network's heads and the kind of its parameters."""
    known = {field.name for field in dataclasses.fields(parameters)}
    known -= {f"{head}_weight" for head in ("distance", "contour") if head not in heads}
    return {name: values for name, values in GRID.items() if name in known}


def fit_instances(run: workdirs.Run) -> postprocessing.Parameters | None:
    """Fits a run's post-processing to its val split, by AJI, and writes it to the workdir.

    A run without markers, one whose `instances.fit` is off, and a checkpoint that has been fitted
    are left as they are. The run's parameters; None where it has no markers.
    """
    stage, config = run.stage, run.config
    assert segments(stage)
    start = labeling.parameters_of(run)
    if start is None or not config.instances.fit:
        return start
    known = labeling.fitted_parameters(run)
    if known is not None:
        return known
    kept = run.meta["data"]["splits"]
    source = run_data.open_split(config, "val", fields=("instances",), kept=kept)
    run_data.seen_in(source, [run.workdir], one_set=True, allowed=False)
    recipe = degradation.Degradation.from_config(config.data.degradation, config.data.scale)
    network = tiled.predictor(run)
    maps, truths = [], []
    count = min(len(source), _MOST_IMAGES)
    say(f"{config.name}: fitting the post-processing to {count} images of the val split")
    for index in range(count):
        hr, lr, truth = image_pair(source[index], recipe, config.seed)
        assert truth is not None  # the source was opened for its instances
        found = network(lr if enhances(stage) else hr)
        maps.append({head: found[head] for head in postprocessing.MAPS if head in found})
        truths.append(truth)

    def score(parameters: postprocessing.Parameters) -> float:
        labels = (labeling.find(run, one, parameters).instances for one in maps)
        tables = map(overlap_table, labels, truths)
        return float(np.mean(list(map(aji, tables))))

    best, scores = search(start, fitted_grid(start, stage.segmenter.heads), score)
    writers.write_json(
        workdirs.stage_folder(run.workdir) / labeling.FILE,
        {
            "checkpoint": labeling.checkpoint_of(run),
            "kind": postprocessing.kind_of(best),
            "parameters": dataclasses.asdict(best),
            "aji": max(scores.values()),
            "aji_before": scores[start],
            "tried": len(scores),
            "images": list(source.names[:count]),
        },
    )
    return best


def search(
    start: P,
    grid: Mapping[str, Sequence[float]],
    score: Callable[[P], float],
    *,
    rounds: int = 3,
) -> tuple[P, dict[P, float]]:
    """The parameters that score best, and the score of each that was tried, in order.

    Each field of the grid in turn goes to its best value with the others held; rounds follow until
    nothing changes. This tries tens of combinations where the whole grid has thousands, and may
    stop where only two fields changed together would do better. `start` is a frozen dataclass, the
    grid holds values of its fields, and `rounds` bounds the passes over them.
    """
    best, scores = start, {start: score(start)}
    for _ in range(rounds):
        before = best
        for name, values in grid.items():
            for value in values:
                tried = dataclasses.replace(best, **{name: value})
                if tried not in scores:
                    scores[tried] = score(tried)
                # Of equal scores the earlier stays, so that the result does not wander.
                if scores[tried] > scores[best]:
                    best = tried
        if best == before:
            break
    return best, scores
