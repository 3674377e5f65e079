"""Scores of images: each enhanced image and each mask against the real image and its annotation."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from histojax import processes
from histojax.data import degradation
from histojax.data.pairs import image_pair
from histojax.data.sources.base import Source
from histojax.errors import UserError
from histojax.evaluation import perceptual
from histojax.evaluation.rows import Image, Methods
from histojax.imaging import enlargement, writers
from histojax.inference import labeling
from histojax.metrics import classes, image_quality, instances, intervals, overlap, registry

Row = dict[str, Any]


class Scored(NamedTuple):
    """An image's scores {"name", "group", "<metric>_<method or row>": value}, and what they are of.

    Attributes:
        pictures: by caption.
        matrices: confusion (K, K) by row, where the row's segmenter finds classes.
    """

    scores: Row
    pictures: dict[str, Image]
    matrices: dict[str, np.ndarray]


def score_images(methods: Methods, source: Source, config: ConfigDict) -> Iterator[Scored]:
    """Scores this process's images by a run's config: seed, data.scale, data.degradation.

    Of n processes, process p has every n-th image from the p-th on.

    Raises:
        UserError: where the source lacks the masks that rows need.
    """
    recipe = degradation.Degradation.from_config(config.data.degradation, config.data.scale)
    for index in range(processes.index(), len(source), processes.count()):
        sample = source[index]
        hr, lr, truth = image_pair(sample, recipe, config.seed)
        row: Row = {"name": sample["name"], "group": source.groups[index]}
        pictures: dict[str, Image] = {"lr": lr}
        matrices: dict[str, np.ndarray] = {}
        enhanced = {name: run(lr) for name, run in methods.enhancers.items()}
        enlarged = enlargement.bicubic(lr, config.data.scale) if enhanced else None
        distances = perceptual.st_lpips(enhanced, hr)
        for name, sr in enhanced.items():
            scores = registry.scores("image", sr, hr, config.data.scale)
            if name != "bicubic":
                scores |= registry.scores("input", sr, enlarged, config.data.scale)
            scores["st_lpips"] = distances[name]
            for network, distance in methods.features.items():
                scores[f"feature_distance_{network}"] = distance(sr, hr)
            row |= {f"{metric}_{name}": value for metric, value in scores.items()}
            pictures[f"{name} {scores['psnr_rgb']:.2f} dB"] = sr
        if enhanced:
            row["grid_hr"] = image_quality.grid(hr, hr, config.data.scale)
        pictures["hr"] = hr
        if methods.rows:
            if truth is None:
                raise UserError(
                    f"{sample['name']} has no instances or mask, which the rows "
                    f"{', '.join(name for name, _, _ in methods.rows)} are scored against; "
                    "annotate it or evaluate a generator alone"
                )
            for name, enhancer, segmenter in methods.rows:
                image = hr if enhancer is None else enhanced[enhancer]
                found = methods.segmenters[segmenter](image)
                scores, caption, matrix = _found_scores(found, truth, sample, source)
                if matrix is not None:
                    matrices[name] = matrix
                row |= {f"{metric}_{name}": value for metric, value in scores.items()}
                pictures[f"{name} {caption}"] = writers.overlay(image, found.instances)
            pictures["annotation"] = writers.overlay(hr, truth)
        yield Scored(row, pictures, matrices)


def gathered(own: Sequence[Scored]) -> tuple[list[Row], dict[str, list[np.ndarray]]]:
    """The scores of all processes' images in the order of the source, and matrices by row."""
    plain = [(one.scores, {k: m.tolist() for k, m in one.matrices.items()}) for one in own]
    parts = processes.gather(plain)
    count = sum(map(len, parts))
    ordered = [parts[index % len(parts)][index // len(parts)] for index in range(count)]
    matrices: dict[str, list[np.ndarray]] = {}
    for _, found in ordered:
        for row, matrix in found.items():
            matrices.setdefault(row, []).append(np.asarray(matrix))
    return [scores for scores, _ in ordered], matrices


def _found_scores(
    found: labeling.Found, truth: np.ndarray, sample: Mapping[str, Any], source: Source
) -> tuple[dict[str, float], str, np.ndarray | None]:
    """(scores, caption, confusion matrix of classes or None) of what was found in an image."""
    scores = registry.scores("mask", overlap.confusion(found.mask, truth > 0))
    caption = f"Dice {scores['dice']:.3f}"
    if "instances" in sample:
        table = instances.overlap_table(found.instances, truth)
        scores |= registry.scores("instances", table)
        if source.objects == "glands":
            scores |= registry.scores("glands", table)
        caption += f", AJI {scores['aji']:.3f}"
    if found.classes is None:
        return scores, caption, None
    height, width = truth.shape
    matrix = overlap.confusion(
        found.classes, sample["mask"][:height, :width], classes=len(source.classes)
    )
    scores |= classes.score_classes(matrix, source.classes)
    return scores, f"{caption}, mean IoU {scores['class_miou']:.3f}", matrix


def summary_of(results: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Metric -> mean and 95 % bootstrap interval over the images that have it.

    A mask alone has no score of instances, and an image no score of a class that it lacks.
    """
    names = dict.fromkeys(n for row in results for n in row if n not in ("name", "group"))
    return {
        name: intervals.bootstrap_mean([row[name] for row in results if name in row])._asdict()
        for name in names
    }


def pooled_of(
    matrices: Mapping[str, Sequence[np.ndarray]], names: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Metric -> score of a row's summed confusion matrices (K, K) and 95 % bootstrap interval."""
    return {
        f"{metric}_{row}": interval._asdict()
        for row, found in matrices.items()
        for metric, interval in classes.score_pooled(np.stack(found), names).items()
    }


def differences_of(
    results: Sequence[Row], pairs: Sequence[tuple[str, str]]
) -> dict[str, dict[str, float]]:
    """Paired difference over images, "a - b" -> mean and 95 % interval."""
    found = {}
    for pair in pairs:
        if set(pair) <= set(results[0]):
            a, b = ([row[key] for row in results] for key in pair)
            found[" - ".join(pair)] = intervals.paired_difference(a, b)._asdict()
    return found
