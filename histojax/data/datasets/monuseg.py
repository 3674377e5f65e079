"""MoNuSeg 2018: H&E of seven organs at 40x, nuclei outlined in Aperio XML."""

import functools
from pathlib import Path

from histojax.data.datasets import layout, polygons
from histojax.data.sources.splits import group_of
from histojax.errors import UserError
from histojax.imaging.reader import read_image

# The 14 images of the challenge's test set, of 14 patients, none of whom is in the training set.
TEST_PATIENTS = (
    *("TCGA-2Z-A9J9", "TCGA-44-2665", "TCGA-69-7764", "TCGA-A6-6782", "TCGA-AC-A2FO"),
    *("TCGA-AO-A0J2", "TCGA-CU-A0YN", "TCGA-EJ-A46H", "TCGA-FG-A4MU", "TCGA-GL-6846"),
    *("TCGA-HC-7209", "TCGA-HT-8564", "TCGA-IZ-8196", "TCGA-ZF-A9R5"),
)


def read(root: Path, max_pixels: int) -> layout.Contents:
    """Pairs every TIFF with the XML of its name; the patients decide which images test."""
    files = layout.files_of(root)
    images = layout.by_stem(files, (".tif", ".tiff"))
    annotations = layout.by_stem(files, (".xml",))
    examples = []
    pairs = layout.pairs(root, DATASET.layout, images, annotations, expected="{}.xml")
    for name, image, annotation in pairs:
        group = group_of(name)
        part = "test" if group in TEST_PATIENTS else "train"
        load = functools.partial(_load, image, annotation, max_pixels)
        examples.append(layout.Example(name, group, part, load))
    return layout.Contents(examples, mpp=0.25)


def _load(image: Path, annotation: Path, max_pixels: int) -> layout.Record:
    """Reads an image and draws its nuclei; where outlines overlap, the first one wins."""
    hr = read_image(image, max_pixels=max_pixels)
    regions = polygons.read_regions(annotation)
    instances = polygons.draw_regions(regions, *hr.shape[:2])
    if regions and not instances.any():
        raise UserError(
            f"{annotation}: none of its {len(regions)} regions lies in {image.name} of "
            f"{hr.shape[0]} x {hr.shape[1]} px: give the image and the annotation of one release"
        )
    return {"hr": hr, "instances": instances}


DATASET = layout.Dataset(
    name="monuseg",
    title="MoNuSeg 2018, multi-organ nuclei segmentation",
    licence="CC BY-NC-SA 4.0",
    citation=(
        "N. Kumar et al., A multi-organ nucleus segmentation challenge, IEEE Transactions on "
        "Medical Imaging 39(5), 2020, doi:10.1109/TMI.2019.2947628"
    ),
    homepage="https://monuseg.grand-challenge.org/Data/",
    layout="Tissue Images/NAME.tif with Annotations/NAME.xml, or NAME.tif beside NAME.xml",
    read=read,
)
