"""Tissue for masks of any size, by a trained pyramid, tile by tile without seams.

Every scale's noise is a function of the seed and of where a pixel lies, and networks read beyond
each tile what they depend on: tiles agree with the whole, whatever their size. The built-in model's
tissue, which a pyramid may start from, is drawn whole.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage

from histojax.cli import say
from histojax.components import palette
from histojax.components.images import quantize
from histojax.errors import UserError
from histojax.imaging import reader, tiling, writers
from histojax.imaging.labels import read_label_mpp, read_labels
from histojax.nuclei import targets
from histojax.runs import workdirs
from histojax.stages.pyramid import Pyramid
from histojax.tissue import rendering as tissue

Seed = tuple[int, ...]
_MASKS = (".png", ".tif", ".tiff")
# Noise is drawn in squares of so many px of its scale.
_SQUARE = 128
# Of the built-in model's tissue, px: some 100 bytes are used for each px of the square.
_LONGEST = 8192
# What stands for a run's training images among those whose colours are drawn, and for no images:
# an empty palette leaves tissue in the colours that it was drawn in.
TRAINING, OWN = "training", "own"


@functools.lru_cache(maxsize=256)
def _square(seed: Seed, scale: int, row: int, column: int) -> np.ndarray:
    drawn = np.random.default_rng((*seed, scale, row, column))
    return drawn.standard_normal((_SQUARE, _SQUARE), dtype=np.float32)


def noise(seed: Seed, scale: int, y: int, x: int, height: int, width: int) -> np.ndarray:
    """Noise of variance 1 at px y ... y + height - 1 and x ... of a scale, float32 (height, width).

    Args:
      seed: of the image, numbers of 0 or more.
      scale: number of the scale.
      y, x: 0 or more.
      height, width: above 0.
    """
    rows = range(y // _SQUARE, (y + height - 1) // _SQUARE + 1)
    columns = range(x // _SQUARE, (x + width - 1) // _SQUARE + 1)
    field = np.block([[_square(seed, scale, row, column) for column in columns] for row in rows])
    top, left = y - rows[0] * _SQUARE, x - columns[0] * _SQUARE
    return field[top : top + height, left : left + width]


class Conditions:
    """What an image is made of, read by region: labels and, for each scale, noise.

    A px of a scale that is f times coarser fills f x f px, so that also in the mirrored border of
    the image every f-th px holds noise.
    """

    def __init__(
        self,
        labels: np.ndarray,
        factors: tuple[int, ...],
        seed: Seed,
        tissue: np.ndarray | None = None,
    ):
        """
        Args:
          labels: integer (H, W), the number of each pixel's label.
          factors: how many px are one of each scale.
          seed: of the noise, numbers of 0 or more.
          tissue: uint8 (H, W, 3), what the pyramid starts from.
        """
        self._labels, self._factors, self._seed = labels, factors, seed
        self._tissue = tissue
        self.height, self.width = labels.shape

    def read(self, y: int, x: int, height: int, width: int) -> np.ndarray:
        """float32 (height, width, 1 + scales), and 3 more of tissue in [0, 1]."""
        scales = len(self._factors)
        out = np.zeros((height, width, 1 + scales + 3 * (self._tissue is not None)), np.float32)
        if self._tissue is not None:
            out[..., 1 + scales :] = self._tissue[y : y + height, x : x + width] / np.float32(255)
        out[..., 0] = self._labels[y : y + height, x : x + width]
        for k, f in enumerate(self._factors):
            rows, columns = np.arange(y, y + height) // f, np.arange(x, x + width) // f
            size = int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1
            drawn = noise(self._seed, k, int(rows[0]), int(columns[0]), *size)
            out[..., 1 + k] = drawn[(rows - rows[0])[:, None], columns - columns[0]]
        return out


def synthesizer(run: workdirs.Run) -> Any:
    """A run's pyramid, jitted: (conditions, colours) -> {"image": uint8 (B, h, w, 3)}.

    Conditions are those of `Conditions`, with B before them, colours (C, 3) those of the labels, in
    [0, 1].

    Raises:
      UserError: the run is no pyramid.
    """
    stage = run.stage
    if not isinstance(stage, Pyramid):
        raise UserError(
            f"{run.workdir} is a run of stage {run.config.stage}, and tissue is synthesised by one "
            "of stage pyramid: name that of configs/pyramid.py"
        )
    if stage.crop != stage.sizes[-1]:
        raise UserError(
            f"{run.workdir} is trained up to {stage.sizes[-1]} px of crops of {stage.crop} px: "
            "name the run of the highest scale, which holds all of them"
        )
    factors = stage.synthesizer.factors

    @jax.jit
    def windows(conditions: jax.Array, colors: jax.Array) -> dict[str, jax.Array]:
        labels = jax.nn.one_hot(conditions[..., 0].astype(jnp.int32), stage.labels.count)
        noises = [
            conditions[:, f // 2 :: f, f // 2 :: f, 1 + k : 2 + k] for k, f in enumerate(factors)
        ]
        colors = jnp.broadcast_to(colors, (len(labels), *colors.shape))
        tissue = conditions[..., 1 + len(factors) :] if stage.base == "tissue" else None
        return {"image": quantize(stage.generate(run.state, labels, noises, colors, tissue))}

    return windows


def with_looks(run: workdirs.Run, specs: Sequence[str]) -> workdirs.Run:
    """A pyramid's run that draws an image's colours from other images than those of its training.

    Args:
      run: of a pyramid.
      specs: SPEC of images with labels, given or predicted, each; TRAINING: those of its training;
        OWN, alone: none, tissue to start from keeps the colours that it was drawn in.

    Raises:
      UserError: for data that cannot be used, or a run without use for colours.
    """
    if OWN in specs:
        if len(specs) > 1 or run.stage.base != "tissue":
            raise UserError(
                f"--looks={OWN} has the tissue that a pyramid starts from keep its colours: name "
                "it alone, and a pyramid trained with pyramid.base='tissue'"
            )
        return dataclasses.replace(run, meta={**run.meta, "palette": []})
    if run.stage.base == "gray":
        raise UserError(
            f"{run.workdir} starts from grey and has no use for --looks={specs[0]}: leave it out, "
            "or name a pyramid trained with pyramid.base='colors'"
        )
    looks: list[palette.Look] = []
    for spec in specs:
        if spec == TRAINING:
            looks += run.meta.get("palette") or []
            continue
        config = workdirs.without_extra(run.config)
        config.data.source = spec
        stage = run.stage
        fields = ("hr", *stage.labels.fields)
        source = workdirs.open_split(config, "all", fields=fields, crop=stage.crop)
        own, count = run.config.pyramid.classes, len(source.classes)
        if stage.labels.kind == "classes" and own != count:
            raise UserError(
                f"--looks={spec} has {count} classes, {', '.join(source.classes)}, and "
                f"{run.workdir} knows {own}: name images with the same"
            )
        looks += stage.palette_of(source)
    return dataclasses.replace(run, meta={**run.meta, "palette": looks})


def label_numbers(stage: Pyramid, mask: np.ndarray, *, name: str, contour_width: int) -> np.ndarray:
    """The number of each pixel's label, uint8 (H, W), of instances or, for classes, of classes.

    Raises:
      UserError: a mask with labels outside of the declared classes, without any label, smaller
        than the crops of the highest scale, or with several nuclei under one label.
    """
    if min(mask.shape) < stage.sizes[-1]:
        raise UserError(
            f"the mask {name} has {mask.shape[0]} x {mask.shape[1]} px, and the pyramid is trained "
            f"on {stage.sizes[-1]} on each side: give a larger one"
        )
    if not mask.any():
        raise UserError(f"the mask {name} is empty: give one with nuclei or classes in it")
    if stage.labels.kind == "classes":
        highest = int(mask.max())
        if highest >= stage.labels.count or mask.min() < 0:
            raise UserError(
                f"the mask {name} has the label {highest}, and the pyramid knows "
                f"{stage.labels.count} classes, 0 to {stage.labels.count - 1}: renumber it"
            )
        return mask.astype(np.uint8)
    check_apart(mask, name=name)
    return numbers_of(stage, mask, contour_width=contour_width)


def check_apart(mask: np.ndarray, *, name: str) -> None:
    """Checks that the nuclei of a label image are told apart.

    Raises:
      UserError: if they are not.
    """
    if len(np.unique(mask)) == 2 and scipy.ndimage.label(mask)[1] > 1:
        raise UserError(
            f"the mask {name} has one label for several nuclei, and each is to have its own: give "
            "a label image"
        )


def numbers_of(stage: Pyramid, instances: np.ndarray, *, contour_width: int) -> np.ndarray:
    """The number of each pixel's label, uint8 (H, W), of instances, taken as they are."""
    numbers = (instances > 0).astype(np.uint8)
    if stage.labels.kind == "contour":
        numbers[targets.contours(instances, width=contour_width) > 0] *= 2
    return numbers


def conditions_of(
    run: workdirs.Run, labels: np.ndarray, mask: np.ndarray, *, seed: Seed, look: Seed
) -> tuple[Conditions, np.ndarray]:
    """What an image is made of, and the colours (C, 3) of its labels.

    Tissue to start from has those of the ground and of nuclei as a whole, as in training, or where
    the run has none to draw from its own.

    Args:
      run: of a pyramid.
      labels: numbers of labels (H, W), of `label_numbers`.
      mask: the label image that they are of; tissue is drawn around its nuclei as one image.
      seed: of noise and tissue, numbers of 0 or more.
      look: of the colours, likewise.
    """
    stage = run.stage
    looks = run.meta.get("palette") or []
    colors = palette.draw(looks, stage.labels.count, np.unique(labels).tolist(), look)
    start = drawn(mask, seed) if stage.base == "tissue" else None
    if start is not None and looks:
        start = palette.recolored(start, *palette.nuclei_as_one(labels, colors))
    return Conditions(labels, stage.synthesizer.factors, seed, start), colors


def synthesize(
    run: workdirs.Run,
    labels: np.ndarray,
    mask: np.ndarray,
    *,
    seed: Seed,
    look: Seed | None = None,
    windows: Any = None,
    tile: int = 512,
) -> np.ndarray:
    """An image, uint8 (H, W, 3), of `label_numbers` (H, W).

    Args:
      run: of a pyramid.
      labels: numbers of labels.
      mask: the label image that they are of.
      seed: of noise, tissue and colours, numbers of 0 or more.
      look: seed of the colours, where it is another.
      windows: of `synthesizer`, for several images of one run.
      tile: largest tile, px, which memory follows.
    """
    made_of = conditions_of(run, labels, mask, seed=seed, look=look or seed)
    tiles = _tiles(run, windows or synthesizer(run), *made_of, tile)
    return tiling.assemble(tiles, *labels.shape)["image"]


def _tiles(
    run: workdirs.Run, windows: Any, conditions: Conditions, colors: np.ndarray, tile: int
) -> Iterator[tiling.Tile]:
    network = run.stage.synthesizer
    colored = functools.partial(windows, colors=colors)
    core = tiling.core_size(
        [(conditions.height, conditions.width)],
        halo=network.halo,
        stride=network.stride,
        largest=tile,
    )
    return tiling.tiled(colored, conditions, core=core, halo=network.halo, stride=network.stride)


def synthesize_files(
    workdir: pathlib.Path,
    masks: Sequence[pathlib.Path],
    output: pathlib.Path,
    *,
    seed: int = 0,
    count: int = 1,
    tile: int = 512,
    max_pixels: int = reader.MAX_PIXELS,
    looks: Sequence[str] = (),
) -> list[pathlib.Path]:
    """Tissue for mask files, as a folder that `folder:OUTPUT` reads; see `histojax.synthesize`.

    Each mask is written beside its images, which are made strip by strip. Colours are drawn from
    `looks`, see `with_looks`, or where there are none from the training images.

    Returns:
      The images written.

    Raises:
      UserError: for a run that is no pyramid, or, before anything is written, a mask that it cannot
        make an image of.
    """
    writers.check_empty(output)
    run = workdirs.load(workdir)
    windows = synthesizer(run)
    return write_pairs(
        with_looks(run, looks) if looks else run,
        mask_files(masks),
        output,
        seed=seed,
        count=count,
        tile=tile,
        max_pixels=max_pixels,
        windows=windows,
    )


def write_pairs(
    run: workdirs.Run,
    files: Sequence[pathlib.Path],
    output: pathlib.Path,
    *,
    seed: int = 0,
    count: int = 1,
    tile: int = 512,
    max_pixels: int = reader.MAX_PIXELS,
    windows: Any = None,
) -> list[pathlib.Path]:
    """What `synthesize_files` writes, by a loaded run, for mask files of different names."""
    windows = windows or synthesizer(run)
    width = run.config.data.targets.contour_width
    say(f"looking at {len(files)} masks")
    for path in files:
        mask = read_labels(path, max_pixels=max_pixels)
        label_numbers(run.stage, mask, name=str(path), contour_width=width)
        if run.stage.base == "tissue":
            check_drawn_whole(mask, name=str(path))
    mpp = run.meta["mpp_out"]
    classes = run.stage.labels.kind == "classes"
    written = []
    for number, path in enumerate(files):
        mask = read_labels(path, max_pixels=max_pixels)
        labels = label_numbers(run.stage, mask, name=str(path), contour_width=width)
        for copy in range(count):
            name = _copy_name(path, copy, count)
            say(f"{number + 1}/{len(files)} {name}")
            own = (seed, zlib.crc32(path.stem.encode()), copy)
            made_of = conditions_of(run, labels, mask, seed=own, look=own)
            strips = tiling.strips(_tiles(run, windows, *made_of, tile))
            image = output / "images" / f"{name}.tif"
            height, wide = labels.shape
            writers.stream_tiff(
                image, (s.outputs["image"] for s in strips), height=height, width=wide, mpp=mpp
            )
            kind = "masks" if classes else "instances"
            writers.stream_tiff(
                output / kind / f"{name}.tif",
                [mask if classes else mask.astype(np.uint32)],
                height=height,
                width=wide,
            )
            written.append(image)
    description = {"classes": run.meta["classes"]} if classes else {}
    writers.write_json(
        output / "dataset.json", description | ({"mpp": mpp} if mpp is not None else {})
    )
    return written


def draw_files(
    masks: Sequence[pathlib.Path],
    output: pathlib.Path,
    *,
    seed: int = 0,
    count: int = 1,
    max_pixels: int = reader.MAX_PIXELS,
) -> list[pathlib.Path]:
    """The built-in model's tissue for mask files, as a folder that `folder:OUTPUT` reads.

    Each image is drawn whole, of a patient of its own. The px size of the masks, where their files
    state one, is that of the images.

    Returns:
      The images written.

    Raises:
      UserError: for a mask that it cannot be drawn around, before anything is written.
    """
    writers.check_empty(output)
    files = mask_files(masks)
    for path in files:
        mask = read_labels(path, max_pixels=max_pixels)
        if not mask.any():
            raise UserError(f"the mask {path} is empty: give one with nuclei in it")
        check_apart(mask, name=str(path))
        if min(mask.shape) < tissue.SMALLEST:
            raise UserError(
                f"the mask {path} has {mask.shape[0]} x {mask.shape[1]} px, and tissue is drawn "
                f"from {tissue.SMALLEST} px on each side on: give a larger one"
            )
        check_drawn_whole(mask, name=str(path))
    mpps = {read_label_mpp(path) for path in files}
    mpp = mpps.pop() if len(mpps) == 1 else None
    written = []
    for number, path in enumerate(files):
        mask = read_labels(path, max_pixels=max_pixels)
        height, width = mask.shape
        for copy in range(count):
            name = _copy_name(path, copy, count)
            say(f"{number + 1}/{len(files)} {name}")
            image = drawn(mask, (seed, zlib.crc32(path.stem.encode()), copy))
            for kind, array in (("images", image), ("instances", mask.astype(np.uint32))):
                place = output / kind / f"{name}.tif"
                writers.stream_tiff(place, [array], height=height, width=width, mpp=mpp)
            written.append(output / "images" / f"{name}.tif")
    writers.write_json(output / "dataset.json", {} if mpp is None else {"mpp": mpp})
    return written


def check_drawn_whole(mask: np.ndarray, *, name: str) -> None:
    """Checks that tissue for a mask, which is drawn as a whole square, fits in memory.

    Raises:
      UserError: for a mask whose longer side is too long.
    """
    if max(mask.shape) > _LONGEST:
        raise UserError(
            f"the mask {name} has {mask.shape[0]} x {mask.shape[1]} px, and the built-in model's "
            f"tissue is drawn as a whole square of up to {_LONGEST} px on each side: cut it, or "
            "use a pyramid with pyramid.base='colors'"
        )


def drawn(mask: np.ndarray, seed: Seed) -> np.ndarray:
    """The built-in model's tissue for a label image (H, W), uint8 (H, W, 3), as seeds draw it."""
    number = int(np.random.SeedSequence(seed).generate_state(1)[0])
    return tissue.tissue_of(mask, 0, number, patches_per_patient=1)


def _copy_name(path: pathlib.Path, copy: int, count: int) -> str:
    return path.stem if count == 1 else f"{path.stem}-{copy}"


def mask_files(masks: Sequence[pathlib.Path]) -> list[pathlib.Path]:
    """The label images among files and folders, in order of name.

    Raises:
      UserError: for a path that is not there, a folder without label images, or two of one name.
    """
    files = reader.listed(masks, "--masks", ("a label image", "label images"), _MASKS)
    stems = [path.stem for path in files]
    for path in files:
        if stems.count(path.stem) > 1:
            raise UserError(
                f"two masks are called {path.stem}, and their images would have one name: rename "
                "one of them"
            )
    return files
