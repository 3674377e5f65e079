"""PanNuke: 256-px H&E patches of 19 tissues at 40x in three folds, nuclei of five classes."""

import functools
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from histojax.data.datasets import layout
from histojax.data.sources.splits import SPLITS
from histojax.errors import UserError

CLASSES = ("background", "neoplastic", "inflammatory", "connective", "dead", "epithelial")
_FOLD = re.compile(r"fold[ _-]?([123])", re.IGNORECASE)
# The three arrangements of the set's paper: train, val, test.
_SPLITS = {"1": (1, 2, 3), "2": (2, 1, 3), "3": (3, 2, 1)}


def read(root: Path, max_pixels: int) -> layout.Contents:
    """Finds the folds' arrays; "pannuke" opens the first official arrangement of them.

    Patients are not published: every patch is a group of its own, and the folds are the splits.
    """
    del max_pixels  # its patches are arrays of 256 x 256 px, of which one is read at a time
    files = layout.files_of(root)
    images, masks = (
        layout.by_key((f for f in files if f.name.lower() == name), lambda f: _fold(f, root))
        for name in ("images.npy", "masks.npy")
    )
    examples = []
    for fold, image, mask in layout.pairs(
        root, DATASET.layout, images, masks, expected="masks.npy of fold {}"
    ):
        count, masked = len(_array(image, 3)), len(_array(mask, 6))
        if masked != count:
            raise UserError(
                f"{mask} holds {masked} masks for {count} images: download the fold again"
            )
        for index in range(count):
            name = f"fold{fold}-{index:04d}"
            load = functools.partial(_load, image, mask, index)
            examples.append(layout.Example(name, name, f"fold{fold}", load))
    splits = _arrangements(sorted(images))
    return layout.Contents(examples, mpp=0.25, classes=CLASSES, splits=splits)


def _load(images: Path, masks: Path, index: int) -> layout.Record:
    """Reads one patch; where nuclei of two classes overlap, the first class wins."""
    hr = _array(images, 3)[index]
    if hr.min() < 0 or hr.max() > 255:
        raise UserError(
            f"{images}: image {index} holds {hr.min():g} to {hr.max():g}, and 0 to 255 is due: "
            "download the fold again"
        )
    planes = _array(masks, 6)[index]
    instances = np.zeros(planes.shape[:2], np.int32)
    mask = np.zeros(planes.shape[:2], np.uint8)
    for kind in range(1, len(CLASSES)):
        numbers = planes[..., kind - 1].astype(np.int32)
        free = (numbers > 0) & (instances == 0)
        # A class numbers its nuclei by itself, so the numbers go on where the last class ended.
        instances[free] = numbers[free] + instances.max()
        mask[free] = kind
    return {"hr": np.rint(hr).astype(np.uint8), "instances": instances, "mask": mask}


def _fold(file: Path, root: Path) -> str:
    """The number in the innermost folder that names a fold, the source's own being the last."""
    folders = file.relative_to(root.resolve().parent).parts[:-1]
    return next((match[1] for name in reversed(folders) if (match := _FOLD.search(name))), "")


@functools.lru_cache(maxsize=6)
def _array(path: Path, channels: int) -> np.ndarray:
    """Maps an array (N, 256, 256, channels) into memory."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise UserError(f"{path} is not a NumPy array ({error}): download it again") from error
    if array.ndim != 4 or array.shape[-1] != channels or array.dtype.kind not in "fiu":
        raise UserError(
            f"{path} holds {array.dtype} {array.shape}, and numbers (N, 256, 256, {channels}) are "
            "due: download the fold again"
        )
    return array


def _arrangements(folds: list[str]) -> dict[str, dict[str, list[str]]]:
    """The official arrangements where all folds are there, else one fold after the other."""

    def arranged(splits: Iterable[str], order: Iterable[object]) -> dict[str, list[str]]:
        return {split: [f"fold{fold}"] for split, fold in zip(splits, order, strict=False)}

    if len(folds) < 3:
        return {"": arranged(("train", "test"), folds)}
    official = {variant: arranged(SPLITS, order) for variant, order in _SPLITS.items()}
    return {"": official["1"], **official}


DATASET = layout.Dataset(
    name="pannuke",
    title="PanNuke, nuclei of five classes in 19 tissues",
    licence="CC BY-NC-SA 4.0",
    citation=(
        "J. Gamper et al., PanNuke dataset extension, insights and baselines, 2020, "
        "arXiv:2003.10778; J. Gamper et al., PanNuke: an open pan-cancer histology dataset, ECDP "
        "2019"
    ),
    homepage="https://warwick.ac.uk/fac/cross_fac/tia/data/pannuke",
    layout="images.npy and masks.npy for each fold, in folders whose names have fold 1, 2 or 3",
    read=read,
)
