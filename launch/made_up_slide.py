"""Writes a made-up slide, a pyramid with islands of built-in tissue on glass, to measure with.

    python -m launch.made_up_slide --size=60000 --tissue=0.3 --output=slide.tif
    python -m histojax.predict --model=nuclei-40x --input=slide.tif --output=out

Patches of tissue repeat, mirrored and turned, so that the slide of 3.6 billion px takes minutes.
"""

import pathlib
from collections.abc import Iterator, Sequence

import numpy as np
from absl import flags
from scipy import ndimage

from histojax import cli
from histojax.data.augmentation import dihedral
from histojax.imaging import ome_tiff
from histojax.tissue.rendering import tissue

_SIZE = flags.DEFINE_integer("size", 60_000, "Side of the slide, px.", 1_024)
_TISSUE = flags.DEFINE_float("tissue", 0.3, "Share of the slide that is tissue.", 0.0, 1.0)
_MPP = flags.DEFINE_float("mpp", 0.25, "Micrometres per pixel that the slide states.", 0.0)
_OUTPUT = flags.DEFINE_string("output", None, "Name of the slide. Example: --output=slide.tif")
# Side of a patch, px, how many there are, grey level of glass, and patches across an island.
_PATCH, _PATCHES, _GLASS, _ISLAND = 512, 16, 243, 12


def islands(count: int, share: float) -> np.ndarray:
    """Which patches of a slide of `count` a side show tissue, bool (count, count)."""
    noise = np.random.default_rng(0).normal(size=(count, count))
    smooth = ndimage.gaussian_filter(noise, _ISLAND / 2, mode="wrap")
    return smooth > np.quantile(smooth, 1 - share)


def strips(size: int, share: float) -> Iterator[np.ndarray]:
    """The slide, uint8 (rows, size, 3) at a time."""
    patches = [tissue(0, index, _PATCH)["image"] for index in range(_PATCHES)]
    rng = np.random.default_rng(1)
    for y, row in enumerate(islands(-(-size // _PATCH), share)):
        strip = np.full((_PATCH, len(row) * _PATCH, 3), _GLASS, np.uint8)
        for x in np.flatnonzero(row):
            index, turn = rng.integers(_PATCHES), rng.integers(8)
            strip[:, x * _PATCH : (x + 1) * _PATCH] = dihedral(patches[index], turn)
        yield strip[: size - y * _PATCH, :size]


def main(argv: Sequence[str]) -> None:
    """Writes the slide."""
    del argv
    size, path = _SIZE.value, pathlib.Path(str(_OUTPUT.value))
    made = strips(size, _TISSUE.value)
    ome_tiff.write(path, made, height=size, width=size, mpp=_MPP.value, description="made up")
    print(path)


if __name__ == "__main__":
    flags.mark_flags_as_required(["output"])
    cli.run(main)
