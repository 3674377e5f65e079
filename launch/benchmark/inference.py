"""Use: tiled inference, streaming, nuclei of maps, their export, synthesis, and scores.

Networks are untrained, because weights do not change the time. Memory is bounded by the tile, the
strip and the number of nuclei.
"""

import dataclasses
import functools
import math
import pathlib
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
import scipy.ndimage
import tifffile
from flax import linen as nn

from configs import joint, pyramid
from histojax.components import networks
from histojax.config import from_values
from histojax.data.sources.synthetic import SyntheticSource
from histojax.experiments import chain
from histojax.exports import geojson
from histojax.imaging import reader, tiling, writers
from histojax.inference import arrays, image, tiled
from histojax.metrics import instances
from histojax.nuclei import outlines, targets
from histojax.nuclei.watershed import InstanceParameters, label_instances
from histojax.runs import workdirs
from histojax.stages.base import enhances, segments
from histojax.synthesis import files, mask_bank
from histojax.synthesis.tissue import Synthesizer
from histojax.tissue.rendering import tissue
from histojax.training import sharding
from histojax.zoo import registry
from launch.benchmark import timing
from launch.benchmark.steps import Row, untrained_run

# Streaming: side of the repeated patch, px; share of the image that is made nuclear; px averaged.
_PATCH, _FOREGROUND, _SMOOTHED = 512, 0.25, 3
# Synthesis: side of the images that make up the mask, px. No multiple is the border of a tile.
_IMAGE = 400


def measure_tiled(
    values: Mapping[str, Any], *, name: str, size: int, repeats: int, matmul_size: int | None = None
) -> list[Row]:
    """Tiled inference on a made-up image of `size` px: enhance, segment, and predict, for both."""
    config = from_values(dict(values))
    run, mesh = untrained_run(config), sharding.data_mesh(jax.local_devices())
    peak_flops = timing.matmul_peak(mesh, networks.compute_dtype(config), size=matmul_size)
    makers = {"enhance": tiled.enhancer} if enhances(run.stage) else {}
    if segments(run.stage):
        makers["segment"] = tiled.segmenter
    if len(makers) == 2:
        makers["predict"] = tiled.predictor
    rows = []
    for task, maker in makers.items():
        network = maker(run)
        side = max(size // network.scale, 1)
        output_size = side * network.scale
        image = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
        with timing.Clock() as first:
            network(image)
        spent = timing.timed(functools.partial(network, image), repeats)
        core = network.core([(side, side)])
        fields = dict(output_size=output_size, core=core, halo=network.halo)
        fields["first_seconds"] = first.spent["seconds"]
        # As of a window of another network, because the first one's is traced and compiled already.
        window = core + 2 * tiling.round_up(network.halo, network.stride)
        shape = jax.ShapeDtypeStruct((1, window, window, 3), np.uint8)
        flop = timing.model_flop(jax.jit(maker(run).windows), shape)
        flop = flop and flop * math.ceil(side / core) ** 2
        fields |= dict(images_per_second=1 / spent["seconds"], model_flop=flop)
        fields |= dict(compile_seconds=first.spent["seconds"] - spent["seconds"])
        share = flop and flop / spent["seconds"] / peak_flops
        fields |= dict(peak_flops=peak_flops, model_share_of_peak=share)
        rows.append(_row(f"{name}: {task}", spent, output_size**2, **fields))
    return rows


def _row(name: str, spent: Mapping[str, float], pixels: int, **fields: Any) -> Row:
    rate = pixels / 1e6 / spent["seconds"]
    measured = {"megapixels_per_second": rate, "peak_bytes": timing.peak_bytes()}
    return {"name": name, **fields, **spent, **measured}


def repeated(patch: np.ndarray, size: int, rows: int = _PATCH) -> Iterator[np.ndarray]:
    """Rows of a made-up slide, (rows, size, ...) each: one patch (512, 512, ...), repeated."""
    columns = np.arange(size) % _PATCH
    for y in range(0, size, rows):
        lines = np.arange(y, min(y + rows, size)) % _PATCH
        yield patch[np.ix_(lines, columns)]


def _smoothed(network: tiled.TiledNetwork) -> tiled.TiledNetwork:
    """The network with its mask averaged over squares of 3 x 3 px.

    An untrained segmenter's mask is speckle, with fifty times as many parts as tissue has nuclei.
    Smoothed, it has about 570 a megapixel, as many as MoNuSeg (Kumar et al. 2017) has nuclei.
    """

    @jax.jit
    def windows(image: jax.Array) -> dict[str, jax.Array]:
        outputs = network.windows(image)
        rows = nn.avg_pool(outputs["mask"], (_SMOOTHED, 1), padding="SAME")
        return {**outputs, "mask": nn.avg_pool(rows, (1, _SMOOTHED), padding="SAME")}

    reach = -(-(_SMOOTHED // 2) // network.scale)
    parts = network.parts and (network.parts[0], _smoothed(network.parts[1]))
    return dataclasses.replace(network, windows=windows, halo=network.halo + reach, parts=parts)


def measure_streaming(*, size: int, tile: int) -> list[Row]:
    """Predicts a slide of `size` px by the networks of configs/joint.py:smoke, file to files."""
    run = untrained_run(joint.get_config("smoke"))
    with tempfile.TemporaryDirectory(prefix="histojax-benchmark-") as folder:
        root = pathlib.Path(folder)
        source = root / "slide.tif"
        patch = tissue(0, 0, _PATCH)["image"]
        writers.stream_tiff(source, repeated(patch, size), height=size, width=size, mpp=1.0)
        network = _smoothed(tiled.predictor(run, largest=tile))
        # This compiles, and finds the threshold that makes a quarter of the image nuclear.
        assert network.parts is not None
        enhance, segment = network.parts
        outputs = segment(enhance(patch[:size, :size])["sr"])
        run.meta["thresholds"]["mask"] = float(np.quantile(outputs["mask"], 1 - _FOREGROUND))
        with timing.Clock() as clock:
            made = image.predict_image(run, network, source, root)
        side = made.size[0] * made.scale
        fields = dict(tile=tile, nuclei=made.nuclei, output_size=side)
        pixels = side * made.size[1] * made.scale
        return [_row(f"joint, {size:,} px", clock.spent, pixels, **fields)]


def maps_of(size: int) -> dict[str, np.ndarray]:
    """The maps of a made-up image: one patch, repeated; {name: float32 (size, size)}."""
    labels = tissue(0, 0, _PATCH)["instances"]
    rng = np.random.default_rng(0)
    maps = {}
    for name, mask in (("mask", labels > 0), ("marker", targets.shape_markers(labels) > 0)):
        # Edges and noise are smooth, as a network's are.
        noise = scipy.ndimage.gaussian_filter(rng.normal(size=mask.shape), 1.5)
        smooth = scipy.ndimage.gaussian_filter(mask.astype(np.float32), 1) + 0.5 * noise
        maps[name] = np.concatenate([*repeated(smooth.clip(0, 1).astype(np.float32), size)])
    return maps


def measure_postprocessing(*, size: int, whole: bool) -> list[Row]:
    """Labels maps of size x size px, by flooding what holds several markers, or all of the mask."""
    from tests.oracles import whole_image

    parameters, clock, maps = InstanceParameters(), timing.Clock(), maps_of(size)
    label = whole_image if whole else label_instances
    with clock:
        labels = label(maps, parameters)
    fields = dict(size=size, nuclei=int(labels.max()), labels_crc32=f"{zlib.crc32(labels):08x}")
    return [_row("all flooded" if whole else "in use", clock.spent, size * size, **fields)]


def measure_geojson(*, count: int, side: int = 512) -> list[Row]:
    """Writes `count` nuclei or a few more as NAME.geojson.gz: those of a field, side by side.

    Coordinates are fractional, as on a slide whose scale is not that of the network.
    """
    image = reader.read_image(registry.SAMPLES / "breast_40x.tif")[:side, :side]
    # In a process of its own, as its memory is not that of the export.
    found = timing.apart(arrays.predict_array, image=image, model="nuclei-40x", mpp=0.25)
    own, number = found.outlines, len(found.table["label"])
    copies = -(-count // number)
    across = math.isqrt(copies) + 1
    points = np.tile(own.points.astype(np.int32), (copies, 1))
    for index, part in enumerate(points.reshape(copies, -1, 2)):
        part += np.int32([index % across, index // across]) * side
    at = np.arange(copies)[:, None]
    nuclei = outlines.Outlines(
        points,
        np.append(at * len(own.points) + own.rings[:-1], len(points)),
        np.append(at * (len(own.rings) - 1) + own.polygons[:-1], copies * (len(own.rings) - 1)),
        (at * number + own.labels).ravel(),
    )
    table = {name: np.tile(values, copies) for name, values in found.table.items()}
    table["label"] = np.arange(copies * number) + 1
    with tempfile.TemporaryDirectory(prefix="histojax-benchmark-") as folder:
        path = pathlib.Path(folder) / "slide.geojson.gz"
        before = timing.peak_bytes()
        with timing.Clock() as clock:
            geojson.write(path, "slide.svs", nuclei, table, scale=(0.25 / 0.2325,) * 2)
        sizes = dict(nuclei=copies * number, file_bytes=path.stat().st_size)
    peaks = dict(before_bytes=before, peak_bytes=timing.peak_bytes())
    return [{"name": f"{count:,} nuclei", **sizes, **clock.spent, **peaks}]


def border_ratio(image: np.ndarray, core: int, stride: int = 1) -> float:
    """Mean difference of neighbours across the borders of tiles of side `core`, over that inside.

    Inside, only lines that `stride` divides count: a network that enlarges may leave a pattern of
    that period, and the borders lie on its lines.
    """
    across, inside = [], []
    for axis in (0, 1):
        off = np.abs(np.diff(image.astype(np.int16), axis=axis)).mean((1 - axis, 2))
        line = np.arange(len(off)) + 1
        across.append(off[line % core == 0])
        inside.append(off[(line % stride == 0) & (line % core != 0)])
    return float(np.concatenate(across).mean() / np.concatenate(inside).mean())


def measure_synthesis(*, size: int, tile: int, workdir: str) -> list[Row]:
    """Makes tissue for a mask of `size` px, file to files, by a pyramid (untrained: laptop's)."""
    if workdir:
        run = workdirs.load(workdirs.place_of(workdir))
    else:
        run = untrained_run(chain.stages_of(pyramid.get_config("laptop"))[-1])
    bank = mask_bank.collect(SyntheticSource(train=4, size=_IMAGE))
    mask = mask_bank.replaced(bank, size, size, np.random.default_rng(0)).astype(np.uint32)
    network = run.stage.synthesizer
    core = tiling.core_size([(size, size)], halo=network.halo, stride=network.stride, largest=tile)
    with tempfile.TemporaryDirectory(prefix="histojax-benchmark-") as folder:
        root = pathlib.Path(folder)
        path = root / "mask.tif"
        writers.stream_tiff(path, [mask], height=size, width=size)
        nuclei = int(mask.max())
        del mask
        synthesizer = Synthesizer(run, tile=tile)
        synthesizer.image(np.zeros((core, core), np.int32), seed=(0,))  # compiles
        with timing.Clock() as clock:
            (made,) = files.write_pairs(synthesizer, [path], root / "pairs")
        fields = dict(size=size, tile=core, nuclei=nuclei)
        row = _row(workdir or "untrained", clock.spent, size * size, **fields)
        return [{**row, "border_ratio": border_ratio(tifffile.imread(made), core, network.stride)}]


def squares(size: int, across: int) -> np.ndarray:
    """Label image, int32 (size, size), of a lattice of `across` x `across` square nuclei."""
    pitch = size / across
    line = (np.arange(size) / pitch).astype(np.int32)
    nuclear = np.arange(size) % pitch >= pitch / 4
    return np.where(nuclear[:, None] & nuclear, line[:, None] * across + line + 1, 0)


def measure_instances(*, size: int, across: int, repeats: int, loops: bool) -> list[Row]:
    """Scores squares against themselves moved, without every tenth, by a table and by loops."""
    truth = squares(size, across)
    moved = np.roll(truth, (3, 5), (0, 1))
    prediction = np.where(moved % 10 == 0, 0, moved)

    def score() -> None:
        table = instances.overlap_table(prediction, truth)
        instances.aji(table), instances.aji_plus(table)
        instances.panoptic_quality(table), instances.f1(table)

    common = {"size": size, "nuclei": across**2}
    rows = [{"name": "table, in use", **common, **timing.timed(score, repeats)}]
    rows[0]["peak_bytes"] = timing.peak_bytes()
    if loops:
        from tests.oracles import score_by_loops

        with timing.Clock() as clock:
            score_by_loops(prediction, truth)
        rows.append({"name": "loops", **common, **clock.spent})
    return rows
