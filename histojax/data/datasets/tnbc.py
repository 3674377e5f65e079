"""TNBC: H&E of triple-negative breast cancer at 40x (Naylor et al.), binary nuclear masks."""

import functools
import re
from pathlib import Path

from histojax.data.datasets import layout


def read(root: Path, max_pixels: int) -> layout.Contents:
    """Pairs Slide_NN/NAME with GT_NN/NAME; the slide number is the patient."""
    files = layout.files_of(root)
    images = layout.by_key(files, functools.partial(_key, "slide"))
    masks = layout.by_key(files, functools.partial(_key, "gt"))
    pairs = layout.pairs(root, DATASET.layout, images, masks, expected="GT_{}.png")
    return layout.label_images(
        ((path.stem, f"slide-{key.partition('/')[0]}", path, mask) for key, path, mask in pairs),
        max_pixels,
        mpp=0.25,
    )


def _key(folder: str, file: Path) -> str:
    """NN/NAME of a PNG in FOLDER_NN/, else ""."""
    match = re.fullmatch(rf"{folder}_(\d+)", file.parent.name, re.IGNORECASE)
    return f"{match[1]}/{file.stem}" if match and file.suffix.lower() == ".png" else ""


DATASET = layout.Dataset(
    name="tnbc",
    title="TNBC, nuclei of triple-negative breast cancer",
    licence="CC BY 4.0",
    citation=(
        "P. Naylor et al., Segmentation of nuclei in histopathology images by deep regression of "
        "the distance map, IEEE Transactions on Medical Imaging 38(2), 2019, "
        "doi:10.1109/TMI.2018.2865709"
    ),
    homepage="https://doi.org/10.5281/zenodo.1175282",
    layout="Slide_NN/NN_K.png with masks of the same names in GT_NN/",
    read=read,
)
