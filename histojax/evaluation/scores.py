"""Scores of trained runs on a data set, on whole images, tile by tile.

The low-resolution input is made from each image by the run's own degradation, always alike for the
same image, or read where the data has real ones. A chained workdir is scored row by row: bicubic,
every generator, and every way from the low-resolution image to a mask, beside the mask found in the
real high-resolution image and by Otsu's threshold.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from histojax.cli import say
from histojax.components import content
from histojax.components.images import tells_classes
from histojax.config import read_config, to_values
from histojax.data import degradation
from histojax.data.registration import check_registration
from histojax.data.sources.base import Source
from histojax.errors import UserError
from histojax.evaluation.rows import Methods, comparisons, methods_of, own_features
from histojax.imaging import figures, writers
from histojax.inference import labeling, tiled
from histojax.metrics import classes, image_quality, instances, intervals, overlap
from histojax.nuclei import fitting, separation
from histojax.runs import run_data, workdirs
from histojax.stages.base import enhances, segments

Image = np.ndarray
# Bytes of a SPEC that the name of a folder takes over, its last ones.
_NAME_BYTES = 60
# How post-processing is fitted: its parameters, in this order, and the values that are tried.
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
# The post-processing is fitted to the first so many images of a split: each is labelled some tens
# of times.
_FITTED_IMAGES = 24


def evaluate(
    methods: Methods,
    source: Source,
    config: ConfigDict,
    *,
    figure: Callable[[str, dict[str, Image]], None] | None = None,
    tally: Callable[[str, np.ndarray], None] | None = None,
) -> list[dict[str, Any]]:
    """Per-image scores: {"name", "group", "<metric>_<method or row>": value}.

    Args:
        methods: what is scored.
        source: a data set; masks are needed where there are rows.
        config: a run's config: seed, data.scale, data.degradation.
        figure: called with each image's name and {caption: picture}.
        tally: called with each row's name and, for each image, the confusion matrix (K, K) of its
            classes, where the row tells classes apart.

    Raises:
        UserError: if images lack the annotation that rows need.
    """
    recipe = degradation.Degradation.from_config(config.data.degradation, config.data.scale)
    results = []
    for index in range(len(source)):
        sample = source[index]
        hr, lr, truth = image_pair(sample, recipe, config.seed)
        row: dict[str, Any] = {"name": sample["name"], "group": source.groups[index]}
        pictures: dict[str, Image] = {"lr": lr}
        enhanced = {name: run(lr) for name, run in methods.enhancers.items()}
        for name, sr in enhanced.items():
            scores = {
                **image_quality.score_rgb(sr, hr),
                **image_quality.score_luma(sr, hr, shave=config.data.scale),
                "power_spectrum_error": image_quality.power_spectrum_error(
                    sr, hr, scale=config.data.scale
                ),
                **{
                    f"feature_distance_{network}": distance(sr, hr)
                    for network, distance in methods.features.items()
                },
            }
            row.update({f"{metric}_{name}": value for metric, value in scores.items()})
            pictures[f"{name} {scores['psnr_rgb']:.2f} dB"] = sr
        pictures["hr"] = hr
        if methods.rows and truth is None:
            raise UserError(
                f"{sample['name']} has no instances or mask, which the rows "
                f"{', '.join(name for name, _, _ in methods.rows)} are scored against; annotate "
                "it or evaluate a generator alone"
            )
        for name, enhancer, segmenter in methods.rows:
            image = hr if enhancer is None else enhanced[enhancer]
            found = methods.segmenters[segmenter](image)
            scores = overlap.score_mask(found.mask, truth > 0)
            caption = f"{name} Dice {scores['dice']:.3f}"
            if "instances" in sample:
                scores |= instances.score_instances(found.instances, truth)
                caption += f", AJI {scores['aji']:.3f}"
            if found.classes is not None:
                matrix = overlap.confusion(
                    found.classes,
                    sample["mask"][: hr.shape[0], : hr.shape[1]],
                    classes=len(source.classes),
                )
                scores |= classes.score_classes(matrix, source.classes)
                caption += f", mean IoU {scores['class_miou']:.3f}"
                if tally is not None:
                    tally(name, matrix)
            row.update({f"{metric}_{name}": value for metric, value in scores.items()})
            pictures[caption] = writers.overlay(image, found.instances)
        if methods.rows:
            pictures["annotation"] = writers.overlay(hr, truth)
        if figure is not None:
            figure(sample["name"], pictures)
        results.append(row)
    return results


def image_pair(
    sample: Mapping[str, Any], recipe: degradation.Degradation, seed: int
) -> tuple[Image, Image, np.ndarray | None]:
    """(hr, lr, annotation or None) of a sample; hr is cut to a multiple of the scale.

    The annotation holds instances, int32 (H, W), or of a sample without them its mask's classes.

    The low-resolution image is the sample's own where it has one, else made by the recipe with
    parameters drawn from (seed, name).
    """
    scale = recipe.scale
    height, width = (side - side % scale for side in sample["hr"].shape[:2])
    hr = np.ascontiguousarray(sample["hr"][:height, :width])
    lr = sample.get("lr")
    if lr is None:
        rng = degradation.evaluation_rng(seed, sample["name"])
        shape = (height // scale, width // scale, 3)
        parameters = degradation.sample_parameters(recipe, rng, shape)
        lr = degradation.degrade(hr, recipe, parameters)
    truth = sample.get("instances", sample.get("mask"))
    if truth is not None:
        truth = truth[:height, :width]
    return hr, np.asarray(lr[: height // scale, : width // scale]), truth


def summary_of(results: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Metric -> mean and 95 % bootstrap interval over the images that have it.

    Instances are not scored where an image has but a mask, nor a class that it and what was found
    in it lack.
    """
    names = dict.fromkeys(n for row in results for n in row if n not in ("name", "group"))
    return {
        name: intervals.bootstrap_mean([row[name] for row in results if name in row])._asdict()
        for name in names
    }


def pooled_of(
    matrices: Mapping[str, Sequence[np.ndarray]], names: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Metric -> score of each row's summed confusion matrix and 95 % bootstrap interval.

    Args:
        matrices: row -> (K, K) of each image, as `evaluate` tallies them.
        names: of the classes.
    """
    return {
        f"{metric}_{row}": interval._asdict()
        for row, found in matrices.items()
        for metric, interval in classes.score_pooled(np.stack(found), names).items()
    }


def differences_of(
    results: list[dict[str, Any]], pairs: Sequence[tuple[str, str]]
) -> dict[str, dict[str, float]]:
    """Paired difference over images, "a - b" -> mean and 95 % interval."""
    return {
        f"{a} - {b}": intervals.paired_difference(
            [row[a] for row in results], [row[b] for row in results]
        )._asdict()
        for a, b in pairs
        if a in results[0] and b in results[0]
    }


def stage_runs(workdir: pathlib.Path) -> dict[str, workdirs.Run]:
    """The trained runs below a workdir by name: those of a chain, or the one."""
    return {name: workdirs.load(folder) for name, folder in stage_folders(workdir).items()}


def stage_folders(workdir: pathlib.Path) -> dict[str, pathlib.Path]:
    """The folders of `stage_runs`, by name.

    Raises:
        UserError: if nothing below the workdir has been trained.
    """
    config = read_config(workdir / "config.json")
    if (workdir / "checkpoints").is_dir():
        return {config["name"]: workdir}
    found = {
        name: workdir / name
        for name in config.get("chain", [])
        if (workdir / name / "checkpoints").is_dir()
    }
    if not found:
        raise UserError(f"{workdir} holds no trained stage yet; train it with histojax.main")
    return found


def score_workdir(
    workdir: pathlib.Path,
    *,
    data: str | None = None,
    split: str = "val",
    enhancer: str | None = None,
    features: Sequence[str] = (),
    ensemble: bool = False,
    max_pixels: int | None = None,
    max_shift: float | None = None,
    output: pathlib.Path | None = None,
    like: ConfigDict | None = None,
) -> dict[str, Any]:
    """Evaluates a workdir and writes metrics.json, per_image.csv and figures/ to `output`.

    Args:
        workdir: a run's folder, or a chain's.
        data: SPEC; default the run's own.
        split: of the data.
        enhancer: as in `methods_of`.
        features: NAME or NAME=WEIGHTS of further feature networks.
        ensemble: as in `methods_of`.
        output: default workdir/evaluation.
        like: a config of the same scale, whose data, degradation and seed are taken instead of the
            run's own.

    Returns:
        What metrics.json holds: {"metrics", "differences", "ensemble", "enhancer", "checkpoints",
        "data"}.

    Raises:
        UserError: for whatever is wrong with workdir, data or flags.
    """
    folders = stage_runs(workdir)
    last = next(reversed(folders.values()))
    config = (like or last.config).copy_and_resolve_references()
    if data is not None:
        config.data.source = data
    if max_pixels is not None:
        with config.data.unlocked():  # runs from before there was one lack it
            config.data.max_pixels = max_pixels
    needs_masks = any(segments(run.stage) for run in folders.values())
    source = run_data.open_split(config, split, fields=("instances",) if needs_masks else ())
    for run in folders.values():
        check_same_classes(run, source, config.data.source)
    if enhancer != "none":
        if max_shift is None:
            max_shift = config.data.get("max_shift", 1.0)  # older runs lack it
        check_registration(source, config.data.scale, max_shift)
    networks = own_features(folders)
    for entry in features:
        name, _, path = entry.partition("=")
        networks[name] = content.pretrained_features(
            name, path=path, path_field=f"--features={name}"
        )
    methods = methods_of(
        folders, source, config, enhancer=enhancer, features=networks, ensemble=ensemble
    )
    output = output or workdir / "evaluation"
    record = data_record(config, source, split)

    def figure(name: str, pictures: dict[str, Image]) -> None:
        figures.write_comparison(output / "figures" / f"{name}.png", name, pictures)

    matrices: dict[str, list[np.ndarray]] = {}

    def tally(row: str, matrix: np.ndarray) -> None:
        matrices.setdefault(row, []).append(matrix)

    results = evaluate(methods, source, config, figure=figure, tally=tally)
    table = {
        "metrics": {**summary_of(results), **pooled_of(matrices, source.classes)},
        "differences": differences_of(results, comparisons(methods)),
        "ensemble": ensemble,
        "enhancer": enhancer,
        "checkpoints": {name: run.step for name, run in folders.items()},
        "data": record,
    }
    writers.write_csv(output / "per_image.csv", results)
    writers.write_json(output / "metrics.json", table)
    return table


def check_same_classes(run: workdirs.Run, source: Source, spec: str) -> None:
    """Checks that what a run tells apart is what data are annotated with.

    Raises:
        UserError: if it tells classes apart, and they are others.
    """
    segmenter = getattr(run.stage, "segmenter", None)
    if segmenter is None or not tells_classes(segmenter.heads):
        return
    own = run.meta["classes"]
    if own != list(source.classes):
        raise UserError(
            f"{run.workdir} tells the classes {', '.join(own)} apart, and {spec} has "
            f"{', '.join(source.classes)}: score it on data with the same ones, named alike and in "
            "the same order"
        )


def fitted_grid(
    parameters: separation.Parameters, heads: Sequence[str]
) -> dict[str, tuple[float, ...]]:
    """What of `GRID` a form has, weights of maps that are not predicted left out."""
    known = {field.name for field in dataclasses.fields(parameters)}
    for head in ("distance", "contour"):
        if head not in heads:
            known.discard(f"{head}_weight")
    return {name: values for name, values in GRID.items() if name in known}


def fit_instances(run: workdirs.Run) -> separation.Parameters | None:
    """Fits a run's post-processing to its val split, by AJI, and leaves it in its workdir.

    Nothing is done where it has no markers, its config's `instances.fit` is off, or its best
    checkpoint was fitted before.

    Args:
        run: of a workdir, with a segmenter.

    Raises:
        UserError: for a parameter of the config that breaks its rule, or what the disk refuses.
    """
    start = labeling.parameters_of(run)
    if start is None or not run.config.instances.fit:
        return start
    fitted = labeling.fitted_parameters(run)
    if fitted is not None:
        return fitted
    config = run.config
    source = run_data.open_split(config, "val", fields=("instances",))
    recipe = degradation.Degradation.from_config(config.data.degradation, config.data.scale)
    reads_lr = enhances(run.stage)
    network = tiled.predictor(run)
    maps, truths = [], []
    count = min(len(source), _FITTED_IMAGES)
    say(f"{config.name}: fitting the post-processing to {count} images of the val split")
    for index in range(count):
        hr, lr, truth = image_pair(source[index], recipe, config.seed)
        found = network(lr if reads_lr else hr)
        maps.append({head: found[head][..., 0] for head in separation.MAPS if head in found})
        truths.append(truth)
    best, tried = fitting.fit_thresholds(
        maps,
        truths,
        fitted_grid(start, run.stage.segmenter.heads),
        start=start,
        label=separation.label,
        score=lambda labels, truth: instances.score_instances(labels, truth)["aji"],
    )
    writers.write_json(
        workdirs.stage_folder(run.workdir) / labeling.FILE,
        {
            "checkpoint": labeling.checkpoint_of(run),
            "kind": separation.kind_of(best),
            "parameters": dataclasses.asdict(best),
            "aji": max(score for _, score in tried),
            "aji_before": tried[0][1],
            "tried": len(tried),
            "images": list(source.names[:count]),
        },
    )
    return best


def own_folder(
    workdir: pathlib.Path,
    split: str = "val",
    *,
    data: str | None = None,
    enhancer: str | None = None,
    ensemble: bool = False,
) -> pathlib.Path:
    """The folder of a scoring in its workdir: evaluation, with what sets it apart in the name.

    So the scores of other images, or found in another way, leave those of training alone, which
    reports show: evaluation-test, evaluation-enhancer_none-ensemble.

    Raises:
        UserError: if it is no workdir.
    """
    own = read_config(workdirs.stage_folder(workdir) / "config.json")["data"]["source"]
    words = [
        *([_file_word(data)] if data not in (None, own) else []),
        *([split] if split != "val" else []),
        *([f"enhancer_{_file_word(enhancer)}"] if enhancer else []),
        *(["ensemble"] if ensemble else []),
    ]
    return workdir / "-".join(["evaluation", *words])


def _file_word(text: str) -> str:
    """A text as part of a file's name; where it had to be changed, with a digest of it."""
    word = re.sub(r"[^\w.]+", "_", text).strip("_")
    word = word.encode()[-_NAME_BYTES:].decode(errors="ignore")
    digest = hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:8]
    return word if word == text else f"{word}_{digest}"


def data_record(config: ConfigDict, source: Source, split: str) -> dict[str, Any]:
    """What decides the pairs of images that are scored; a folder's place is not told."""
    return {
        "source": "folder" if "folder:" in config.data.source else config.data.source,
        "split": split,
        "images": len(source),
        "fingerprint": source.fingerprint(),
        "scale": config.data.scale,
        "degradation": to_values(config.data.degradation),
        "seed": config.seed,
    }


def table_text(metrics: Mapping[str, Mapping[str, float]]) -> str:
    """The means as lines of "metric_method  mean [low, high]"."""
    width = max(len(name) for name in metrics)
    return "\n".join(f"{name:<{width}}  {interval_text(m)}" for name, m in sorted(metrics.items()))


def interval_text(m: Mapping[str, float], *, sign: str = "") -> str:
    """A mean with its interval, and how many images it does without; a dash for a mean of none.

    Args:
        m: of `summary_of` or `differences_of`.
        sign: "+" to give the sign of positive numbers too.
    """
    text = f"{'-':>9}"
    if math.isfinite(m["mean"]):
        text = f"{m['mean']:{sign}9.4f}  [{m['low']:{sign}.4f}, {m['high']:{sign}.4f}]"
    # PSNR alone is infinite, where the images are identical.
    return text + (f"  (identical images left out: {m['left_out']})" if m["left_out"] else "")
