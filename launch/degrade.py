r"""Writes images with low-resolution partners of many kinds, as a data folder to score on.

    python -m launch.degrade --data=folder:$MONUSEG --output=drawn --ways=20
    python -m launch.degrade --data=folder:$MONUSEG --output=other --kind=other
    python -m histojax.evaluate --workdir=enhance-x4-microscope --data=folder:drawn --split=all \
        --output=scores

Each image of the split, its middle of --size px, is degraded

    drawn   in --ways ways by the recipe of enhance-x4-microscope, none of them clean
    other   in ways that training never draws: motion, a defocused disc, uneven light, strong JPEG
            at another size, a colour cast
    clean   by bicubic reduction alone
    field   as real fields are: behind a Gaussian of 1.2 px of the small image, without and with
            JPEG of quality 75

The ways of one image are no independent images: intervals over all of them are too narrow.
"""

import functools
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
from absl import flags
from scipy import ndimage
from skimage import segmentation

from configs import zoo
from histojax import cli
from histojax.data import degradation, degradation_steps
from histojax.data.sources import specs
from histojax.imaging import resampling, writers

_DATA = flags.DEFINE_string("data", None, "SPEC of the images. Example: --data=folder:/data/tnbc")
_SPLIT = flags.DEFINE_string("split", "val", "Split of it: train, val, test or all.")
_OUTPUT = flags.DEFINE_string("output", None, "Empty folder of the pairs. Example: --output=drawn")
_KIND = flags.DEFINE_enum("kind", "drawn", ["drawn", "other", "field", "clean"], "Ways, as above.")
_WAYS = flags.DEFINE_integer("ways", 20, "Ways to degrade each image, of kind drawn.", 1, 99)
_SIZE = flags.DEFINE_integer("size", 512, "Side that is cut out of the middle, px.", 64)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of what is drawn.", 0)
_SCALE = 4


def _reduced(image: np.ndarray) -> np.ndarray:
    return resampling.downsample(np.clip(image + 0.5, 0, 255).astype(np.uint8), _SCALE)


def motion(image: np.ndarray, length: int = 17) -> np.ndarray:
    """The stage moved while the shutter was open: a line of `length` px along the rows."""
    return _reduced(ndimage.uniform_filter1d(image.astype(np.float32), length, axis=1))


def defocus(image: np.ndarray, radius: int = 7) -> np.ndarray:
    """Out of focus by geometry: the mean over a disc."""
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disc = (y**2 + x**2 <= radius**2).astype(np.float32)
    planes = np.moveaxis(image.astype(np.float32), -1, 0)
    return _reduced(np.stack([ndimage.convolve(p, disc / disc.sum()) for p in planes], -1))


def uneven_light(image: np.ndarray) -> np.ndarray:
    """A lamp off the middle: half the light in one corner."""
    y, x = (np.linspace(0, 1, side, dtype=np.float32) for side in image.shape[:2])
    return _reduced(image * (1 - 0.25 * (y[:, None] + x))[..., None])


def strong_jpeg(image: np.ndarray) -> np.ndarray:
    """JPEG of quality 20 at half the size, as a chat program sends it, and then smaller still."""
    half = degradation_steps.jpeg(resampling.downsample(image, 2), 20)
    return resampling.downsample(half, _SCALE // 2)


def color_cast(image: np.ndarray) -> np.ndarray:
    """A camera's white balance gone wrong."""
    return _reduced(image * np.float32([1.0, 0.88, 0.78]))


def field(image: np.ndarray, quality: int = 100) -> np.ndarray:
    """What a microscope's camera sees: a Gaussian of 1.2 px of the small image, then JPEG."""
    blurred = ndimage.gaussian_filter(image.astype(np.float32), (1.2 * _SCALE, 1.2 * _SCALE, 0))
    return (
        degradation_steps.jpeg(_reduced(blurred), quality) if quality < 100 else _reduced(blurred)
    )


Ways = dict[str, Callable[[np.ndarray], np.ndarray]]
OTHER: Ways = {
    "motion": motion,
    "defocus": defocus,
    "light": uneven_light,
    "jpeg": strong_jpeg,
    "cast": color_cast,
}
CLEAN: Ways = {"clean": lambda image: resampling.downsample(image, _SCALE)}
FIELD: Ways = {"blur": field, "jpeg": functools.partial(field, quality=75)}


def drawn(image: np.ndarray, key: str, recipe: degradation.Degradation, seed: int) -> np.ndarray:
    """One degradation of the recipe, always alike for a key."""
    rng = degradation.evaluation_rng(seed, key)
    shape = (image.shape[0] // _SCALE, image.shape[1] // _SCALE, 3)
    return degradation.degrade(image, recipe, degradation.sample_parameters(recipe, rng, shape))


def main(argv: Sequence[str]) -> None:
    """Writes the folder."""
    del argv
    output = pathlib.Path(str(_OUTPUT.value))
    writers.check_empty(output)
    source = specs.open_source(str(_DATA.value), split=_SPLIT.value, require_labels=False)
    config = zoo.get_config("enhance-x4-microscope").data.degradation.to_dict()
    recipe = degradation.Degradation.from_config(config | {"clean_probability": 0.0}, _SCALE)
    ways = {"field": FIELD, "other": OTHER, "clean": CLEAN}.get(_KIND.value, {})
    for index in range(len(source)):
        sample = source[index]
        height, width = sample["hr"].shape[:2]
        side = min(_SIZE.value, height, width) // _SCALE * _SCALE
        top, left = (height - side) // 2, (width - side) // 2
        square = np.s_[top : top + side, left : left + side]
        image, labels = sample["hr"][square], sample.get("instances")
        if _KIND.value == "drawn":
            draw = functools.partial(drawn, recipe=recipe, seed=_SEED.value)
            numbers = [f"{k:02d}" for k in range(_WAYS.value)]
            ways = {k: functools.partial(draw, key=f"{sample['name']}-{k}") for k in numbers}
        for way, degrade in ways.items():
            name = f"{sample['name']}-{way}.png"
            for folder, array in (("images", image), ("lr", degrade(image))):
                writers.write_png(output / folder / name, array)
            if labels is not None:
                # A copy, as labels of a source may be read-only.
                own, _, _ = segmentation.relabel_sequential(labels[square].copy())
                writers.write_png(output / "instances" / name, own.astype(np.uint16))
    writers.write_json(output / "dataset.json", {} if source.mpp is None else {"mpp": source.mpp})


if __name__ == "__main__":
    flags.mark_flags_as_required(["data", "output"])
    cli.run(main)
