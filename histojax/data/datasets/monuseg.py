"""MoNuSeg 2018: H&E of seven organs at 40x, nuclei outlined in Aperio XML."""

import functools
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import skimage.draw

from histojax.data.datasets import layout
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
    regions = read_regions(annotation)
    instances = draw_regions(regions, *hr.shape[:2])
    if regions and not instances.any():
        raise UserError(
            f"{annotation}: none of its {len(regions)} regions lies in {image.name} of "
            f"{hr.shape[0]} x {hr.shape[1]} px: give the image and the annotation of one release"
        )
    return {"hr": hr, "instances": instances}


def read_regions(path: Path) -> list[np.ndarray]:
    """The polygons of an Aperio ImageScope file, float (vertices, 2) of (y, x) px each.

    Pixel centres are at whole numbers. UserError for a damaged file, or no Aperio annotation.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, UnicodeError, LookupError, ValueError) as error:
        raise UserError(
            f"{path} is not valid XML ({error}): restore it from the data set"
        ) from error
    if root.tag != "Annotations" or root.find("Annotation/Regions") is None:
        raise UserError(
            f"{path} is not an Aperio annotation (Annotations / Annotation / Regions / Region): "
            "give the XML files of the data set"
        )
    regions = []
    for number, region in enumerate(root.iterfind("Annotation/Regions/Region"), 1):
        try:
            vertices = [
                [float(vertex.attrib[axis]) for axis in "YX"]
                for vertex in region.iterfind("Vertices/Vertex")
            ]
            if not np.isfinite(vertices).all():
                raise ValueError("one is not finite")
        except (KeyError, ValueError) as error:
            raise UserError(
                f"{path}: a vertex of region {number} has no numbers X and Y ({error}): restore "
                "the file from the data set"
            ) from error
        regions.append(np.array(vertices, np.float64).reshape(-1, 2))
    return regions


def draw_regions(regions: list[np.ndarray], height: int, width: int) -> np.ndarray:
    """int32 (height, width): the number of the first region that covers a pixel, from 1.

    A pixel whose centre lies on an edge is covered. What lies outside the image is cut off.
    """
    labels = np.zeros((height, width), np.int32)
    for number, region in enumerate(regions, 1):
        if not len(region):
            continue
        rows, columns = skimage.draw.polygon(region[:, 0], region[:, 1], labels.shape)
        free = labels[rows, columns] == 0
        labels[rows[free], columns[free]] = number
    return labels


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
