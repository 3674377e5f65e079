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

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from histojax import config, inference, runs
from histojax.data import degradation, resampling, sources
from histojax.data.registration import check_registration
from histojax.errors import UserError
from histojax.imaging import figures, nuclei, writers
from histojax.metrics import image_quality, intervals, overlap
from histojax.stages import content

Image = np.ndarray
# Feature maps are compared on windows of this side, which bounds their memory.
_FEATURE_WINDOW = 256
# Bytes of a SPEC that the name of a folder takes over, its last ones.
_NAME_BYTES = 60


@dataclasses.dataclass(frozen=True)
class Methods:
    """What is scored.

    Attributes:
        enhancers: name -> (lr uint8 (h, w, 3) -> uint8 (r h, r w, 3)).
        segmenters: name -> (image uint8 (H, W, 3) -> bool (H, W)).
        rows: (row's name, enhancer or None for the real image, segmenter).
        features: network -> (sr, hr uint8 (H, W, 3) -> distance).
    """

    enhancers: Mapping[str, Callable[[Image], Image]]
    segmenters: Mapping[str, Callable[[Image], np.ndarray]]
    rows: Sequence[tuple[str, str | None, str]]
    features: Mapping[str, Callable[[Image, Image], float]]


def evaluate(
    methods: Methods,
    source: sources.Source,
    settings: ConfigDict,
    *,
    figure: Callable[[str, dict[str, Image]], None] | None = None,
) -> list[dict[str, Any]]:
    """Per-image scores: {"name", "group", "<metric>_<method or row>": value}.

    Args:
        methods: what is scored.
        source: a data set; masks are needed where there are rows.
        settings: a run's config: seed, data.scale, data.degradation.
        figure: called with each image's name and {caption: picture}.

    Raises:
        UserError: if images lack the annotation that rows need.
    """
    recipe = degradation.Degradation.from_config(settings.data.degradation, settings.data.scale)
    results = []
    for index in range(len(source)):
        sample = source[index]
        hr, lr, mask = image_pair(sample, recipe, settings.seed)
        row: dict[str, Any] = {"name": sample["name"], "group": source.groups[index]}
        pictures: dict[str, Image] = {"lr": lr}
        enhanced = {name: run(lr) for name, run in methods.enhancers.items()}
        for name, sr in enhanced.items():
            scores = {
                **image_quality.score_rgb(sr, hr),
                **image_quality.score_luma(sr, hr, shave=settings.data.scale),
                "power_spectrum_error": image_quality.power_spectrum_error(
                    sr, hr, scale=settings.data.scale
                ),
                **{
                    f"feature_distance_{network}": distance(sr, hr)
                    for network, distance in methods.features.items()
                },
            }
            row.update({f"{metric}_{name}": value for metric, value in scores.items()})
            pictures[f"{name} {scores['psnr_rgb']:.2f} dB"] = sr
        pictures["hr"] = hr
        if methods.rows and mask is None:
            raise UserError(
                f"{sample['name']} has no instances or mask, which the rows "
                f"{', '.join(name for name, _, _ in methods.rows)} are scored against; annotate "
                "it or evaluate a generator alone"
            )
        for name, enhancer, segmenter in methods.rows:
            image = hr if enhancer is None else enhanced[enhancer]
            found = methods.segmenters[segmenter](image)
            scores = overlap.score_mask(found.astype(np.uint8), mask)
            row.update({f"{metric}_{name}": value for metric, value in scores.items()})
            pictures[f"{name} Dice {scores['dice']:.3f}"] = writers.overlay(
                image, found.astype(np.uint8)
            )
        if methods.rows:
            pictures["annotation"] = writers.overlay(hr, mask)
        if figure is not None:
            figure(sample["name"], pictures)
        results.append(row)
    return results


def image_pair(
    sample: Mapping[str, Any], recipe: degradation.Degradation, seed: int
) -> tuple[Image, Image, np.ndarray | None]:
    """(hr, lr, mask or None) of a sample; hr is cut to a multiple of the scale.

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
    mask = sample.get("instances", sample.get("mask"))
    if mask is not None:
        mask = (mask[:height, :width] > 0).astype(np.uint8)
    return hr, np.asarray(lr[: height // scale, : width // scale]), mask


def summary_of(results: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Metric -> mean and 95 % bootstrap interval over images."""
    names = [name for name in results[0] if name not in ("name", "group")]
    return {
        name: intervals.bootstrap_mean([row[name] for row in results])._asdict() for name in names
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


def bicubic(scale: int) -> Callable[[Image], Image]:
    """Pillow's bicubic enlargement, the baseline of every table."""
    return lambda lr: np.asarray(resampling.upsample(lr, scale, "bicubic"))


def run_enhancer(
    run: runs.Run, sizes: Sequence[tuple[int, int]], *, ensemble: bool = False
) -> Callable[[Image], Image]:
    """A run's generator on whole images; `sizes` are the (h, w) of the lr images to come."""
    network = inference.enhancer(run, ensemble=ensemble)
    core = network.core(sizes)
    return lambda lr: network(lr, core=core)["sr"]


def run_segmenter(
    run: runs.Run, sizes: Sequence[tuple[int, int]], *, ensemble: bool = False
) -> Callable[[Image], np.ndarray]:
    """A run's segmenter on whole images, at the threshold its checkpoint records."""
    network = inference.segmenter(run, ensemble=ensemble)
    core, threshold = network.core(sizes), run.meta["thresholds"]["mask"]
    return lambda image: network(image, core=core)["mask"][..., 0] >= threshold


def feature_metric(network: content.FeatureNetwork) -> Callable[[Image, Image], float]:
    """Mean feature distance over windows of an image, all layers of the network."""

    @jax.jit
    def distance(a: jax.Array, b: jax.Array) -> jax.Array:
        images = jnp.concatenate([a, b]).astype(jnp.float32) / 255
        maps = network.features(network.variables, images, network.layers)
        n = a.shape[0]
        return image_quality.feature_distance(
            {k: v[:n].astype(jnp.float32) for k, v in maps.items()},
            {k: v[n:].astype(jnp.float32) for k, v in maps.items()},
        )

    def metric(sr: Image, hr: Image) -> float:
        side = min(_FEATURE_WINDOW, *(s - s % 16 for s in hr.shape[:2]))
        windows = [
            (slice(y, y + side), slice(x, x + side))
            for y in range(0, hr.shape[0] - side + 1, side)
            for x in range(0, hr.shape[1] - side + 1, side)
        ]
        return float(np.mean([distance(sr[None, y, x], hr[None, y, x])[0] for y, x in windows]))

    return metric


def sizes_of(
    source: sources.Source, scale: int, *, smallest: int | None = None
) -> list[tuple[int, int]]:
    """(H, W) of every image, cut to multiples of the scale.

    Raises:
        UserError: for an image with a side below `smallest`, by default the scale, px.
    """
    smallest = scale if smallest is None else smallest
    sizes = []
    for index in range(len(source)):
        sample = source[index]
        height, width = (side - side % scale for side in sample["hr"].shape[:2])
        if min(height, width) < smallest:
            raise UserError(
                f"image {sample['name']!r} has {height} x {width} px, cut to multiples of {scale}, "
                f"and is scored from {smallest} px a side on: leave it out of the evaluation"
            )
        sizes.append((height, width))
    return sizes


def methods_of(
    folders: Mapping[str, runs.Run],
    source: sources.Source,
    settings: ConfigDict,
    *,
    enhancer: str | None = None,
    features: Mapping[str, content.FeatureNetwork] | None = None,
    ensemble: bool = False,
) -> Methods:
    """The rows of the table that a set of runs calls for.

    Args:
        folders: run's name -> run, in the order of training.
        source: what they will be scored on.
        settings: a run's config.
        enhancer: put before every segmenter: "bicubic", "none" (the real image alone), the folder
            of a run, or None for all that the runs offer.
        features: network's name -> feature network for feature distances.
        ensemble: whether networks are averaged over the eight flips and rotations.
    """
    scale = settings.data.scale
    smallest = scale if enhancer == "none" else image_quality.smallest_side(shave=scale)
    hr_sizes = sizes_of(source, scale, smallest=smallest)
    lr_sizes = [(h // scale, w // scale) for h, w in hr_sizes]
    generators = {name: run for name, run in folders.items() if hasattr(run.stage, "enhance")}
    masks = {name: run for name, run in folders.items() if hasattr(run.stage, "segment")}
    enhancers: dict[str, Callable[[Image], Image]] = {}
    if enhancer != "none":
        enhancers["bicubic"] = bicubic(scale)
    if enhancer is None:
        for name, run in generators.items():
            enhancers[name] = run_enhancer(run, lr_sizes, ensemble=ensemble)
    elif enhancer not in ("bicubic", "none"):
        outside = runs.load(pathlib.Path(enhancer))
        if not hasattr(outside.stage, "enhance"):
            raise UserError(
                f"--enhancer={enhancer} is a {outside.config.stage} run, which does not enhance "
                "images; name a generator, srgan or joint run, bicubic or none"
            )
        if outside.config.data.scale != scale:
            raise UserError(
                f"--enhancer={enhancer} enhances x{outside.config.data.scale} and the run was "
                f"trained for x{scale}; name one of the same scale"
            )
        enhancers[pathlib.Path(enhancer).name] = run_enhancer(outside, lr_sizes, ensemble=ensemble)
    segmenters: dict[str, Callable[[Image], np.ndarray]] = {}
    rows: list[tuple[str, str | None, str]] = []
    if masks:
        segmenters["otsu"] = nuclei.otsu_haematoxylin
        rows.append(("otsu", None, "otsu"))
    for name, run in masks.items():
        segmenters[name] = run_segmenter(run, hr_sizes, ensemble=ensemble)
        if run.config.stage == "joint" and enhancer is None:
            rows.append((name, name, name))
            rows.append((f"hr_to_{name}", None, name))
            continue
        label = "s" if run.config.stage == "segmentation" else name
        # A joint run's own generator is scored with its own segmenter, not with another's.
        paired = [e for e in enhancers if e not in masks or enhancer is not None]
        rows += [(f"{e}_to_{label}", e, name) for e in paired]
        rows.append((f"hr_to_{label}", None, name))
    return Methods(
        enhancers,
        segmenters,
        rows,
        {name: feature_metric(network) for name, network in (features or {}).items()},
    )


def stage_runs(workdir: pathlib.Path) -> dict[str, runs.Run]:
    """The trained runs below a workdir by name: those of a chain, or the one."""
    return {name: runs.load(folder) for name, folder in stage_folders(workdir).items()}


def stage_folders(workdir: pathlib.Path) -> dict[str, pathlib.Path]:
    """The folders of `stage_runs`, by name.

    Raises:
        UserError: if nothing below the workdir has been trained.
    """
    settings = config.read(workdir / "config.json")
    if (workdir / "checkpoints").is_dir():
        return {settings["name"]: workdir}
    found = {
        name: workdir / name
        for name in settings.get("chain", [])
        if (workdir / name / "checkpoints").is_dir()
    }
    if not found:
        raise UserError(f"{workdir} holds no trained stage yet; train it with histojax.main")
    return found


def own_features(folders: Mapping[str, runs.Run]) -> dict[str, content.FeatureNetwork]:
    """The segmentation run's encoder, at the layers that no run among these was trained on."""
    run = next((r for r in folders.values() if r.config.stage == "segmentation"), None)
    if run is None:
        return {}
    network = content.segmenter_features(
        run.stage.segmenter, run.state.variables("segmenter", averaged=True)
    )
    trained_on = {
        layer
        for other in folders.values()
        if other.config.loss.get("features", {}).get("network") == "segmenter"
        for layer in other.config.loss.features.layers
    }
    layers = tuple(layer for layer in network.layers if layer not in trained_on)
    return {"segmenter": dataclasses.replace(network, layers=layers)} if layers else {}


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
    settings = (like or last.config).copy_and_resolve_references()
    if data is not None:
        settings.data.source = data
    if max_pixels is not None:
        with settings.data.unlocked():  # runs from before there was one lack it
            settings.data.max_pixels = max_pixels
    needs_masks = any(hasattr(run.stage, "segment") for run in folders.values())
    source = runs.open_split(settings, split, fields=("mask",) if needs_masks else ())
    if enhancer != "none":
        if max_shift is None:
            max_shift = settings.data.get("max_shift", 1.0)  # older runs lack it
        check_registration(source, settings.data.scale, max_shift)
    networks = own_features(folders)
    for entry in features:
        name, _, path = entry.partition("=")
        networks[name] = content.pretrained_features(name, path=path)
    methods = methods_of(
        folders, source, settings, enhancer=enhancer, features=networks, ensemble=ensemble
    )
    output = output or workdir / "evaluation"
    record = data_record(settings, source, split)

    def figure(name: str, pictures: dict[str, Image]) -> None:
        figures.write_comparison(output / "figures" / f"{name}.png", name, pictures)

    results = evaluate(methods, source, settings, figure=figure)
    table = {
        "metrics": summary_of(results),
        "differences": differences_of(results, comparisons(methods)),
        "ensemble": ensemble,
        "enhancer": enhancer,
        "checkpoints": {name: run.step for name, run in folders.items()},
        "data": record,
    }
    writers.write_csv(output / "per_image.csv", results)
    writers.write_json(output / "metrics.json", table)
    return table


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
    own = config.read(runs.stage_folder(workdir) / "config.json")["data"]["source"]
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


def data_record(settings: ConfigDict, source: sources.Source, split: str) -> dict[str, Any]:
    """What decides the pairs of images that are scored; a folder's place is not told."""
    return {
        "source": "folder" if "folder:" in settings.data.source else settings.data.source,
        "split": split,
        "images": len(source),
        "fingerprint": source.fingerprint(),
        "scale": settings.data.scale,
        "degradation": config.resolved(settings.data.degradation),
        "seed": settings.seed,
    }


def comparisons(methods: Methods) -> list[tuple[str, str]]:
    """The differences that the table is read for, as pairs of metric names."""
    pairs = []
    for name in methods.enhancers:
        if name != "bicubic":
            pairs += [(f"{m}_{name}", f"{m}_bicubic") for m in ("psnr_rgb", "ssim_rgb")]
    own = [row for row, enhancer, segmenter in methods.rows if row == enhancer == segmenter]
    for joint in own:
        for row, _, segmenter in methods.rows:
            if segmenter != joint and row != "otsu":
                pairs.append((f"dice_{joint}", f"dice_{row}"))
    return pairs


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
