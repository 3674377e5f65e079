"""NuInsSeg: H&E of 31 human and mouse organs at 40x, nuclei as label images."""

from pathlib import Path

from histojax.data.datasets import layout

# The corrected labels come first; the release has both.
_LABELS = ("label masks modify", "label masks")


def read(root: Path, max_pixels: int) -> layout.Contents:
    """Pairs images and labels; patients are not published, so the organ is the group."""
    files = layout.files_of(root)
    images = _in_folder(files, "tissue images", (".png",))
    labels: dict[str, Path] = {}
    for folder in reversed(_LABELS):
        labels |= _in_folder(files, folder, (".tif", ".tiff"))
    expected = f"{_LABELS[0]}/{{}}.tif of its organ"
    pairs = layout.pairs(root, DATASET.layout, images, labels, expected=expected)
    return layout.label_images(
        ((image.stem, image.parts[-3].replace(" ", "-"), image, mask) for _, image, mask in pairs),
        max_pixels,
    )


def _in_folder(files: list[Path], folder: str, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """{"ORGAN/NAME": file} of the files in ORGAN/folder/."""
    return layout.by_key(
        (f for f in files if f.parent.name == folder and f.suffix.lower() in suffixes),
        lambda file: f"{file.parts[-3]}/{file.stem}",
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
    layout="ORGAN/tissue images/NAME.png with ORGAN/label masks modify/NAME.tif",
    read=read,
)
