"""NuInsSeg: H&E of 31 human and mouse organs at 40x, nuclei as label images."""

from __future__ import annotations

import functools
import pathlib

from histojax.data.datasets import layout
from histojax.imaging.reader import MAX_PIXELS

_IMAGES = "tissue images"
# The corrected labels come first; the release has both.
_LABELS = ("label masks modify", "label masks")
_LAYOUT = "ORGAN/tissue images/NAME.png with ORGAN/label masks modify/NAME.tif"


def read(root: pathlib.Path, max_pixels: int = MAX_PIXELS) -> layout.Contents:
    """Pairs images and labels of each organ.

    Patients are not published, and images of one organ may share one: the organ is the group.
    """
    files = layout.files_of(root)
    images = _in_folder(files, _IMAGES, (".png",))
    labels: dict[str, layout.File] = {}
    for folder in reversed(_LABELS):
        labels |= _in_folder(files, folder, (".tif", ".tiff"))
    if not images or not labels:
        raise layout.unrecognised(root, _LAYOUT)
    return layout.Contents(
        [
            layout.Example(
                name=image.stem,
                group=image.place[-2].replace(" ", "-"),
                part="train",
                load=functools.partial(layout.read_pair, image.path, mask.path, max_pixels),
            )
            for _, image, mask in layout.pairs(
                images, labels, expected=f"{_LABELS[0]}/{{}}.tif of its organ"
            )
        ],
        splits={"": {"train": ["train"]}},
    )


def _in_folder(
    files: list[layout.File], folder: str, suffixes: tuple[str, ...]
) -> dict[str, layout.File]:
    """Returns "ORGAN/NAME" -> file, of the files in ORGAN/folder/."""
    return layout.by_key(
        (
            file
            for file in files
            if len(file.place) > 1 and file.place[-1] == folder and file.suffix in suffixes
        ),
        lambda file: f"{file.place[-2]}/{file.stem}",
    )


DATASET = layout.Dataset(
    name="nuinsseg",
    title="NuInsSeg, nuclei of 31 human and mouse organs",
    licence="CC BY 4.0",
    citation=(
        "A. Mahbod et al., NuInsSeg: a fully annotated dataset for nuclei instance segmentation "
        "in H&E-stained histological images, Scientific Data 11, 2024, "
        "doi:10.1038/s41597-024-03117-2"
    ),
    homepage="https://doi.org/10.5281/zenodo.10518968",
    obtain="download the archive from Zenodo (or Kaggle, ipateam/nuinsseg)",
    layout=_LAYOUT,
    read=read,
)
