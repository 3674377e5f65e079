"""TNBC: H&E of triple-negative breast cancer at 40x (Naylor et al.), binary nuclear masks."""

from __future__ import annotations

import functools
import pathlib
import re

from histojax.data.datasets import layout
from histojax.imaging.reader import MAX_PIXELS

_LAYOUT = "Slide_NN/NN_K.png with masks of the same names in GT_NN/"


def read(root: pathlib.Path, max_pixels: int = MAX_PIXELS) -> layout.Contents:
    """Pairs Slide_NN/NAME with GT_NN/NAME; the slide number is the patient."""
    files = [file for file in layout.files_of(root) if file.suffix == ".png"]
    images = layout.by_key((file for file in files if _number(file, "slide")), _key)
    masks = layout.by_key((file for file in files if _number(file, "gt")), _key)
    if not images or not masks:
        raise layout.unrecognised(root, _LAYOUT)
    return layout.Contents(
        [
            layout.Example(
                name=image.stem,
                group=f"slide-{_number(image, 'slide')}",
                part="train",
                load=functools.partial(layout.read_pair, image.path, mask.path, max_pixels),
            )
            for _, image, mask in layout.pairs(images, masks, expected="GT_{}.png")
        ],
        mpp=0.25,
        splits={"": {"train": ["train"]}},
    )


def _number(file: layout.File, folder: str) -> str:
    match = re.fullmatch(rf"{folder}_(\d+)", file.place[-1], re.IGNORECASE)
    return match[1] if match else ""


def _key(file: layout.File) -> str:
    return f"{file.place[-1].partition('_')[2]}/{file.stem}"


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
    obtain="download TNBC_NucleiSegmentation.zip from Zenodo",
    layout=_LAYOUT,
    read=read,
)
