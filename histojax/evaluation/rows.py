"""The rows of a table of scores: ways from a low-resolution image to an enhanced one, to nuclei."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from histojax.components import content
from histojax.data.sources.base import Source
from histojax.errors import UserError
from histojax.imaging import enlargement, tiling
from histojax.inference import labeling, tiled
from histojax.metrics import image_quality
from histojax.nuclei import classical
from histojax.runs import workdirs
from histojax.stages.base import enhances, segments
from histojax.zoo.model_file import SUFFIX

Image = np.ndarray
# Metrics of enhanced images whose differences are reported.
_OF_IMAGES = ("psnr_rgb", "ssim_rgb", "st_lpips")
# Side of the windows on which feature maps are compared, px; it bounds their memory.
_FEATURE_WINDOW = 256


@dataclasses.dataclass(frozen=True)
class Methods:
    """What is scored, by name.

    Attributes:
        enhancers: of lr uint8 (h, w, 3) to uint8 (r h, r w, 3).
        segmenters: of an image uint8 (H, W, 3) to its nuclei.
        rows: (row's name, enhancer or None for the real image, segmenter).
        features: networks' distances of sr and hr, uint8 (H, W, 3).
    """

    enhancers: Mapping[str, Callable[[Image], Image]]
    segmenters: Mapping[str, Callable[[Image], labeling.Found]]
    rows: Sequence[tuple[str, str | None, str]]
    features: Mapping[str, Callable[[Image, Image], float]]


def methods_of(
    runs: Mapping[str, workdirs.Run],
    source: Source,
    config: ConfigDict,
    *,
    enhancer: str | None = None,
    features: Mapping[str, content.FeatureNetwork] | None = None,
    ensemble: bool = False,
) -> Methods:
    """Every enhancer, segmenter and row of runs, which are named in the order of training.

    Args:
        enhancer: that every segmenter reads: one of `enlargement.ENHANCERS`, "none" (the real image
            alone), the folder of a run, or None for bicubic and all of the runs.
        features: by name, for feature distances.
        ensemble: whether networks are averaged over the eight flips and rotations.
    """
    scale = config.data.scale
    smallest = scale if enhancer == "none" else image_quality.smallest_side(scale)
    hr_sizes = sizes_of(source, scale, smallest=smallest)
    lr_sizes = [(h // scale, w // scale) for h, w in hr_sizes]
    generators = {name: run for name, run in runs.items() if enhances(run.stage)}
    masks = {name: run for name, run in runs.items() if segments(run.stage)}
    enhancers: dict[str, Callable[[Image], Image]] = {}
    if enhancer != "none":
        enhancers["bicubic"] = untrained("bicubic", scale)
    if enhancer is None:
        if generators:
            enhancers |= {name: untrained(name, scale) for name in enlargement.names(scale)}
        for name, run in generators.items():
            enhancers[name] = run_enhancer(run, lr_sizes, ensemble=ensemble)
    elif enhancer in enlargement.ENHANCERS:
        enhancers[enhancer] = untrained(enhancer, scale)
    elif enhancer != "none":
        outside = workdirs.load(workdirs.place_of(enhancer))
        if not enhances(outside.stage):
            raise UserError(
                f"--enhancer={enhancer} is a {outside.config.stage} run, which does not enhance "
                "images; name a generator, srgan or joint run, none or one of "
                f"{', '.join(enlargement.ENHANCERS)}"
            )
        if outside.config.data.scale != scale:
            raise UserError(
                f"--enhancer={enhancer} enhances x{outside.config.data.scale} and the run was "
                f"trained for x{scale}; name one of the same scale"
            )
        name = pathlib.Path(workdirs.name_of(outside.workdir)).name.removesuffix(SUFFIX)
        enhancers[name] = run_enhancer(outside, lr_sizes, ensemble=ensemble)
    segmenters: dict[str, Callable[[Image], labeling.Found]] = {}
    rows: list[tuple[str, str | None, str]] = []
    if masks:
        segmenters["classical"] = by_classical(source.mpp)
        rows.append(("classical", None, "classical"))
    for name, run in masks.items():
        segmenters[name] = run_segmenter(run, hr_sizes, mpp=source.mpp, ensemble=ensemble)
        label = "s" if run.config.stage == "segmentation" else name
        if name in generators and enhancer is None:
            rows.append((name, name, name))
        else:
            # A joint run's own generator is scored with its own segmenter, not with another's, and
            # of the baselines bicubic stands for all.
            unpaired = {*masks, *enlargement.ENHANCERS} - {"bicubic"} if enhancer is None else {}
            paired = [e for e in enhancers if e not in unpaired]
            rows += [(f"{e}_to_{label}", e, name) for e in paired]
        rows.append((f"hr_to_{label}", None, name))
    distances = {name: feature_metric(network) for name, network in (features or {}).items()}
    return Methods(enhancers, segmenters, rows, distances)


def sizes_of(source: Source, scale: int, *, smallest: int) -> list[tuple[int, int]]:
    """(H, W) of every image, cut to multiples of the scale; UserError where below `smallest` px."""
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


def untrained(name: str, scale: int) -> Callable[[Image], Image]:
    """One of `enlargement.ENHANCERS` on whole images; UserError: it has another scale."""
    enlargement.check_scale(name, scale)
    return lambda lr: enlargement.ENHANCERS[name](lr, scale)


def run_enhancer(
    run: workdirs.Run, sizes: Sequence[tuple[int, int]], *, ensemble: bool = False
) -> Callable[[Image], Image]:
    """A run's generator on whole images; `sizes` are the (h, w) of the lr images to come."""
    network = tiled.enhancer(run, ensemble=ensemble)
    core = network.core(sizes)
    return lambda lr: network(lr, core=core)["sr"]


def run_segmenter(
    run: workdirs.Run,
    sizes: Sequence[tuple[int, int]],
    *,
    mpp: float | None = None,
    ensemble: bool = False,
) -> Callable[[Image], labeling.Found]:
    """A run's segmenter on whole images of `sizes` (H, W), post-processed as the run says."""
    network = tiled.segmenter(run, ensemble=ensemble)
    core, parameters = network.core(sizes), labeling.parameters_of(run)
    return lambda image: labeling.find(run, network(image, core=core), parameters, mpp=mpp)


def by_classical(mpp: float | None) -> Callable[[Image], labeling.Found]:
    """Nuclei without a network, the baseline, in images of `mpp` um per px where it is known."""

    def find(image: Image) -> labeling.Found:
        instances = classical.find(image, classical.Parameters(), mpp)
        return labeling.Found(instances > 0, instances)

    return find


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
        height, width = hr.shape[:2]
        side = min(_FEATURE_WINDOW, height, width) // network.stride * network.stride
        windows = tiling.squares(height, width, side)
        # One by one: an interrupt while numpy converts a list of arrays comes out as a ValueError.
        found = [float(distance(sr[None, y, x], hr[None, y, x])[0]) for y, x in windows]
        return float(np.mean(found))

    return metric


def own_features(folders: Mapping[str, workdirs.Run]) -> dict[str, content.FeatureNetwork]:
    """The segmentation run's encoder, at the layers that no run among these was trained on."""
    run = next((r for r in folders.values() if r.config.stage == "segmentation"), None)
    # An encoder of normalised images would see other colours here.
    if run is None or run.config.data.stain.method != "none":
        return {}
    assert segments(run.stage)
    variables = run.state.variables("segmenter", averaged=True)
    network = content.segmenter_features(run.stage.segmenter, variables)
    trained_on = {
        layer
        for other in folders.values()
        if other.config.loss.get("features", {}).get("network") == "segmenter"
        for layer in other.config.loss.features.layers
    }
    layers = tuple(layer for layer in network.layers if layer not in trained_on)
    return {"segmenter": dataclasses.replace(network, layers=layers)} if layers else {}


def comparisons(methods: Methods) -> list[tuple[str, str]]:
    """Pairs of keys whose differences are reported: networks to baselines, joint to other rows."""
    pairs = []
    for name in [name for name in methods.enhancers if name not in enlargement.ENHANCERS]:
        for base in [b for b in ("bicubic", "linear") if b in methods.enhancers]:
            pairs += [(f"{m}_{name}", f"{m}_{base}") for m in _OF_IMAGES]
    own = [row for row, enhancer, segmenter in methods.rows if row == enhancer == segmenter]
    for joint in own:
        for row, _, segmenter in methods.rows:
            if segmenter != joint and row != "classical":
                pairs += [(f"{metric}_{joint}", f"{metric}_{row}") for metric in ("dice", "aji")]
    return pairs
