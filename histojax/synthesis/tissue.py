"""Tissue for masks of any size, by a trained pyramid, tile by tile without seams.

Each scale's noise is a function of the seed and of a pixel's place, and tiles are read with the
margin that the networks depend on: tiles agree with the whole image, whatever their size. The
built-in tissue of pyramid.base='tissue' is drawn whole.
"""

import dataclasses
import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from histojax.components import palette
from histojax.components.images import quantize
from histojax.errors import UserError
from histojax.imaging import tiling
from histojax.nuclei import targets
from histojax.runs import workdirs
from histojax.stages.pyramid import Pyramid
from histojax.synthesis import builtin
from histojax.synthesis.builtin import Seed

# Noise is drawn in squares of so many px of its scale.
_SQUARE = 128


@functools.lru_cache(maxsize=256)
def _square(seed: Seed, scale: int, row: int, column: int) -> np.ndarray:
    rng = np.random.default_rng((*seed, scale, row, column))
    return rng.standard_normal((_SQUARE, _SQUARE), dtype=np.float32)


def noise(seed: Seed, scale: int, y: int, x: int, height: int, width: int) -> np.ndarray:
    """Noise of variance 1 of a scale's px from (y, x) on, float32 (height, width)."""
    rows = range(y // _SQUARE, (y + height - 1) // _SQUARE + 1)
    columns = range(x // _SQUARE, (x + width - 1) // _SQUARE + 1)
    field = np.block([[_square(seed, scale, row, column) for column in columns] for row in rows])
    top, left = y - rows[0] * _SQUARE, x - columns[0] * _SQUARE
    return field[top : top + height, left : left + width]


@dataclasses.dataclass
class Conditions:
    """The inputs of an image, read by region: labels, the noise of each scale, built-in tissue.

    A px of a scale that is f times coarser fills f x f px, so that every f-th px holds noise in the
    mirrored border of the image too.
    """

    labels: np.ndarray  # integer (H, W), the number of each pixel's label
    factors: tuple[int, ...]  # px of the image for one px of each scale
    seed: Seed  # of the noise, numbers of 0 or more
    tissue: np.ndarray | None = None  # uint8 (H, W, 3) of pyramid.base='tissue'

    def __post_init__(self) -> None:
        self.height, self.width = self.labels.shape

    def read(self, y: int, x: int, height: int, width: int) -> np.ndarray:
        """float32 (height, width, 1 + scales), and 3 more channels of tissue in [0, 1]."""
        scales, part = len(self.factors), np.s_[y : y + height, x : x + width]
        out = np.zeros((height, width, 1 + scales + 3 * (self.tissue is not None)), np.float32)
        if self.tissue is not None:
            out[..., 1 + scales :] = self.tissue[part] / np.float32(255)
        out[..., 0] = self.labels[part]
        for k, f in enumerate(self.factors):
            rows, columns = np.arange(y, y + height) // f, np.arange(x, x + width) // f
            size = int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1
            drawn = noise(self.seed, k, int(rows[0]), int(columns[0]), *size)
            out[..., 1 + k] = drawn[(rows - rows[0])[:, None], columns - columns[0]]
        return out


class Synthesizer:
    """A run's pyramid, ready to make images for masks.

    Attributes:
        palette: looks that the colours of an image are drawn from; see `components.palette`.
        mpp: micrometres per pixel of the images, None where unknown.
        classes: names of the mask's values where the pyramid knows classes, else None.
        tile: largest tile, px, which memory follows.
    """

    def __init__(self, run: workdirs.Run, *, tile: int = 512):
        """Checks the run; the network is compiled with the first image.

        Raises:
            UserError: for a run of another stage or of a lower scale.
        """
        if not isinstance(run.stage, Pyramid):
            raise UserError(
                f"{run.workdir} is a run of stage {run.config.stage}, and tissue is synthesised by "
                "one of stage pyramid: name that of configs/pyramid.py"
            )
        self.tile, self.stage = tile, run.stage
        stage = self.stage
        if stage.crop != stage.sizes[-1]:
            raise UserError(
                f"{run.workdir} is trained up to {stage.sizes[-1]} px of crops of {stage.crop} px: "
                "name the run of the highest scale, which holds all of them"
            )
        self.palette = run.meta.get("palette") or []
        self.mpp = run.meta["mpp_out"]
        self.classes = run.meta["classes"] if stage.labels.kind == "classes" else None
        self._contour_width = run.config.data.targets.contour_width
        self._network = stage.synthesizer
        factors = self._network.factors

        @jax.jit
        def apply(conditions: jax.Array, colors: jax.Array) -> dict[str, jax.Array]:
            labels = jax.nn.one_hot(conditions[..., 0].astype(jnp.int32), stage.labels.count)
            noises = [
                conditions[:, f // 2 :: f, f // 2 :: f, k, None] for k, f in enumerate(factors, 1)
            ]
            colors = jnp.broadcast_to(colors, (len(labels), *colors.shape))
            tissue = conditions[..., 1 + len(factors) :] if stage.base == "tissue" else None
            return {"image": quantize(stage.generate(run.state, labels, noises, colors, tissue))}

        self._apply = apply

    def check(self, mask: np.ndarray, *, name: str) -> None:
        """Checks that an image can be made for a mask.

        Raises:
            UserError: as `builtin.check_mask`, or for values outside of the known classes.
        """
        labels, classes = self.stage.labels, self.stage.labels.kind == "classes"
        reason, whole = "the pyramid is trained on", self.stage.base == "tissue"
        builtin.check_mask(
            mask, name, reason, self.stage.sizes[-1], nuclei=not classes, whole=whole
        )
        if classes and not 0 <= mask.min() <= mask.max() < labels.count:
            raise UserError(
                f"the mask {name} has the label {int(mask.max())}, and the pyramid knows "
                f"{labels.count} classes, 0 to {labels.count - 1}: renumber it"
            )

    def labels_of(self, mask: np.ndarray) -> np.ndarray:
        """The number of each pixel's label, uint8 (H, W): classes, or nuclei and their rims."""
        if self.stage.labels.kind == "classes":
            return mask.astype(np.uint8)
        numbers = (mask > 0).astype(np.uint8)
        if self.stage.labels.kind == "contour":
            numbers[targets.contours(mask, width=self._contour_width) > 0] *= 2
        return numbers

    def image(self, mask: np.ndarray, *, seed: Seed, look: Seed | None = None) -> np.ndarray:
        """An image, uint8 (H, W, 3), of a mask (H, W) that `check` accepts, or of a part of one.

        `seed` decides noise and tissue, and the colours too unless `look` is given for them.
        """
        return tiling.assemble(self._tiles(mask, seed, look or seed))["image"]

    def strips(self, mask: np.ndarray, seed: Seed) -> Iterator[np.ndarray]:
        """What `image` makes, uint8 (h, W, 3) at a time from the top."""
        for strip in tiling.strips(self._tiles(mask, seed, seed)):
            yield strip["image"]

    def _tiles(self, mask: np.ndarray, seed: Seed, look: Seed) -> Iterator[tiling.Tile]:
        stage, network = self.stage, self._network
        labels = self.labels_of(mask)
        held = np.unique(labels).tolist()
        colors = palette.draw(self.palette, stage.labels.count, held, look)
        tissue = builtin.draw(mask, seed) if stage.base == "tissue" else None
        if tissue is not None and self.palette:
            # As in training, ground and nuclei as a whole get the colours.
            tissue = palette.recolored(tissue, *palette.nuclei_as_one(labels, colors))
        conditions = Conditions(labels, network.factors, seed, tissue)
        halo, stride = network.halo, network.stride
        core = tiling.core_size([labels.shape], halo=halo, stride=stride, largest=self.tile)
        colored = functools.partial(self._apply, colors=colors)
        return tiling.tiled(colored, conditions, core=core, halo=halo, stride=stride)
